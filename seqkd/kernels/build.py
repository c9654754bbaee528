"""Compile C++ kernels on the machine they run on, once, and load them."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from seqkd.progress import say

if TYPE_CHECKING:  # kernels of text and lists are compiled without torch
    from torch import Tensor

FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread", "-fno-math-errno")


def cache_folder() -> Path:
    """Where compiled kernels are kept: `$XDG_CACHE_HOME/seqkd`, or `~/.cache/seqkd`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "seqkd"


def compiled(source: Path, *, stage: str, otherwise: str) -> ctypes.CDLL | None:
    """A library of kernels.

    Args:
        source: What is compiled.
        stage: Named in the line that says why there are none.
        otherwise: What that line says happens then.

    Returns:
        None where there is no compiler or it fails; one line says so.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        say(f"{stage}: no C++ compiler found (CXX, g++, clang++); {otherwise}")
        return None
    try:
        return ctypes.CDLL(str(_built(compiler, source)))
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        say(f"{stage}: the CPU kernels could not be built; {otherwise}: {detail.strip()[:500]}")
        return None


def processor() -> str:
    """What `-march=native` depends on: a cache on a shared home serves machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def included(source: Path) -> list[Path]:
    """The file and all of ours that it includes, directly or not."""
    found = [source]
    for path in found:
        names = re.findall(r'^#include "(.+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
        found += dict.fromkeys(other for name in names if (other := (path.parent / name).resolve()) not in found)
    return found


def _built(compiler: str, source: Path) -> Path:
    key = hashlib.sha256()
    for part in (compiler, *FLAGS, platform.machine(), processor()):
        key.update(part.encode() + b"\0")
    for path in included(source):
        key.update(path.read_bytes())
    library = cache_folder() / f"kernels-{key.hexdigest()[:16]}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may build at once: each writes its own file, the last rename wins, all are alike.
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            built = Path(folder) / library.name
            command = [compiler, *FLAGS, str(source), "-o", str(built)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
            built.rename(library)
    return library


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """Where a tensor's numbers begin, for a kernel; null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())

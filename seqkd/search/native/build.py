"""Compile the CPU kernels on the machine they run on, once, and load them."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from seqkd.progress import say

SOURCES = (
    "api.cpp",
    "decoder.h",
    "parallel.h",
    "layers.h",
    "attention.h",
    "frontier.h",
    "workers.h",
    "blocks.h",
    "gemm.h",
    "vector.h",
)
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread", "-fno-math-errno")


def cache_folder() -> Path:
    """Where compiled kernels are kept: `$XDG_CACHE_HOME/seqkd`, or `~/.cache/seqkd`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "seqkd"


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The compiled kernels; None, and one line that says so, where there is no compiler or it fails."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        say("search: no C++ compiler found (CXX, g++, clang++); decoding goes on in plain torch, several times slower")
        return None
    try:
        path = _compiled(compiler)
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        say(f"search: the CPU kernels could not be built, decoding goes on in plain torch: {detail.strip()[:500]}")
        return None
    library.seqkd_model_new.restype = ctypes.c_void_p
    library.seqkd_state_new.restype = ctypes.c_void_p
    return library


def _compiled(compiler: str) -> Path:
    here = Path(__file__).parent
    key = hashlib.sha256()
    for part in (compiler, *FLAGS, platform.machine(), _processor()):
        key.update(part.encode() + b"\0")
    for name in SOURCES:
        key.update((here / name).read_bytes())
    path = cache_folder() / f"kernels-{key.hexdigest()[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may build at once: each writes its own file, the last rename wins, all are alike.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / path.name
            command = [compiler, *FLAGS, str(here / SOURCES[0]), "-o", str(built)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
            built.rename(path)
    return path


def _processor() -> str:
    """What `-march=native` depends on: a cache on a shared home serves machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))

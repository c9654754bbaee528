"""Parts of the kernels, compiled by themselves."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from pathlib import Path

from seqkd.models.native.build import FLAGS, processor
from seqkd.search.native import build

NATIVE = "-march=native"
# What other processors' kernels are compiled for, where this one runs them: AVX2, and whatever x86-64 there is.
OTHERS = (
    [target for target, needs in (("-march=x86-64-v3", "avx2"), ("-march=x86-64", "")) if needs in processor()]
    if platform.machine() == "x86_64"
    else []
)


def flags_for(target: str) -> list[str]:
    """The compiler's flags, with `target` in the place of this processor."""
    return [target if flag == NATIVE else flag for flag in FLAGS]


def harness(folder: Path, source: str, target: str = NATIVE) -> ctypes.CDLL:
    """A library of `source`, C++ that may include the kernels' headers, built in `folder` as the kernels are."""
    (folder / "harness.cpp").write_text(source)
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    assert compiler is not None
    command = [compiler, *flags_for(target), f"-I{Path(build.__file__).parent}", "harness.cpp", "-o", "harness.so"]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "harness.so"))

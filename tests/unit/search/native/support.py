"""Parts of the kernels, compiled by themselves."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

from seqkd.models.native.build import FLAGS
from seqkd.search.native import build


def harness(folder: Path, source: str) -> ctypes.CDLL:
    """A library of `source`, C++ that may include the kernels' headers, built in `folder` as the kernels are."""
    (folder / "harness.cpp").write_text(source)
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    assert compiler is not None
    command = [compiler, *FLAGS, f"-I{Path(build.__file__).parent}", "harness.cpp", "-o", "harness.so"]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "harness.so"))

"""The kernels of the CPU's search engine."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from seqkd.kernels.build import compiled

_SOURCE = Path(__file__).parent / "cpp" / "decoding" / "api.cpp"


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The compiled kernels; None, and one line that says so, where there is no compiler or it fails."""
    library = compiled(_SOURCE, stage="search", otherwise="decoding goes on in plain torch, several times slower")
    if library is not None:
        library.seqkd_model_new.restype = ctypes.c_void_p
        library.seqkd_state_new.restype = ctypes.c_void_p
    return library

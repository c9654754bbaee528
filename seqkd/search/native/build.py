"""The kernels of the CPU's search engine."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from seqkd.models.native.build import compiled

_HERE = Path(__file__).parent
SOURCES = (
    "api.cpp",
    "candidates.h",
    "decoder.h",
    "parallel.h",
    "recurrent.h",
    "layers.h",
    "attention.h",
    "frontier.h",
    "workers.h",
    "blocks.h",
    "gemm.h",
    "operands.h",
    "../../models/native/memory.h",
    "../../models/native/pairs.h",
    "../../models/native/vector.h",
)


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The compiled kernels; None, and one line that says so, where there is no compiler or it fails."""
    library = compiled(
        [_HERE / name for name in SOURCES],
        stage="search",
        otherwise="decoding goes on in plain torch, several times slower",
    )
    if library is not None:
        library.seqkd_model_new.restype = ctypes.c_void_p
        library.seqkd_state_new.restype = ctypes.c_void_p
    return library

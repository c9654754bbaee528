"""The kernels of sentence BLEU."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from seqkd.kernels.build import compiled

_SOURCE = Path(__file__).parent / "cpp" / "bleu.cpp"


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The compiled kernels; None if there is no compiler."""
    library = compiled(_SOURCE, stage="select", otherwise="sentence BLEU goes on in NumPy, slower")
    if library is not None:
        library.seqkd_words.restype = ctypes.c_int64
    return library

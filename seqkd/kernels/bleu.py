"""The kernels of sentence BLEU."""

from __future__ import annotations

import ctypes
import functools

from seqkd.kernels.build import CPP, DOUBLE, INT, INT64, POINTER, Library, load

LIBRARY = Library(
    name="bleu",
    source=CPP / "bleu.cpp",
    stage="select",
    otherwise="sentence BLEU runs in NumPy, more slowly",
    functions={
        "seqkd_words": (INT64, (INT, POINTER, POINTER, INT64, POINTER, POINTER)),
        "seqkd_bleu": (None, (POINTER, POINTER, INT64, *3 * (POINTER,), INT, DOUBLE, INT, INT, POINTER)),
    },
)


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None; see `load`."""
    return load(LIBRARY)

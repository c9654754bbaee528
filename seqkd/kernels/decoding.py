"""The kernels of the search engine for CPUs."""

from __future__ import annotations

import ctypes
import functools

from seqkd.kernels.build import CPP, FLOAT, INT, INT64, POINTER, Library, load

LIBRARY = Library(
    name="decoding",
    source=CPP / "decoding" / "api.cpp",
    stage="search",
    otherwise="decoding runs in plain torch, several times slower",
    functions={
        "seqkd_arithmetics": (INT, ()),
        "seqkd_model_new": (POINTER, (*13 * (INT,), FLOAT, FLOAT, *4 * (POINTER,))),
        "seqkd_model_free": (None, (POINTER,)),
        "seqkd_set_weight": (None, (POINTER, INT, INT, INT, POINTER, POINTER, INT, INT)),
        "seqkd_set_lstm": (None, (POINTER, INT, INT, INT, POINTER, POINTER, INT, INT)),
        "seqkd_set_peepholes": (None, (POINTER, INT, POINTER)),
        "seqkd_set_norm": (None, (POINTER, INT, INT, INT, POINTER, POINTER)),
        "seqkd_state_new": (POINTER, (POINTER, INT, INT, INT, INT)),
        "seqkd_state_free": (None, (POINTER,)),
        "seqkd_admit": (None, (POINTER, POINTER, INT, POINTER, POINTER, INT, POINTER)),
        "seqkd_release": (None, (POINTER, INT, POINTER)),
        "seqkd_step": (None, (*5 * (POINTER,), INT, *4 * (POINTER,))),
        "seqkd_step_logits": (None, 4 * (POINTER,)),
        "seqkd_reorder": (None, (POINTER, POINTER)),
        "seqkd_frontier_advance": (None, (POINTER, INT, *5 * (POINTER,))),
        "seqkd_shrink": (None, (POINTER, INT, POINTER)),
        "seqkd_encode": (None, (POINTER, INT, POINTER, INT, POINTER, POINTER)),
        "seqkd_decode": (None, (POINTER, INT, POINTER, INT, POINTER, POINTER, INT, POINTER, POINTER)),
        "seqkd_top_pieces": (None, (POINTER, INT, POINTER, INT, INT, *4 * (POINTER,))),
        "seqkd_upsampled": (None, (POINTER, INT, POINTER, INT, POINTER, POINTER)),
        "seqkd_best_upsampled": (None, (POINTER, INT, POINTER, INT, POINTER, INT, *3 * (POINTER,))),
        "seqkd_score": (
            None,
            (POINTER, INT, POINTER, INT, POINTER, INT, POINTER, INT64, *3 * (POINTER,)),
        ),
    },
)


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None; see `load`."""
    return load(LIBRARY)

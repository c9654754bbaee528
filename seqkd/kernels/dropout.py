"""Dropout for training on CPUs, in float32: torch draws random numbers on one thread, one at a time."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from seqkd.kernels.build import CPP, FLOAT, INT, INT64, POINTER, UINT32, UINT64, Library, load, pointer

STEPS = 1 << 16  # shares of the features are multiples of one over this
LIBRARY = Library(
    name="dropout",
    source=CPP / "training" / "dropout.cpp",
    stage="train",
    otherwise="dropout goes on in plain torch, slower",
    functions={"seqkd_dropout": (None, (POINTER, POINTER, INT64, UINT32, FLOAT, UINT64, INT, POINTER))},
)


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The compiled kernel, or None: see `load`."""
    return load(LIBRARY)


def serves(x: Tensor, *, library: Callable[[], ctypes.CDLL | None] = kernels) -> bool:
    """Whether the kernel serves a tensor: float32 on a CPU, if `library` gives the compiled kernel."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and library() is not None


def drop(x: Tensor, onto: Tensor | None, steps: int, seed: int) -> Tensor:
    """Dropout (Srivastava et al. 2014), what stays scaled up.

    Args:
        x: Any shape, float32.
        onto: What the result is added to, of the same shape; None for nothing.
        steps: Of `STEPS` features so many become zero, less than all.
        seed: 64 bits that say which: the same ones in every call with a tensor of this size.

    Returns:
        Of `x`'s shape, contiguous.
    """
    library = kernels()
    assert library is not None
    x, onto = x.contiguous(), None if onto is None else onto.contiguous()
    out = torch.empty_like(x)
    library.seqkd_dropout(
        pointer(x),
        pointer(onto),
        x.numel(),
        steps,
        1 / (1 - steps / STEPS),
        seed,
        torch.get_num_threads(),
        pointer(out),
    )
    return out

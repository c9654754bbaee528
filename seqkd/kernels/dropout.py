"""Dropout for training on CPUs, in float32. torch draws its random numbers one at a time on a single thread."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from seqkd.kernels.build import CPP, FLOAT, INT, INT64, POINTER, UINT32, UINT64, Library, load, pointer

STEPS = 1 << 16  # the dropout rate is a multiple of 1 / STEPS
LIBRARY = Library(
    name="dropout",
    source=CPP / "training" / "dropout.cpp",
    stage="train",
    otherwise="dropout runs in plain torch, more slowly",
    functions={"seqkd_dropout": (None, (POINTER, POINTER, INT64, UINT32, FLOAT, UINT64, INT, POINTER))},
)


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """Return the compiled kernel, or None; see `load`."""
    return load(LIBRARY)


def can_drop(x: Tensor, *, library: Callable[[], ctypes.CDLL | None] = kernels) -> bool:
    """Whether the kernel supports a tensor: it must be float32 on a CPU, and `library` must return the kernel."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and library() is not None


def drop(x: Tensor, onto: Tensor | None, steps: int, seed: int) -> Tensor:
    """Apply dropout (Srivastava et al. 2014). Features that stay are scaled up.

    Args:
        x: A float32 tensor of any shape.
        onto: A tensor of the same shape to which the result is added, or None.
        steps: The dropout rate as a number of features among `STEPS`, less than `STEPS`.
        seed: 64 bits that decide which features are dropped. Equal seeds drop the same features of equal sizes.

    Returns:
        A contiguous tensor of the shape of `x`.
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

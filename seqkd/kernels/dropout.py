"""Dropout for training on CPUs, in float32: torch draws random numbers on one thread, one at a time."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from seqkd.kernels.build import compiled, pointer

STEPS = 1 << 16  # shares of the features are multiples of one over this
_SOURCE = Path(__file__).parent / "cpp" / "training" / "dropout.cpp"


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The compiled kernel; None where there is no compiler."""
    return compiled(_SOURCE, stage="train", otherwise="dropout goes on in plain torch, slower")


def serves(x: Tensor) -> bool:
    """Whether the kernel can have this: float32 on a CPU."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and kernels() is not None


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
        ctypes.c_int64(x.numel()),
        ctypes.c_uint32(steps),
        ctypes.c_float(1 / (1 - steps / STEPS)),
        ctypes.c_uint64(seed),
        torch.get_num_threads(),
        pointer(out),
    )
    return out

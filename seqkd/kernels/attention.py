"""Attention for training on CPUs, in float32. torch's own kernel is designed for sequences longer than sentences."""

from __future__ import annotations

import ctypes
import functools
import math

import torch
from torch import Tensor

from seqkd.kernels.build import CPP, INT, POINTER, Library, load, pointer
from seqkd.kernels.widths import head_fits


class _Shape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("batch", "heads", "targets", "sources", "width", "causal")),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_int64 * 3) for name in ("query", "key", "value", "out", "grad")),
    )


LIBRARY = Library(
    name="attention",
    source=CPP / "training" / "attention.cpp",
    stage="train",
    otherwise="attention runs in plain torch, more slowly",
    functions={
        "seqkd_attend": (None, (ctypes.POINTER(_Shape), INT, *6 * (POINTER,))),
        "seqkd_attend_backward": (None, (ctypes.POINTER(_Shape), INT, *9 * (POINTER,))),
    },
)


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None; see `load`."""
    return load(LIBRARY)


def can_attend(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether the kernels support these tensors: `[batch, heads, length, width]` float32 on a CPU."""
    return (
        all(x.device.type == "cpu" and x.dtype == torch.float32 and x.stride(-1) == 1 for x in (query, key, value))
        and head_fits(query.size(-1))
        and min(query.size(2), key.size(2)) > 0
        and kernels() is not None
    )


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention (Vaswani et al. 2017, eq. 1).

    Args:
        query: `[batch, heads, target, width]`.
        key: `[batch, heads, source, width]`.
        value: `[batch, heads, source, width]`.
        mask: `[batch, source]` bool, True where keys may be seen. The result of a query that sees no key is zero.
        causal: Whether a query sees only the keys up to its own position.

    Returns:
        The result `[batch, heads, target, width]`, with positions outermost in memory, and the log-sums of the scores
        `[batch, heads, target]`, which `attend_backward` needs.
    """
    batch, heads, targets, width = query.shape
    out = query.new_empty(batch, targets, heads, width).transpose(1, 2)
    log_sums = query.new_empty(batch, heads, targets)
    shape = _shape(query, key, value, out, out, causal)
    pointers = map(pointer, (query, key, value, mask, out, log_sums))
    _library().seqkd_attend(ctypes.byref(shape), torch.get_num_threads(), *pointers)
    return out, log_sums


def attend_backward(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, log_sums: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value, each of the same shape, with positions outermost in memory."""
    if grad.stride(-1) != 1:
        grad = grad.contiguous()
    found = [x.new_empty(x.size(0), x.size(2), x.size(1), x.size(3)).transpose(1, 2) for x in (query, key, value)]
    shape = _shape(query, key, value, found[0], grad, causal)
    pointers = map(pointer, (query, key, value, mask, grad, log_sums, *found))
    _library().seqkd_attend_backward(ctypes.byref(shape), torch.get_num_threads(), *pointers)
    return found[0], found[1], found[2]


def _shape(query: Tensor, key: Tensor, value: Tensor, out: Tensor, grad: Tensor, causal: bool) -> _Shape:
    def strides(x: Tensor) -> ctypes.Array[ctypes.c_int64]:
        return (ctypes.c_int64 * 3)(*x.stride()[:3])

    batch, heads, targets, width = query.shape
    numbers = (batch, heads, targets, key.size(2), width, int(causal), 1.0 / math.sqrt(width))
    return _Shape(*numbers, *map(strides, (query, key, value, out, grad)))


def _library() -> ctypes.CDLL:
    library = kernels()
    assert library is not None
    return library

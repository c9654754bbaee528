"""Linear layers and the softmax over a vocabulary for training in bf16 on CPUs with bf16 products.

Such CPUs have a matrix unit (AMX) or the slower AVX-512 products of bf16 pairs. The kernels round operands to bf16 on
the way into the products and sum in float32; no bf16 tensor is ever written. torch's products need bf16 tensors, which
cost more to make and to convert back than the products themselves, and compile a kernel for each new shape.
docs/performance.md gives the speed.
"""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from seqkd.kernels.build import CPP, FLOAT, INT, POINTER, Library, load, pointer

WIDTH = 32  # widths must be multiples of this number
LIBRARY = Library(
    name="products",
    source=CPP / "training" / "training.cpp",
    stage="train",
    otherwise="bf16 training runs in plain torch, more slowly",
    functions={
        "seqkd_training_unit": (INT, ()),
        "seqkd_linear": (None, (*4 * (POINTER,), *4 * (INT,))),
        "seqkd_linear_backward": (None, (*6 * (POINTER,), *4 * (INT,))),
        "seqkd_feed_forward": (None, (*6 * (POINTER,), *4 * (INT,))),
        "seqkd_feed_forward_backward": (None, (*7 * (POINTER,), *4 * (INT,))),
        "seqkd_softmax": (None, (*5 * (POINTER,), *5 * (INT,), *3 * (POINTER,))),
        "seqkd_best": (None, (*2 * (POINTER,), *4 * (INT,), POINTER)),
        "seqkd_scatter": (None, (*2 * (POINTER,), FLOAT, *3 * (INT,), POINTER)),
    },
)


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None; see `load`. None, too, if the instruction set has no bf16 products."""
    library = load(LIBRARY)
    return library if library is not None and library.seqkd_training_unit() else None


def can_multiply(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels can multiply `x` `[rows, inputs]` by `weight` `[outputs, inputs]`.

    They serve autocast to bf16 on a CPU.
    """
    return (
        x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and not weight.size(0) % WIDTH
        and not weight.size(1) % WIDTH
        and x.numel() > 0
        and kernels() is not None
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Map `[rows, inputs]` to `[rows, outputs]`. All tensors are float32 and contiguous."""
    y = torch.empty(len(x), len(weight))
    _library().seqkd_linear(_at(x), _at(weight), _at(bias), _at(y), len(x), *_sizes(weight), _threads())
    return y


def linear_backward(
    grad: Tensor, x: Tensor, weight: Tensor, *, to_x: bool, biased: bool
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Return the gradients of `linear`.

    Args:
        grad: `[rows, outputs]`, the gradient of the result.
        x: `[rows, inputs]`, the input.
        weight: `[outputs, inputs]`.
        to_x: Whether the gradient of `x` is needed.
        biased: Whether the layer has a bias.

    Returns:
        The gradients of `x`, `weight` and the bias; None in place of a gradient that is not needed.
    """
    grad_x = torch.empty_like(x) if to_x else None
    grad_w = torch.empty_like(weight)
    grad_bias = torch.empty(len(weight)) if biased else None
    pointers = map(_at, (grad, x, weight, grad_x, grad_w, grad_bias))
    _library().seqkd_linear_backward(*pointers, len(x), *_sizes(weight), _threads())
    return grad_x, grad_w, grad_bias


def feed_forward(x: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor, outer_bias: Tensor) -> Tensor:
    """Apply two linear layers with ReLU between them. The hidden values are never written to memory.

    Args:
        x: `[rows, dim]`; all float32 and contiguous.
        inner: `[hidden, dim]`.
        inner_bias: `[hidden]`.
        outer: `[dim, hidden]`.
        outer_bias: `[dim]`.

    Returns:
        `[rows, dim]`.
    """
    y = torch.empty_like(x)
    pointers = map(_at, (x, inner, inner_bias, outer, outer_bias, y))
    _library().seqkd_feed_forward(*pointers, len(x), *_sizes(inner), _threads())
    return y


def feed_forward_backward(
    grad: Tensor, x: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, inner, inner_bias, outer and outer_bias, given the gradient of the result."""
    hidden, dim = inner.shape
    grad_x, grads = torch.empty_like(x), torch.empty(2 * hidden * dim + hidden + dim)
    pointers = map(_at, (grad, x, inner, inner_bias, outer, grad_x, grads))
    _library().seqkd_feed_forward_backward(*pointers, len(x), dim, hidden, _threads())
    to_inner, to_outer, to_inner_bias, to_bias = torch.split(grads, [hidden * dim, hidden * dim, hidden, dim])
    return grad_x, to_inner.view(hidden, dim), to_inner_bias, to_outer.view(dim, hidden), to_bias


def log_sum_exp(x: Tensor, weight: Tensor) -> Tensor:
    """Return the log-sum-exp of the logits `x @ weight.T` of each row, `[rows]`."""
    sums = torch.empty(len(x))
    _softmax(x, weight, None, None, None, sums, None, None)
    return sums


def log_sum_exp_gradients(x: Tensor, weight: Tensor, shares: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return `log_sum_exp` and the gradients of its weighted sum over the rows.

    Args:
        x: `[rows, dim]`.
        weight: `[vocab, dim]`.
        shares: `[rows]`, the weight of each row in the sum, or None if all weights are 1.

    Returns:
        The log-sum-exp `[rows]`, and the gradients of `x` and `weight`.
    """
    sums, grad_x, grad_w = torch.empty(len(x)), torch.empty_like(x), torch.zeros_like(weight)
    _softmax(x, weight, weight, x, shares, sums, grad_x, grad_w)
    return sums, grad_x, grad_w


def expected_rows(x: Tensor, weight: Tensor, values: Tensor, y: Tensor, shares: Tensor, to: Tensor) -> Tensor:
    """Return the rows of one model's output layer that another model's softmax expects.

    Args:
        x: `[rows, dim]`.
        weight: `[vocab, dim]`; probabilities are the softmax of `x @ weight.T`.
        values: `[vocab, width]`.
        y: `[rows, width]`.
        shares: `[rows]`, the factor of each row's results.
        to: `[vocab, width]`; `probabilities.T @ y` is added to it.

    Returns:
        `probabilities @ values`, `[rows, width]`.
    """
    sums, expected = torch.empty(len(x)), torch.empty_like(y)
    _softmax(x, weight, values, y, shares, sums, expected, to)
    return expected


def argmax_logits(x: Tensor, weight: Tensor) -> Tensor:
    """Return the index of the largest of the logits `x @ weight.T` of each row, `[rows]`; the first of equal ones."""
    ids = torch.empty(len(x), dtype=torch.long)
    vocab, dim = weight.shape
    _library().seqkd_best(_at(x), _at(weight), len(x), dim, vocab, _threads(), _at(ids))
    return ids


def scatter_rows(to: Tensor, places: Tensor, x: Tensor, scale: float) -> None:
    """Add `scale * x[r]`, `[rows, dim]`, to row `places[r]` of `to`."""
    threads = _threads()
    _library().seqkd_scatter(_at(x), _at(places), scale, len(x), to.size(1), threads, _at(to))


def _softmax(
    x: Tensor,
    weight: Tensor,
    values: Tensor | None,
    y: Tensor | None,
    shares: Tensor | None,
    sums: Tensor,
    expected: Tensor | None,
    to: Tensor | None,
) -> None:
    vocab, dim = weight.shape
    width = 0 if values is None else values.size(1)
    inputs, results = map(_at, (x, weight, values, y, shares)), map(_at, (sums, expected, to))
    _library().seqkd_softmax(*inputs, len(x), dim, width, vocab, _threads(), *results)


def _library() -> ctypes.CDLL:
    library = kernels()
    assert library is not None
    return library


def _sizes(weight: Tensor) -> tuple[int, int]:
    return weight.size(1), weight.size(0)


def _threads() -> int:
    return torch.get_num_threads()


def _at(tensor: Tensor | None) -> ctypes.c_void_p:
    assert tensor is None or tensor.is_contiguous()
    return pointer(tensor)

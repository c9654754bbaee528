"""Products, attention and dropout with shortcuts for training on CPUs; elsewhere they are torch's own.

Measured in docs/performance.md. Where the CPU has a matrix unit, products in bf16 are kernels of our own
(`seqkd.kernels`); attention and dropout are on any CPU. oneDNN, behind torch's products, compiles a kernel for
every new shape, some milliseconds each, and keeps a thousand of them; batches have ever new shapes, so rows are filled
up to a few round numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqkd.kernels import attention, dropout
from seqkd.kernels import products as native

ROUND_ROWS = 256


def linear(x: Tensor, layer: nn.Linear, *, narrow: bool = False) -> Tensor:
    """`layer(x)`, `[..., inputs]` to `[..., outputs]`.

    Args:
        x: Any float type.
        layer: Its weights.
        narrow: Under autocast the result may stay in the lower type, for a cheap function between two layers.
            Elsewhere it does anyway; in training on a CPU sums of a float32 and a bf16 tensor are slow.
    """
    if native.serves(x, layer.weight):
        with torch.autocast("cpu", enabled=False):
            return cast(Tensor, _NativeLinear.apply(x, layer.weight, layer.bias))  # type: ignore[no-untyped-call]
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        low = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            return cast(Tensor, _Linear.apply(x, layer.weight, layer.bias, low, narrow))  # type: ignore[no-untyped-call]
    return cast(Tensor, layer(x))


def feed_forward(x: Tensor, inner: nn.Linear, outer: nn.Linear) -> Tensor:
    """`outer(relu(inner(x)))`, `[..., dim]` to `[..., dim]`; both have biases."""
    if native.serves(x, inner.weight):
        with torch.autocast("cpu", enabled=False):
            weights = (inner.weight, inner.bias, outer.weight, outer.bias)
            return cast(Tensor, _NativeFeedForward.apply(x, *weights))  # type: ignore[no-untyped-call]
    return linear(functional.relu(linear(x, inner, narrow=True)), outer)


def rounded_rows(x: Tensor, dtype: torch.dtype, multiple: int) -> Tensor:
    """`[rows, width]` as `dtype`, zeros below it up to a multiple of rows."""
    rows = -(-len(x) // multiple) * multiple
    if rows == len(x):
        return x.to(dtype).contiguous()
    full = torch.empty(rows, x.size(1), dtype=dtype, device=x.device)
    full[: len(x)].copy_(x)
    full[len(x) :].zero_()
    return full


class _NativeLinear(torch.autograd.Function):
    """A linear layer by the CPU's matrix unit: float32 in and out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.detach().reshape(-1, x.size(-1)).float().contiguous()
        ctx.save_for_backward(rows, weight)
        ctx.shape, ctx.dtype, ctx.biased = x.shape, x.dtype, bias is not None
        y = native.linear(rows, weight.detach(), None if bias is None else bias.detach())
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        grad = grads[0].reshape(len(rows), -1).float().contiguous()
        to_x, to_weight, to_bias = native.linear_backward(
            grad, rows, weight, to_x=ctx.needs_input_grad[0], biased=ctx.biased
        )
        return None if to_x is None else to_x.view(ctx.shape).to(ctx.dtype), to_weight, to_bias


class _NativeFeedForward(torch.autograd.Function):
    """Two linear layers with ReLU between, likewise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor, outer_bias: Tensor) -> Tensor:
        rows = x.detach().reshape(-1, x.size(-1)).float().contiguous()
        ctx.save_for_backward(rows, inner, inner_bias, outer)
        ctx.dtype = x.dtype
        return native.feed_forward(rows, inner, inner_bias, outer, outer_bias).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0].reshape(-1, grads[0].size(-1)).float().contiguous()
        to_x, *others = native.feed_forward_backward(grad, *ctx.saved_tensors)
        return to_x.view(grads[0].shape).to(ctx.dtype), *others


class _Linear(torch.autograd.Function):
    """A linear layer in a lower type whose products see few shapes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, narrow: bool) -> Tensor:
        rows = x.numel() // x.size(-1)
        full = rounded_rows(x.reshape(rows, -1), dtype, ROUND_ROWS)
        low = weight.to(dtype)
        ctx.save_for_backward(full, low)
        ctx.shape = x.shape
        ctx.biased = bias is not None
        product = full @ low.t() if bias is None else torch.addmm(bias.to(dtype), full, low.t())
        product = product[:rows].view(*x.shape[:-1], -1)
        return product if narrow else product.float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        full, low = ctx.saved_tensors
        (grad,) = grads
        flat = grad.reshape(-1, grad.size(-1))
        rounded = rounded_rows(flat, low.dtype, ROUND_ROWS)
        to_x = torch.mm(rounded, low)[: len(flat)].view(ctx.shape)
        return to_x, torch.mm(rounded.t(), full), rounded.sum(0) if ctx.biased else None, None, None


Watcher = Callable[[Tensor], None]
"""Is given attention's probabilities, `[batch, heads, target, source]` float32."""


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    watcher: Watcher | None = None,
) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1).

    Args:
        query: `[batch, heads, target, head_dim]`.
        key: `[batch, heads, source, head_dim]`.
        value: Likewise.
        mask: `[batch, 1, 1, source]`, True where keys may be seen.
        causal: A query sees the keys up to its own position; not together with `mask`.
        watcher: See `Watcher`; with one, no fused kernel is used, because these never hold the probabilities.

    Returns:
        `[batch, heads, target, head_dim]`.
    """
    if watcher is not None:
        return _attend_watched(query, key, value, mask, causal, watcher)
    # Training runs the model without gradients, too: glancing does.
    if query.device.type == "cpu" and (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")):
        query, key, value = query.float(), key.float(), value.float()
        with torch.autocast("cpu", enabled=False):
            if attention.serves(query, key, value):
                keys = None if mask is None else mask[:, 0, 0].expand(len(query), -1).contiguous()
                return cast(Tensor, _Attention.apply(query, key, value, keys, causal))  # type: ignore[no-untyped-call]
            return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)


def _attend_watched(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, watcher: Watcher
) -> Tensor:
    """Attention in single steps, in float32."""
    with torch.autocast(query.device.type, enabled=False):
        scores = query.float() @ key.float().transpose(-1, -2) * query.size(-1) ** -0.5
        if causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        probabilities = scores.softmax(-1)
        watcher(probabilities)
        return torch.matmul(probabilities, value.float()).to(value.dtype)


class _Attention(torch.autograd.Function):
    """Attention by the CPU's kernels."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, keys: Tensor | None, causal: bool) -> Tensor:
        out, log_sums = attention.attend(query, key, value, keys, causal)
        ctx.save_for_backward(query, key, value, keys, log_sums)
        ctx.causal = causal
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, keys, log_sums = ctx.saved_tensors
        return *attention.attend_backward(query, key, value, keys, ctx.causal, log_sums, grads[0]), None, None


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014), reproducible from torch's seed.

    Args:
        p: Share of the features that become zero, less than 1; by the kernel a multiple of 2**-16.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """`x` after dropout, plus `onto` where it is given; the same shape. In evaluation nothing is dropped."""
        if self.training and self.p > 0.0:
            if dropout.serves(x) and (onto is None or dropout.serves(onto)):
                return cast(Tensor, _Dropout.apply(x, onto, self.p))  # type: ignore[no-untyped-call]
            x = functional.dropout(x, self.p)
        return x if onto is None else onto + x


class _Dropout(torch.autograd.Function):
    """Dropout by the CPU's kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, onto: Tensor | None, p: float) -> Tensor:
        ctx.drawn = round(p * dropout.STEPS), int(torch.empty((), dtype=torch.int64).random_())
        return dropout.drop(x, onto, *ctx.drawn)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return dropout.drop(grads[0], None, *ctx.drawn), grads[0] if ctx.needs_input_grad[1] else None, None

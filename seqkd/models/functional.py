"""Products, attention and dropout with faster paths for training on CPUs; on other devices torch's own are used.

docs/performance.md gives measurements. On CPUs with bf16 products, linear layers in bf16 use the kernels of
`seqkd.kernels`; attention and dropout use them on every CPU. torch's products use oneDNN, which compiles a kernel for
every new shape, in some milliseconds each, and caches a thousand of them. Batches have ever new shapes, so rows are
padded to a few round numbers.
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
    """Compute `layer(x)`, `[..., inputs]` to `[..., outputs]`.

    Args:
        x: The input, of any float type.
        layer: The linear layer.
        narrow: Whether the result may stay in the lower type under autocast on a CPU, where sums of a float32 and a
            bf16 tensor are slow. It suits a cheap function between two layers. On other devices the result always stays
            in the lower type.
    """
    if native.can_multiply(x, layer.weight):
        with torch.autocast("cpu", enabled=False):
            return cast(Tensor, _NativeLinear.apply(x, layer.weight, layer.bias))  # type: ignore[no-untyped-call]
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        low = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            return cast(Tensor, _Linear.apply(x, layer.weight, layer.bias, low, narrow))  # type: ignore[no-untyped-call]
    return cast(Tensor, layer(x))


def feed_forward(x: Tensor, inner: nn.Linear, outer: nn.Linear) -> Tensor:
    """Compute `outer(relu(inner(x)))`, `[..., dim]` to `[..., dim]`. Both layers have biases."""
    if native.can_multiply(x, inner.weight):
        with torch.autocast("cpu", enabled=False):
            weights = (inner.weight, inner.bias, outer.weight, outer.bias)
            return cast(Tensor, _NativeFeedForward.apply(x, *weights))  # type: ignore[no-untyped-call]
    return linear(functional.relu(linear(x, inner, narrow=True)), outer)


def pad_rows(x: Tensor, dtype: torch.dtype, multiple: int) -> Tensor:
    """Convert `[rows, width]` to `dtype`, and pad it with zero rows to a multiple of `multiple`."""
    rows = -(-len(x) // multiple) * multiple
    if rows == len(x):
        return x.to(dtype).contiguous()
    full = torch.empty(rows, x.size(1), dtype=dtype, device=x.device)
    full[: len(x)].copy_(x)
    full[len(x) :].zero_()
    return full


class _NativeLinear(torch.autograd.Function):
    """A linear layer on the CPU's bf16 products, with float32 input and output."""

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
    """Two linear layers with ReLU between them on the CPU's bf16 products, with float32 input and output."""

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
    """A linear layer in a lower type whose products have few shapes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, narrow: bool) -> Tensor:
        rows = x.numel() // x.size(-1)
        full = pad_rows(x.reshape(rows, -1), dtype, ROUND_ROWS)
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
        rounded = pad_rows(flat, low.dtype, ROUND_ROWS)
        to_x = torch.mm(rounded, low)[: len(flat)].view(ctx.shape)
        return to_x, torch.mm(rounded.t(), full), rounded.sum(0) if ctx.biased else None, None, None


Watcher = Callable[[Tensor], None]
"""A function that receives the probabilities of attention, `[batch, heads, target, source]` float32."""


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    watcher: Watcher | None = None,
) -> Tensor:
    """Compute scaled dot-product attention (Vaswani et al. 2017, eq. 1).

    Args:
        query: `[batch, heads, target, head_dim]`.
        key: `[batch, heads, source, head_dim]`.
        value: `[batch, heads, source, head_dim]`.
        mask: `[batch, 1, 1, source]`, True where keys may be seen.
        causal: Whether a query sees only the keys up to its own position. It cannot be combined with `mask`.
        watcher: See `Watcher`. With a watcher no fused kernel is used, because fused kernels never store the
            probabilities.

    Returns:
        `[batch, heads, target, head_dim]`.
    """
    if watcher is not None:
        return _attend_watched(query, key, value, mask, causal, watcher)
    # Training also runs the model without gradients, for example for glancing.
    if query.device.type == "cpu" and (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")):
        query, key, value = query.float(), key.float(), value.float()
        with torch.autocast("cpu", enabled=False):
            if attention.can_attend(query, key, value):
                keys = None if mask is None else mask[:, 0, 0].expand(len(query), -1).contiguous()
                return cast(Tensor, _Attention.apply(query, key, value, keys, causal))  # type: ignore[no-untyped-call]
            return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)


def leave_out_cudnn_attention(device: torch.device) -> None:
    """Keep torch from computing attention with cuDNN, in this whole process, if the device is a CUDA device.

    cuDNN makes a plan for each new combination of batch, lengths and strides. Batches of sentences have a new
    combination almost every time, and a plan takes longer than the attention. torch's other fused kernels take the same
    masks.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def _attend_watched(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, watcher: Watcher
) -> Tensor:
    """Compute attention in separate steps, in float32."""
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
    """Attention on the CPU kernels."""

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
        p: Share of the features that become zero, less than 1. The kernel rounds it to a multiple of 2**-16.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """Return `x` after dropout, plus `onto` if it is given, in the same shape. Evaluation drops nothing."""
        if self.training and self.p > 0.0:
            if dropout.can_drop(x) and (onto is None or dropout.can_drop(onto)):
                return cast(Tensor, _Dropout.apply(x, onto, self.p))  # type: ignore[no-untyped-call]
            x = functional.dropout(x, self.p)
        return x if onto is None else onto + x


class _Dropout(torch.autograd.Function):
    """Dropout on the CPU kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, onto: Tensor | None, p: float) -> Tensor:
        ctx.drawn = round(p * dropout.STEPS), int(torch.empty((), dtype=torch.int64).random_())
        return dropout.drop(x, onto, *ctx.drawn)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return dropout.drop(grads[0], None, *ctx.drawn), grads[0] if ctx.needs_input_grad[1] else None, None

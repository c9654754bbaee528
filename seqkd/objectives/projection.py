"""The output layer and its cross-entropy in one step, so that the logits of all tokens are never in memory together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from seqkd.kernels import products as native
from seqkd.models.functional import pad_rows

# Number of logits in a chunk. In float32 the product itself accumulates the weight's gradient. In lower types each
# chunk needs a pass over this gradient, so that fewer and larger chunks are faster. See docs/performance.md.
CHUNK_ELEMENTS = 1 << 22
CHUNK_ELEMENTS_LOW = 1 << 23
CHUNK_ELEMENTS_CUDA = 1 << 26
ROUND_ROWS = 64  # keeps the number of shapes of products small, see `seqkd.models.functional`


def rows_within(elements: int, vocab: int) -> int:
    """Return the number of rows of logits in a chunk, a multiple of ROUND_ROWS if `elements` is large enough."""
    step = max(1, elements // vocab)
    return step - step % padding_multiple(step)


def padding_multiple(step: int) -> int:
    """Return the number to a multiple of which the rows of a product are padded, for chunks of `step` rows."""
    return ROUND_ROWS if step >= ROUND_ROWS else 1


def projected_nll(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    smoothing: float,
    scales: Tensor | None = None,
    *,
    elements: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum the label-smoothed cross-entropy of `softmax(features @ weight.T)` (Szegedy et al. 2016, section 7).

    The target distribution is `(1 - smoothing) * one_hot + smoothing / vocab`, as in torch's `cross_entropy`.
    Rows are computed in chunks. The gradients of a chunk are computed at once, while its logits are in memory, which
    saves their storage and a second product. Under autocast the products use its type; the log-sum-exp is always
    float32.

    Args:
        features: `[tokens, dim]`, float32 or lower.
        weight: `[vocab, dim]`.
        targets: `[tokens]` int64.
        smoothing: Share of the uniform distribution, 0 for none.
        scales: `[tokens]` float32, the factor of each token's loss; None for 1.
        elements: Number of logits in a chunk; None for a number that suits type and device.

    Returns:
        The loss, and the unsmoothed negative log-likelihood without gradient; scalars in float32.
    """
    kind = features.device.type
    by_kernel = native.can_multiply(features, weight)
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    with torch.autocast(kind, enabled=False):
        if by_kernel:
            return _NativeNll.apply(features, weight, targets, smoothing, scales, torch.is_grad_enabled())  # type: ignore
        low = weight.detach().to(dtype)
        return _ProjectedNll.apply(  # type: ignore
            features, weight, low, targets, smoothing, scales, torch.is_grad_enabled(), _step(low, elements)
        )


class _ProjectedNll(torch.autograd.Function):
    """`projected_nll` in torch. `low` is the weight in the type of the products."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        low: Tensor,
        targets: Tensor,
        smoothing: float,
        scales: Tensor | None,
        train: bool,
        step: int,
    ) -> tuple[Tensor, Tensor]:
        tokens, vocab = len(features), len(weight)
        rows = pad_rows(features.detach(), low.dtype, padding_multiple(step))
        step = min(step, max(len(rows), 1))
        narrow = torch.empty(step, vocab, dtype=low.dtype, device=low.device)
        wide = narrow if low.dtype == torch.float32 else torch.empty_like(narrow, dtype=torch.float32)
        targets = functional.pad(targets, (0, len(rows) - tokens))
        counts = None if scales is None else functional.pad(scales, (0, len(rows) - tokens))[:, None]
        grad_rows = torch.empty_like(rows)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if train else None
        share = smoothing / vocab
        nll = torch.zeros((), device=low.device)
        log_sums = torch.zeros((), device=low.device)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            real = min(tokens - start, step)  # the other rows are padding
            wanted = targets[start : start + step, None]
            logits, x = narrow[: len(part)], wide[: len(part)]
            torch.mm(part, low.t(), out=logits)
            peak = logits.amax(-1, keepdim=True).float()
            if wide is not narrow:
                x.copy_(logits)
            picked = x.gather(1, wanted)
            total = x.sub_(peak).exp_().sum(-1, keepdim=True)
            log_sum = total.log() + peak
            count = None if counts is None else counts[start : start + step]
            nll += _times(log_sum - picked, count)[:real].sum()
            log_sums += _times(log_sum, count)[:real].sum()
            if grad_weight is None:
                continue
            # The softmax is x / total. Dividing tensors [rows, dim] before and after the products saves a pass over x.
            x.scatter_add_(1, wanted, total * (smoothing - 1))
            x[real:] = 0.0
            if count is not None:
                total = total / count  # infinite for rows of weight 0
            if wide is not narrow:
                logits.copy_(x)
            torch.mm(logits, low, out=grad_rows[start : start + step])
            grad_rows[start : start + step] /= total
            scaled = (part / total).to(low.dtype)
            if wide is narrow:
                grad_weight.addmm_(logits.t(), scaled)
            else:
                grad_weight += torch.mm(logits.t(), scaled).float()  # a sum of two different types would be slow
        loss = nll
        if smoothing:
            # Smoothing subtracts share * (sum of all logits). The gradients of this sum have rank one.
            weight_sum = weight.detach().sum(0, dtype=torch.float32)
            row_sum = _times(rows, counts).sum(0, dtype=torch.float32)
            loss = (1 - smoothing) * nll + smoothing * log_sums - share * (row_sum @ weight_sum)
            if grad_weight is not None:
                grad_rows -= _times(share * weight_sum, counts).to(low.dtype)
                grad_weight -= share * row_sum
        if grad_weight is not None:
            ctx.save_for_backward(grad_rows[:tokens].to(features.dtype), grad_weight.to(weight.dtype))
        nll = nll.clone()
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        return rows * grads[0], weight * grads[0], None, None, None, None, None, None


def _times(values: Tensor, counts: Tensor | None) -> Tensor:
    return values if counts is None else values * counts


def native_likelihood(
    rows: Tensor,
    weight: Tensor,
    targets: Tensor,
    smoothing: float,
    scales: Tensor | None,
    sums: Tensor,
    grads: Sequence[Tensor] | None,
    factor: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Compute the results of `projected_nll` from those of the CPU kernels.

    Args:
        rows: `[tokens, dim]` float32.
        weight: `[vocab, dim]` float32.
        targets: See `projected_nll`.
        smoothing: See `projected_nll`.
        scales: See `projected_nll`.
        sums: `[tokens]`, the log-sum-exp of the logits.
        grads: Gradients of rows and weight that contain the part of the softmax. The part of the targets is subtracted
            from them in place.
        factor: Factor of the likelihood in these gradients.
    """
    counts = None if scales is None else scales[:, None]
    wanted = weight.index_select(0, targets)
    # The factors are rounded as in the kernel, so that the loss of a token of probability 1 is not below zero.
    picked = (rows.bfloat16().float() * wanted.bfloat16().float()).sum(-1)
    loss = nll = _times(sums - picked, scales).sum()
    if grads is not None:
        grad_rows, grad_weight = grads
        grad_rows -= _times(wanted.mul_(factor * (1 - smoothing)), counts)
        native.scatter_rows(grad_weight, targets.contiguous(), _times(rows, counts), factor * (smoothing - 1))
    if smoothing:
        share = smoothing / len(weight)
        weight_sum, row_sum = weight.sum(0), _times(rows, counts).sum(0)
        loss = (1 - smoothing) * nll + smoothing * _times(sums, scales).sum() - share * (row_sum @ weight_sum)
        if grads is not None:
            grad_rows -= _times(factor * share * weight_sum, counts)
            grad_weight -= factor * share * row_sum
    return loss, nll


class _NativeNll(torch.autograd.Function):
    """`projected_nll` with the CPU kernels."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        targets: Tensor,
        smoothing: float,
        scales: Tensor | None,
        train: bool,
    ) -> tuple[Tensor, Tensor]:
        rows, weight = features.detach().float().contiguous(), weight.detach()
        grads = None
        if train:
            sums, *grads = native.log_sum_exp_gradients(rows, weight, scales)
        else:
            sums = native.log_sum_exp(rows, weight)
        loss, nll = native_likelihood(rows, weight, targets, smoothing, scales, sums, grads)
        if grads is not None:
            grad_rows, grad_weight = grads
            ctx.save_for_backward(grad_rows.to(features.dtype), grad_weight)
        nll = nll.clone()
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        return rows * grads[0], weight * grads[0], None, None, None, None


def projected_log_sum_exp(features: Tensor, weight: Tensor, *, elements: int | None = None) -> Tensor:
    """Compute the log-sum-exp of each row of `features @ weight.T` in chunks. Gradients compute the logits again.

    Args:
        features: `[rows, dim]`, float32 or lower.
        weight: `[vocab, dim]`.
        elements: See `projected_nll`.

    Returns:
        `[rows]` float32. Under autocast the products use its type.
    """
    kind = features.device.type
    by_kernel = native.can_multiply(features, weight)
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    with torch.autocast(kind, enabled=False):
        if by_kernel:
            return _NativeLogSumExp.apply(features, weight)  # type: ignore
        low = weight.detach().to(dtype)
        return _ProjectedLogSumExp.apply(features, weight, low, _step(low, elements))  # type: ignore


def target_logprobs(features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Compute the log-probability of each target token, `[tokens]` float32 or wider, with gradients.

    Args:
        features: `[tokens, dim]`, float32 or lower.
        weight: `[vocab, dim]`.
        targets: `[tokens]` int64.
    """
    sums = projected_log_sum_exp(features, weight)
    with torch.autocast(features.device.type, enabled=False):
        picked = (features.to(sums.dtype) * weight.index_select(0, targets)).sum(-1)
    return picked - sums


def nll_by_token(features: Tensor, weight: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Compute the loss of `projected_nll` for each token, `[tokens]` float32 without gradient."""
    with torch.no_grad():
        sums = projected_log_sum_exp(features, weight)
        with torch.autocast(features.device.type, enabled=False):
            rows = features.to(sums.dtype)
            picked = (rows * weight.index_select(0, targets)).sum(-1)
            mean = rows @ weight.mean(0, dtype=sums.dtype)
        return sums - (1 - smoothing) * picked - smoothing * mean


def _step(low: Tensor, elements: int | None) -> int:
    """Return the number of rows in a chunk."""
    limit = CHUNK_ELEMENTS if low.dtype == torch.float32 else CHUNK_ELEMENTS_LOW
    return rows_within(elements or (limit if low.device.type == "cpu" else CHUNK_ELEMENTS_CUDA), len(low))


def _row_chunks(rows: int, step: int) -> Iterator[slice]:
    for start in range(0, rows, step):
        yield slice(start, start + step)


class _ProjectedLogSumExp(torch.autograd.Function):
    """`projected_log_sum_exp` in torch. `low` is the weight in the type of the products."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, low: Tensor, step: int) -> Tensor:
        rows = pad_rows(features.detach(), low.dtype, ROUND_ROWS)
        sums = torch.empty(len(rows), dtype=torch.promote_types(low.dtype, torch.float32), device=rows.device)
        for chunk in _row_chunks(len(rows), step):
            logits = torch.mm(rows[chunk], low.t()).to(sums.dtype)
            peak = logits.amax(-1, keepdim=True)
            sums[chunk] = logits.sub_(peak).exp_().sum(-1).log_() + peak[:, 0]
        ctx.save_for_backward(rows, low, sums)
        ctx.step = step
        ctx.types = features.dtype, weight.dtype
        return sums[: len(features)].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, sums = ctx.saved_tensors
        (grad,) = grads
        scale = torch.zeros_like(sums)
        scale[: len(grad)] = grad
        grad_rows = torch.empty_like(rows)
        grad_weight = torch.zeros(low.shape, dtype=sums.dtype, device=low.device)
        for chunk in _row_chunks(len(rows), ctx.step):
            logits = torch.mm(rows[chunk], low.t())
            soft = logits.to(sums.dtype).sub_(sums[chunk, None]).exp_()
            soft = soft.mul_(scale[chunk, None]).to(low.dtype)
            torch.mm(soft, low, out=grad_rows[chunk])
            if low.dtype == sums.dtype:
                grad_weight.addmm_(soft.t(), rows[chunk])
            else:
                grad_weight += torch.mm(soft.t(), rows[chunk]).to(sums.dtype)
        features_type, weight_type = ctx.types
        return grad_rows[: len(grad)].to(features_type), grad_weight.to(weight_type), None, None


class _NativeLogSumExp(torch.autograd.Function):
    """`projected_log_sum_exp` with the CPU kernels."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor) -> Tensor:
        rows = features.detach().float().contiguous()
        ctx.save_for_backward(rows, weight)
        ctx.dtype = features.dtype
        return native.log_sum_exp(rows, weight.detach())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        _, grad_rows, grad_weight = native.log_sum_exp_gradients(rows, weight, grads[0].contiguous())
        return grad_rows.to(ctx.dtype), grad_weight

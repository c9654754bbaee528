"""Word-level distillation by the CPU's kernels: neither model's distributions are ever written to memory.

The cross-entropy of the student under the teacher is the log-sum-exp of the student's logits less the logits that the
teacher expects, and these are its features times the row of its output layer that the teacher expects. So its
gradients are the student's softmax's less the teacher's, and each is one pass of the same kernel. A second temperature
or a second teacher would be one more pass each, whose products cost more than they save: torch has these.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqkd.kernels import products as native
from seqkd.objectives.divergence import Mixture
from seqkd.objectives.projection import native_likelihood
from seqkd.objectives.teacher import Answer


def kernels_serve(features: Tensor, weight: Tensor, teacher: Answer, mixture: Mixture) -> bool:
    """Whether there is one teacher, all is at temperature 1, gradients are wanted, and products are the kernels'."""
    return (
        torch.is_grad_enabled()
        and mixture.temperature == 1.0
        and len(teacher.members) == 1
        and teacher.autocast == torch.bfloat16
        and native.can_multiply(features, weight)
        and native.can_multiply(*teacher.members[0])
    )


def native_kd(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    teacher: Answer,
    mixture: Mixture,
    scales: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`projected_kd` with the cross-entropy of the student under a live teacher, over the whole vocabulary.

    Args:
        features: `[tokens, dim]`.
        weight: `[vocab, dim]`.
        targets: `[tokens]` int64.
        teacher: One model, at temperature 1.
        mixture: See `WordKd`; of that temperature.
        scales: `[tokens]` float32, what each token's loss is multiplied by; None for 1.

    Returns:
        See `projected_kd`.
    """
    return _NativeKd.apply(features, weight, targets, teacher, mixture, scales)  # type: ignore


class _NativeKd(torch.autograd.Function):
    """Gradients come with the values."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        targets: Tensor,
        teacher: Answer,
        mixture: Mixture,
        scales: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        _, alpha, smoothing = mixture
        ((read, layer),) = teacher.members
        rows, weight = features.detach().float().contiguous(), weight.detach()
        # The student's softmax serves the likelihood, too: the shares of both parts add up to one.
        sums, grad_rows, grad_weight = native.log_sum_exp_gradients(rows, weight, scales)
        shares = torch.full_like(sums, -alpha) if scales is None else -alpha * scales
        expected = native.expected_rows(read.float().contiguous(), layer.float(), weight, rows, shares, grad_weight)
        soft = (expected * rows).sum() - (shares * sums).sum()
        grad_rows += expected
        grads = grad_rows, grad_weight
        hard, nll = native_likelihood(rows, weight, targets, smoothing, scales, sums, grads, 1 - alpha)
        ctx.save_for_backward(grad_rows.to(features.dtype), grad_weight)
        nll = nll.clone()
        ctx.mark_non_differentiable(nll)
        return soft + (1 - alpha) * hard, nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        return rows * grads[0], weight * grads[0], None, None, None, None

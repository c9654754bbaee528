"""Word-level distillation with the CPU kernels, which never write the distributions of either model to memory.

The cross-entropy of the student under the teacher is the log-sum-exp of the student's logits minus the expectation of
the student's logits under the teacher. This expectation is the product of the student's features and the expected row
of its output layer. The gradient is the student's softmax minus that of the teacher, and each of the two parts is one
pass of the same kernel. A second temperature or a second teacher would each need one more pass, whose products cost
more than they save. These cases are left to torch.
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
    """Whether there is one teacher, T is 1, gradients are needed, and the kernels support the products."""
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
    """Compute `projected_kd` for the cross-entropy of the student under a live teacher, over the whole vocabulary.

    Args:
        features: `[tokens, dim]`.
        weight: `[vocab, dim]`.
        targets: `[tokens]` int64.
        teacher: The answer of one model.
        mixture: See `WordKd`. Its temperature is 1.
        scales: `[tokens]` float32, the factor of each token's loss; None for 1.

    Returns:
        See `projected_kd`.
    """
    return _NativeKd.apply(features, weight, targets, teacher, mixture, scales)  # type: ignore


class _NativeKd(torch.autograd.Function):
    """The loss, whose gradients are computed in the forward pass."""

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
        # One gradient of the student's softmax serves both the divergence and the likelihood, whose shares sum to one.
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

"""Word-level knowledge distillation: the teacher's distribution at every target position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from seqkd.models.functional import pad_rows
from seqkd.objectives.base import Batch, SoftTargets
from seqkd.objectives.divergence import Direction, Mixture, full_divergence, likelihood, sparse_divergence, top_k
from seqkd.objectives.native_kd import kernels_serve, native_kd
from seqkd.objectives.nll import LabelSmoothedNll
from seqkd.objectives.registry import TeacherPrecision
from seqkd.objectives.teacher import Answer, Projection, chunk_rows
from seqkd.objectives.terms import NOTHING, Forward, Models, TermOutput

Divergence = Callable[[Tensor, int, int], tuple[Tensor, Tensor]]
"""Of the student's `[rows, vocab]` log-probabilities, which are those of rows `start` to `stop`: see `divergence`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordKdSettings:
    """Settings of `WordKd`: a `TaughtSettings`.

    Attributes:
        teachers: Model folders that run beside the student.
        soft_targets: What teachers wrote down beforehand, in place of them.
        temperature: Temperature of both distributions.
        alpha: Share of the teacher.
        top_k: How many of a live teacher's likeliest ids are compared, the others as one; 0 for all ids.
        direction: See `seqkd.objectives.divergence`.
        label_smoothing: Of the NLL: share of the uniform distribution in its target.
        precision: Of the products of teachers that run along.

    Raises:
        ValueError: There are soft targets, and settings for teachers that run along.
    """

    teachers: Annotated[
        tuple[Path, ...],
        Field(
            description="model folders that run beside the student, several as an ensemble; a pipeline fills them in"
        ),
    ] = ()
    soft_targets: Annotated[
        Path | None,
        Field(
            description="output of `distill --soft-targets`, in place of teachers; in a pipeline a [[soft_targets]]' "
            "name"
        ),
    ] = None
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    alpha: Annotated[
        float, Field(ge=0.0, le=1.0, description="share of the teacher: alpha * KD + (1 - alpha) * NLL")
    ] = 0.5
    top_k: Annotated[
        int, Field(ge=0, description="the teacher's likeliest ids, and all others as one; 0: the whole vocabulary")
    ] = 0
    direction: Annotated[
        Direction,
        Field(description="forward: cross-entropy under the teacher; reverse: KL(student || teacher)"),
    ] = "forward"
    label_smoothing: Annotated[
        float, Field(ge=0.0, lt=1.0, description="share of the uniform distribution in the NLL's target")
    ] = 0.0
    precision: Annotated[TeacherPrecision, Field(description="precision of the teachers' products")] = "auto"

    def __post_init__(self) -> None:
        live = {"teachers": self.teachers, "top_k": self.top_k, "precision": self.precision != "auto"}
        given = [name for name, value in live.items() if value]
        if self.soft_targets is not None and given:
            raise ValueError(f"{', '.join(given)}: for teachers that run along; leave out, or leave out soft_targets")


@dataclass(frozen=True, slots=True, kw_only=True)
class WordKd:
    """`alpha * T^2 * KD + (1 - alpha) * NLL` (Kim and Rush 2016, equation 5), summed over the target tokens.

    KD is the divergence of the student's distribution from the teacher's, both at temperature T. Its gradients shrink
    with 1 / T^2, which the factor makes up for (Hinton et al. 2015, section 2): alpha means the same at every T. NLL,
    label-smoothed where wanted, is at temperature 1, and in evaluation it is all: the teacher is not asked.

    The teacher runs beside the student, or the batches bring soft targets that were written at the same temperature.

    Args:
        temperature: T, above 0.
        alpha: Share of the teacher, 0 to 1.
        top: How many of a live teacher's likeliest ids are compared, the others as one event; 0 for all ids.
        direction: See `seqkd.objectives.divergence`.
        smoothing: Of the NLL: share of the uniform distribution in its target.
    """

    reads = NOTHING

    temperature: float = 1.0
    alpha: float = 0.5
    top: int = 0
    direction: Direction = "forward"
    smoothing: float = 0.0

    def count(self, batch: Batch) -> float:
        """Target tokens, or the sum of their weights."""
        return batch.total

    def __call__(self, forward: Forward) -> TermOutput:
        """The loss of a left-to-right model."""
        if self.alpha == 0.0 or not forward.model.training:
            return LabelSmoothedNll(smoothing=self.smoothing)(forward)
        rows, layer, targets = forward.features, forward.output_weight, forward.targets
        teacher, mixture = forward.answer, Mixture(self.temperature, self.alpha, self.smoothing)
        if (
            teacher is not None
            and not forward.by_row
            and self._compares_all(teacher)
            and kernels_serve(rows, layer, teacher, mixture)
        ):
            return TermOutput(*native_kd(rows, layer, targets, teacher, mixture, forward.weights))
        divergence = self._divergence(forward.batch, teacher)
        loss, nll, tokens = projected_kd(rows, layer, targets, divergence, mixture, forward.weights)
        return TermOutput(loss, nll, forward.row_sums(tokens) if forward.by_row else None)

    def _compares_all(self, teacher: Answer) -> bool:
        """Whether it is plain cross-entropy over the whole vocabulary."""
        return self.direction == "forward" and not 0 < self.top < len(teacher.members[0][1])

    def _divergence(self, batch: Batch, teacher: Answer | None) -> Divergence:
        soft = batch.soft
        if teacher is None:
            if soft is None:
                raise ValueError("the batch has no soft targets, and there is no teacher to ask")

            def written(student: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
                return sparse_divergence(student, _rows(soft, start, stop), self.direction)

            return written

        def live(student: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
            logprobs = teacher.logprobs(start, stop, self.temperature)
            if 0 < self.top < logprobs.size(1):
                return sparse_divergence(student, top_k(logprobs, self.top), self.direction)
            return full_divergence(student, logprobs.to(student.dtype), self.direction)

        return live


def _rows(soft: SoftTargets, start: int, stop: int) -> SoftTargets:
    tail = None if soft.tail is None else soft.tail[start:stop]
    return SoftTargets(soft.ids[start:stop], soft.logprobs[start:stop], tail)


def projected_kd(
    features: Tensor,
    weight: Tensor,
    targets: Tensor,
    divergence: Divergence,
    mixture: Mixture,
    scales: Tensor | None = None,
    *,
    elements: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The output layer and `WordKd` in one; as in `projected_nll` logits of all tokens never exist at the same time.

    Args:
        features: `[tokens, dim]`.
        weight: `[vocab, dim]`.
        targets: `[tokens]` int64.
        divergence: Called once for each chunk of rows.
        mixture: See `WordKd`.
        scales: `[tokens]` float32, what each token's loss is multiplied by; None for 1.
        elements: Logits that exist at a time; None for a number that suits the device.

    Returns:
        The loss; the unsmoothed negative log-likelihood at temperature 1, without gradient; and the loss by token
        `[tokens]`, before `scales` and without gradient. All are float32 at least, the first two scalars. Under
        autocast the products run in its type.
    """
    kind = features.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    with torch.autocast(kind, enabled=False):
        return _ProjectedKd.apply(  # type: ignore
            features, weight, targets, divergence, dtype, mixture, scales, torch.is_grad_enabled(), elements
        )


class _ProjectedKd(torch.autograd.Function):
    """Gradients are computed while a chunk's logits are at hand; `dtype` is that of the products."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        targets: Tensor,
        divergence: Divergence,
        dtype: torch.dtype,
        mixture: Mixture,
        scales: Tensor | None,
        train: bool,
        elements: int | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        temperature, alpha, smoothing = mixture
        student = Projection(features, weight, dtype, elements)
        wide = torch.promote_types(dtype, torch.float32)
        loss, nll = (torch.zeros((), dtype=wide, device=features.device) for _ in range(2))
        by_token = torch.empty(len(features), dtype=wide, device=features.device)
        grad_rows = torch.empty_like(student.rows) if train else None
        grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if train else None
        step = chunk_rows(len(weight), features.device, elements)
        for start in range(0, len(features), step):
            stop = min(start + step, len(features))
            logits = student.logits(start, stop)
            plain = logits.log_softmax(-1)
            hard, grad, exact = likelihood(plain, targets[start:stop], smoothing)
            warm = plain if temperature == 1.0 else (logits / temperature).log_softmax(-1)
            soft, grad_soft = divergence(warm, start, stop)
            torch.add((1 - alpha) * hard, soft, alpha=alpha * temperature**2, out=by_token[start:stop])
            if scales is not None:
                scale = scales[start:stop]
                hard, soft, exact = hard * scale, soft * scale, exact * scale
            loss += alpha * temperature**2 * soft.sum() + (1 - alpha) * hard.sum()
            nll += exact.sum()
            if grad_rows is None or grad_weight is None:
                continue
            # One of the two temperatures goes into the derivative of logits / T.
            grad = grad.mul_(1 - alpha).add_(grad_soft, alpha=alpha * temperature)
            if scales is not None:
                grad *= scale[:, None]
            grad = pad_rows(grad, dtype, student.multiple)
            chunk = slice(start, start + len(grad))
            torch.mm(grad, student.weight, out=grad_rows[chunk])
            if dtype == wide:
                grad_weight.addmm_(grad.t(), student.rows[chunk])
            else:
                grad_weight += torch.mm(grad.t(), student.rows[chunk]).to(wide)
        if grad_rows is not None and grad_weight is not None:
            ctx.save_for_backward(grad_rows[: len(features)].to(features.dtype), grad_weight.to(weight.dtype))
        ctx.mark_non_differentiable(nll, by_token)
        return loss, nll, by_token

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        return rows * grads[0], weight * grads[0], None, None, None, None, None, None, None


def build(settings: WordKdSettings, _: Models) -> WordKd:
    """The term of these settings."""
    return WordKd(
        temperature=settings.temperature,
        alpha=settings.alpha,
        top=settings.top_k,
        direction=settings.direction,
        smoothing=settings.label_smoothing,
    )

"""Word-level knowledge distillation: the teacher's distribution at every target position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from seqkd.models.functional import pad_rows
from seqkd.objectives.base import Batch, SoftTargets
from seqkd.objectives.divergence import Direction, Mixture, full_divergence, likelihood, sparse_divergence, top_k
from seqkd.objectives.groups import GroupedAnswer, split_groups
from seqkd.objectives.native_kd import kernels_serve, native_kd
from seqkd.objectives.nll import LabelSmoothedNll
from seqkd.objectives.registry import TeacherPrecision
from seqkd.objectives.teacher import Answer, Projection, chunk_rows
from seqkd.objectives.terms import NOTHING, Forward, Models, TermOutput

ONLY_GROUP = ""  # the group of rows of a single data set

Divergence = Callable[[Tensor, int, int], tuple[Tensor, Tensor]]
"""A function of the student's log-probabilities `[rows, vocab]`, the start row and the stop row. It returns the values
and the gradients of the divergence; see `seqkd.objectives.divergence`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordKdSettings:
    """Settings of `WordKd`. They are `TaughtSettings`.

    Attributes:
        teachers: Folders of models that run beside the student.
        soft_targets: Folder of stored soft targets, in place of teachers that run beside the student.
        temperature: Temperature of both distributions.
        alpha: Share of the divergence.
        top_k: Number of a live teacher's likeliest ids to compare, with all others as one event; 0 for all ids.
        direction: See `seqkd.objectives.divergence`.
        label_smoothing: Share of the uniform distribution in the target of the NLL.
        precision: Precision of the products of teachers that run beside the student.
        renormalise: Whether the probabilities of the likeliest ids are divided by their sum, and no other id counts.

    Raises:
        ValueError: There are both soft targets and settings for teachers that run beside the student; or `renormalise`
            without the likeliest ids, or for the reverse direction.
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
            description="output of `distill --soft-targets`, in place of teachers; in a pipeline the name of a "
            "[[soft_targets]] table"
        ),
    ] = None
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    alpha: Annotated[
        float, Field(ge=0.0, le=1.0, description="share of the teacher: alpha * KD + (1 - alpha) * NLL")
    ] = 0.5
    top_k: Annotated[
        int,
        Field(ge=0, description="number of the teacher's likeliest ids to compare, others as one event; 0: all ids"),
    ] = 0
    direction: Annotated[
        Direction,
        Field(description="forward: cross-entropy under the teacher; reverse: KL(student || teacher)"),
    ] = "forward"
    label_smoothing: Annotated[
        float, Field(ge=0.0, lt=1.0, description="share of the uniform distribution in the target of the NLL")
    ] = 0.0
    precision: Annotated[TeacherPrecision, Field(description="precision of the teachers' products")] = "auto"
    renormalise: Annotated[
        bool,
        Field(
            description="divide the probabilities of the likeliest ids by their sum and leave out the others, in place "
            "of counting the others as one event"
        ),
    ] = False

    def __post_init__(self) -> None:
        live = {"teachers": self.teachers, "top_k": self.top_k, "precision": self.precision != "auto"}
        given = [name for name, value in live.items() if value]
        if self.soft_targets is not None and given:
            raise ValueError(
                f"soft_targets cannot be combined with {', '.join(given)}: only teachers that run beside the student "
                "use these settings"
            )
        if self.renormalise and not self.top_k and self.soft_targets is None:
            raise ValueError("renormalise is for the likeliest ids: give top_k or soft_targets, or leave it out")
        if self.renormalise and self.direction == "reverse":
            raise ValueError('renormalise gives other ids the probability zero; give direction = "forward"')


@dataclass(frozen=True, slots=True, kw_only=True)
class WordKd:
    """`alpha * T^2 * KD + (1 - alpha) * NLL` (Kim and Rush 2016, equation 5), summed over the target tokens.

    KD is the divergence of the student's distribution from the teacher's, both at temperature T. Its gradients shrink
    with 1 / T^2. The factor T^2 compensates for this (Hinton et al. 2015, section 2), so that alpha means the same at
    every T. The NLL, optionally with label smoothing, is at temperature 1. In evaluation the loss is the NLL alone, and
    the teacher does not run.

    Rows of several groups may have different teachers. `shares` gives each group its own share of the divergence, as a
    factor of alpha; a group with share 0 has the NLL alone (Tan et al. 2019, equation 5).

    Either the teacher runs beside the student, or the batches contain soft targets that were stored at the same
    temperature.

    Args:
        temperature: T, above 0.
        alpha: Share of the divergence, 0 to 1.
        top: Number of a live teacher's likeliest ids to compare, with all others as one event; 0 for all ids.
        renormalise: Whether the likeliest ids are compared alone, with probabilities that sum to one.
        direction: See `seqkd.objectives.divergence`.
        smoothing: Share of the uniform distribution in the target of the NLL.
        shares: The share of each group, 0 to 1, which code that is called during training may change; 1 for groups
            that it does not name.
    """

    reads = NOTHING

    temperature: float = 1.0
    alpha: float = 0.5
    top: int = 0
    renormalise: bool = False
    direction: Direction = "forward"
    smoothing: float = 0.0
    shares: dict[str, float] = field(default_factory=dict)

    def count(self, batch: Batch) -> float:
        """Return the number of target tokens, or the sum of their weights."""
        return batch.total

    def __call__(self, forward: Forward) -> TermOutput:
        """Compute the loss of a left-to-right model."""
        batch = forward.batch
        several = batch.groups is not None and len(batch.groups) > 0
        share = 1.0 if several else self.shares.get(ONLY_GROUP, 1.0)
        if self.alpha == 0.0 or not forward.model.training or share == 0.0 or not batch.tokens:
            return LabelSmoothedNll(smoothing=self.smoothing)(forward)
        answer = forward.answer
        whole = _Part(forward.features, forward.targets, batch.soft, forward.weights)
        if not several or (isinstance(answer, Answer | None) and all(each == 1.0 for each in self.shares.values())):
            assert not isinstance(answer, GroupedAnswer)
            loss, nll, tokens = self._compare(forward, whole, answer, share)
        else:
            loss, nll, tokens = self._compare_groups(forward, whole, answer)
        return TermOutput(loss, nll, None if tokens is None else forward.row_sums(tokens))

    def _compare_groups(
        self, forward: Forward, whole: _Part, answer: Answer | GroupedAnswer | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute the loss of each group with its own share, and sum them."""
        parts = answer.parts if isinstance(answer, GroupedAnswer) else split_groups(forward.batch)
        losses, likelihoods = [], []
        by_token = whole.features.new_zeros(len(whole.targets)) if forward.by_row else None
        for part in parts:
            share, theirs = self.shares.get(part.group, 1.0), None
            if share and answer is not None:
                theirs = answer.of(part) if isinstance(answer, GroupedAnswer) else answer.take(part.places)
            loss, nll, tokens = self._compare(forward, whole.take(part.places), theirs, share)
            losses.append(loss)
            likelihoods.append(nll)
            if by_token is not None and tokens is not None:
                by_token[part.places] = tokens.to(by_token.dtype)
        return reduce(add, losses), reduce(add, likelihoods), by_token

    def _compare(
        self, forward: Forward, part: _Part, answer: Answer | None, share: float
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute the loss, the unsmoothed NLL and, if it is requested, the loss by token of a part of the batch."""
        layer, mixture = forward.output_weight, Mixture(self.temperature, self.alpha * share, self.smoothing)
        if (
            answer is not None
            and not forward.by_row
            and self._compares_all(answer)
            and kernels_serve(part.features, layer, answer, mixture)
        ):
            return *native_kd(part.features, layer, part.targets, answer, mixture, part.weights), None
        divergence = self._divergence(part.soft, answer) if share else _no_divergence
        loss, nll, tokens = projected_kd(part.features, layer, part.targets, divergence, mixture, part.weights)
        return loss, nll, tokens if forward.by_row else None

    def _compares_all(self, teacher: Answer) -> bool:
        """Whether the divergence is the plain cross-entropy over the whole vocabulary."""
        return self.direction == "forward" and not 0 < self.top < len(teacher.members[0][1])

    def _divergence(self, soft: SoftTargets | None, teacher: Answer | None) -> Divergence:
        if teacher is None:
            if soft is None:
                raise ValueError("the batch has no soft targets, and no teacher runs beside the student")

            def written(student: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
                return sparse_divergence(student, self._keep(_rows(soft, start, stop)), self.direction)

            return written

        def live(student: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
            logprobs = teacher.logprobs(start, stop, self.temperature)
            if 0 < self.top < logprobs.size(1):
                return sparse_divergence(student, self._keep(top_k(logprobs, self.top)), self.direction)
            return full_divergence(student, logprobs.to(student.dtype), self.direction)

        return live

    def _keep(self, likeliest: SoftTargets) -> SoftTargets:
        """Return the likeliest ids with their tail, or alone with probabilities that sum to one."""
        if not self.renormalise:
            return likeliest
        total = likeliest.logprobs.logsumexp(-1, keepdim=True)
        return SoftTargets(likeliest.ids, likeliest.logprobs - total, None)


class _Part(NamedTuple):
    """Some of a batch's kept positions.

    Attributes:
        features: `[tokens, dim]`, the student's.
        targets: `[tokens]` int64.
        soft: Stored soft targets of the positions, if there are any.
        weights: `[tokens]` float32, or None if all are 1.
    """

    features: Tensor
    targets: Tensor
    soft: SoftTargets | None
    weights: Tensor | None

    def take(self, places: Tensor) -> _Part:
        """Return the positions at these places, `[places]` int64."""
        soft = self.soft
        if soft is not None:
            tail = None if soft.tail is None else soft.tail.index_select(0, places)
            soft = SoftTargets(soft.ids.index_select(0, places), soft.logprobs.index_select(0, places), tail)
        return _Part(
            self.features.index_select(0, places),
            self.targets.index_select(0, places),
            soft,
            None if self.weights is None else self.weights.index_select(0, places),
        )


def _no_divergence(student: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    """Return the divergence of a group whose teacher is not asked: zero, without gradients."""
    return student.new_zeros(len(student)), torch.zeros_like(student)


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
    """Compute the output layer and the loss of `WordKd` in chunks, as `projected_nll` does.

    Args:
        features: `[tokens, dim]`.
        weight: `[vocab, dim]`.
        targets: `[tokens]` int64.
        divergence: The divergence. It is called once for each chunk of rows.
        mixture: See `WordKd`.
        scales: `[tokens]` float32, the factor of each token's loss; None for 1.
        elements: Number of logits in a chunk; None for a number that suits the device.

    Returns:
        The loss; the unsmoothed negative log-likelihood at temperature 1, without gradient; and the loss by token
        `[tokens]`, before `scales` and without gradient. All are float32 or wider, and the first two are scalars. Under
        autocast the products use its type.
    """
    kind = features.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    with torch.autocast(kind, enabled=False):
        return _ProjectedKd.apply(  # type: ignore
            features, weight, targets, divergence, dtype, mixture, scales, torch.is_grad_enabled(), elements
        )


class _ProjectedKd(torch.autograd.Function):
    """`projected_kd` in torch. Gradients are computed in the forward pass; `dtype` is the type of the products."""

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
            # One factor T of T^2 is cancelled by the derivative of logits / T.
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
    """Build the term with these settings."""
    return WordKd(
        temperature=settings.temperature,
        alpha=settings.alpha,
        top=settings.top_k,
        renormalise=settings.renormalise,
        direction=settings.direction,
        smoothing=settings.label_smoothing,
    )

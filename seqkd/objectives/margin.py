"""The margin of a target over its rival, by which a student learns to prefer the better one of two hypotheses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from seqkd.objectives.base import Batch
from seqkd.objectives.projection import target_logprobs
from seqkd.objectives.terms import NOTHING, Forward, Models, TermOutput

Kind = Literal["ramp", "hinge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginSettings:
    """Settings of `Margin`."""

    kind: Annotated[
        Kind, Field(description="ramp: the difference of the scores; hinge: its distance from the margin that is due")
    ] = "hinge"
    cost: Annotated[
        float,
        Field(gt=0.0, allow_inf_nan=False, description="hinge: nats per token that a unit of sentence BLEU is due"),
    ] = 1.0

    def __post_init__(self) -> None:
        if self.kind == "ramp" and self.cost != 1.0:
            raise ValueError('cost: is for `kind = "hinge"`; a ramp has no margin')


@dataclass(frozen=True, slots=True, kw_only=True)
class Margin:
    """The loss of pairs of a target, the hope, and its rival, the fear, summed over rows.

    With s, the student's log-probability of a text divided by its tokens, end of sentence included, and B, the sentence
    BLEU of a text from 0 to 1, a ramp is `-(s(target) - s(rival))` (Jehl et al. 2019), and a hinge is
    `max(0, cost * (B(target) - B(rival)) - (s(target) - s(rival)))` (Chiang 2012; Edunov et al. 2018). B comes from the
    corpus and is fixed. A row whose rival is its target contributes nothing, and so does a row of another
    corpus, without rivals, in a mix.

    Args:
        kind: See above.
        cost: See above.
    """

    reads = NOTHING

    kind: Kind = "hinge"
    cost: float = 1.0

    def count(self, batch: Batch) -> float:
        """Return the number of rows, or the sum of their weights."""
        return len(batch.ids) if batch.weights is None else float(batch.weights.rows.double().sum())

    def __call__(self, forward: Forward) -> TermOutput:
        """Compute the loss of a left-to-right model. The rivals need a second pass."""
        batch, rivals = forward.batch, forward.batch.rivals
        if rivals is None or not rivals.any_differ:
            # The sum is still connected to all weights, which processes synchronise.
            nothing = ((forward.features * 0.0).sum() + (forward.output_weight * 0.0).sum()).float()
            return TermOutput(nothing, rows=nothing.new_zeros(len(batch.source)) if forward.by_row else None)
        others = batch._replace(target_in=rivals.target_in, target_out=rivals.target_out, kept=rivals.kept)
        apart = _score(forward.features, forward.output_weight, batch) - _score(
            forward.compute_features(others), forward.output_weight, others
        )
        rows = -apart if self.kind == "ramp" else (self.cost * rivals.margins - apart).relu()
        rows = rows * rivals.differ
        if batch.weights is not None:
            rows = rows * batch.weights.rows
        return TermOutput(rows.sum(), rows=rows.detach() if forward.by_row else None)


def _score(features: Tensor, weight: Tensor, batch: Batch) -> Tensor:
    """Compute the mean log-probability of the tokens of each target, `[batch]`, end of sentence included."""
    width = batch.target_out.size(1)
    found = target_logprobs(features, weight, batch.target_out.flatten().index_select(0, batch.kept))
    counts = batch.row_sums(found.new_ones(len(found)), batch.kept, width)
    return batch.row_sums(found, batch.kept, width) / counts.clamp(min=1.0)


def build(settings: MarginSettings, _: Models) -> Margin:
    """Build the term with these settings."""
    return Margin(kind=settings.kind, cost=settings.cost)

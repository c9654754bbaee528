"""Negative log-likelihood of the gold or distilled target, word by word."""

from __future__ import annotations

from dataclasses import dataclass

from seqkd.objectives.base import Batch, LabelSmoothing
from seqkd.objectives.projection import nll_by_token, projected_nll
from seqkd.objectives.terms import NOTHING, Forward, Models, TermOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class NllSettings:
    """Settings of `LabelSmoothedNll`.

    Attributes:
        label_smoothing: Share of the uniform distribution in the target, 0 for none.
    """

    label_smoothing: LabelSmoothing = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSmoothedNll:
    """Negative log-likelihood under teacher forcing, with label smoothing (Szegedy et al. 2016, section 7).

    On a teacher's outputs it is the loss of sequence-level knowledge distillation (Kim and Rush 2016, equation 8).

    Args:
        smoothing: Share of the uniform distribution in the target, 0 for none.
    """

    reads = NOTHING

    smoothing: float

    def count(self, batch: Batch) -> float:
        """Return the number of target tokens, or the sum of their weights."""
        return batch.total

    def __call__(self, forward: Forward) -> TermOutput:
        """Compute the loss of a left-to-right model."""
        read = (forward.features, forward.output_weight, forward.targets)
        loss, nll = projected_nll(*read, self.smoothing, forward.weights)
        rows = forward.row_sums(nll_by_token(*read, self.smoothing)) if forward.by_row else None
        return TermOutput(loss, nll, rows)


def build(settings: NllSettings, _: Models) -> LabelSmoothedNll:
    """Build the term with these settings."""
    return LabelSmoothedNll(smoothing=settings.label_smoothing)

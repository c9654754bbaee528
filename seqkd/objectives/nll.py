"""Negative log-likelihood: the gold or distilled target, word by word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn

from seqkd.objectives.base import Batch, LabelSmoothing, LossOutput, TeacherForced, kept_features
from seqkd.objectives.projection import projected_nll
from seqkd.objectives.teacher import Teacher


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

    Trained on a teacher's outputs it is sequence-level knowledge distillation (Kim and Rush 2016, equation 8).

    Args:
        smoothing: Share of the uniform distribution in the target, 0 for none.
    """

    smoothing: float

    def __call__(self, model: nn.Module, batch: Batch) -> LossOutput:
        """The loss of a model with `encode`, `decode_features` and `output_weight`."""
        forced = cast(TeacherForced, model)
        rows = kept_features(forced, batch)
        targets = batch.target_out.flatten().index_select(0, batch.kept)
        weights = batch.weights_at(batch.kept, batch.target_out.size(1))
        loss, nll = projected_nll(rows, forced.output_weight, targets, self.smoothing, weights)
        return LossOutput(loss, nll, batch.total)


def build(settings: NllSettings, _: Teacher | None) -> LabelSmoothedNll:
    """The loss of these settings."""
    return LabelSmoothedNll(smoothing=settings.label_smoothing)

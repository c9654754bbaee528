"""A term of an objective: the penalty on confident distributions of Pereyra et al. 2017, equation 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch.nn import functional

from seqkd.objectives.base import Batch
from seqkd.objectives.registry import Needs, Objective
from seqkd.objectives.terms import NOTHING, Forward, Models, TermOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceSettings:
    """Settings of `Confidence`."""

    most: Annotated[float, Field(ge=0.0, description="entropy in nats beyond which nothing is gained")] = 10.0


@dataclass(frozen=True, slots=True)
class Confidence:
    """Negative entropy of the student's distribution, summed over target positions.

    Args:
        most: Entropy in nats beyond which nothing is gained.
    """

    reads = NOTHING

    most: float

    def count(self, batch: Batch) -> float:
        """Target tokens, or the sum of their weights."""
        return batch.total

    def __call__(self, forward: Forward) -> TermOutput:
        """The penalty of a left-to-right student."""
        logprobs = functional.linear(forward.features, forward.output_weight).float().log_softmax(-1)
        penalty = (logprobs.exp() * logprobs).sum(-1).clamp(min=-self.most)
        weighted = penalty if forward.weights is None else penalty * forward.weights
        return TermOutput(weighted.sum(), rows=forward.row_sums(penalty).detach() if forward.by_row else None)


def build(settings: ConfidenceSettings, _: Models) -> Confidence:
    """The term of these settings."""
    return Confidence(settings.most)


RECORD = Objective(
    name="confidence",
    help="Negative entropy of the student's distributions (Pereyra et al. 2017), beside another term",
    settings="seqkd_plugins.term:ConfidenceSettings",
    build="seqkd_plugins.term:build",
    needs=Needs(row_weights=True),
    suits=frozenset({"summary-gru"}),
)

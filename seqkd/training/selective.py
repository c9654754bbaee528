"""Selective distillation: a group's teacher is asked only while the student has not overtaken it.

Tan et al. 2019, "Multilingual Neural Machine Translation with Knowledge Distillation", section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import Field

from seqkd.errors import ConfigError
from seqkd.metrics.registry import METRICS
from seqkd.training.groups import name_measure
from seqkd.training.hooks import Training

if TYPE_CHECKING:  # reading a pipeline file should not import torch
    from seqkd.objectives.base import Batch
    from seqkd.training.state import Validation

Strategy = Literal["threshold", "adaptive", "always"]
SHARE, TEACHER = "distilled", "teacher_"  # in the metrics of a validation: `distilled@de`, `teacher_bleu@de`


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectiveSettings:
    """Settings of the hook `selective`.

    Attributes:
        metric: The metric by which the student and the teacher are compared on the validation text of a group.
        margin: The lead over the teacher up to which the group is distilled, in units of the metric.
        every: Number of validations from one decision to the next.
        strategy: See `find_share`.
    """

    metric: Annotated[str, Field(description="a metric that validations measure: nll, bleu or that of best_by")] = (
        "bleu"
    )
    margin: Annotated[
        float, Field(allow_inf_nan=False, description="lead of the student over the teacher up to which it is taught")
    ] = 1.0
    every: Annotated[int, Field(ge=1, description="number of validations from one decision to the next")] = 1
    strategy: Annotated[
        Strategy,
        Field(
            description="threshold: off beyond the margin; adaptive: halved for each unit of the metric from -margin "
            "on; always: never off"
        ),
    ] = "threshold"


@runtime_checkable
class Shared(Protocol):
    """A term of an objective that gives each group its own share.

    Attributes:
        shares: The share of each group, 0 to 1.
    """

    shares: dict[str, float]


def find_share(strategy: Strategy, lead: float, margin: float) -> float:
    """Find the share of a group's distillation.

    Args:
        strategy: `threshold`: 1 if the lead is below the margin, otherwise 0. `adaptive`: 1 if the lead is below
            -margin, otherwise 0.5 ** (lead + margin). `always`: 1.
        lead: The student's lead over the teacher, in units of the metric; negative while the teacher is better.
        margin: See `strategy`.
    """
    if strategy == "threshold":
        return 1.0 if lead < margin else 0.0
    if strategy == "adaptive":
        return 1.0 if lead < -margin else 0.5 ** (lead + margin)
    return 1.0


class Selective:
    """Sets the shares of groups after validations. All groups are distilled until the first decision.

    The teachers are measured once, at the first decision. Their scores and the shares are part of the state.

    Args:
        settings: The settings.
        training: The run.

    Raises:
        ConfigError: No term of the objective has shares of groups, or validations do not measure the metric.
    """

    updates = 0

    def __init__(self, settings: SelectiveSettings, training: Training) -> None:
        self._settings, self._training = settings, training
        self._terms = [part.term for part in training.loss.terms if isinstance(part.term, Shared)]
        if not self._terms:
            raise ConfigError(
                "selective: no term of the objective has a teacher that can be switched off by group",
                where="hooks",
                expected="the objective word_kd, alone or as a term",
            )
        if settings.metric not in training.measured:
            raise ConfigError(
                f"selective.metric: {settings.metric!r} is not measured at validations",
                where="hooks",
                expected=f"one of: {', '.join(training.measured)}",
                hint="set training.valid_bleu = true for bleu, or training.best_by for another metric",
            )
        self._validations = 0
        self._teachers: dict[str, float] = {}
        self._shares: dict[str, float] = dict.fromkeys(training.groups or ("",), 1.0)

    def before(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """See `Hook.before`."""
        return batches

    def stepped(self, update: int) -> None:
        """See `Hook.stepped`."""

    def validated(self, line: Validation) -> Mapping[str, float]:
        """Decide the shares until the next validation, and return them with the scores of the teachers."""
        settings = self._settings
        if not self._teachers:
            self._teachers = dict(self._training.score_teachers(settings.metric))
        if self._validations % settings.every == 0:
            sign = 1.0 if METRICS.get(settings.metric).direction == "higher" else -1.0
            for group in self._shares:
                own = line.value(name_measure(settings.metric, group))
                lead = sign * (own - self._teachers[group])
                self._shares[group] = find_share(settings.strategy, lead, settings.margin)
            self._apply()
        self._validations += 1
        found = {name_measure(SHARE, group): share for group, share in self._shares.items()}
        return found | {
            name_measure(TEACHER + settings.metric, group): score for group, score in self._teachers.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """See `Hook.state_dict`."""
        return {"validations": self._validations, "teachers": self._teachers, "shares": dict(self._shares)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Hook.load_state_dict`."""
        self._validations = int(state["validations"])
        self._teachers, self._shares = dict(state["teachers"]), dict(state["shares"])
        self._apply()

    def _apply(self) -> None:
        for term in self._terms:
            term.shares.update(self._shares)


def build(settings: SelectiveSettings, training: Training) -> Selective:
    """Build the hook for one run."""
    return Selective(settings, training)

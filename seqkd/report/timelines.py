"""The timeline of selective distillation: the updates during which a model learnt from the teacher of each group."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqkd.training.groups import name_measure, split_measure
from seqkd.training.selective import SHARE, TEACHER


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Updates between two decisions.

    Attributes:
        first: The update after which it begins.
        last: Its last update.
        share: The share of the distillation, 0 to 1.
    """

    first: int
    last: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The distillation of one group of a model.

    Attributes:
        model: The name of the model.
        group: The group; "" for a single data set.
        metric: The metric by which the student was compared with the teacher.
        teacher: The teacher's value on the validation text.
        periods: Periods with different shares, in order. The group is distilled before the first decision.
    """

    model: str
    group: str
    metric: str
    teacher: float
    periods: tuple[Period, ...]

    @property
    def mean(self) -> float:
        """The mean share over all updates."""
        total = sum(period.last - period.first for period in self.periods)
        return sum((period.last - period.first) * period.share for period in self.periods) / max(total, 1)

    def to_json(self) -> dict[str, Any]:
        """Return the entry of report.json."""
        periods = [[period.first, period.last, period.share] for period in self.periods]
        return {
            "model": self.model,
            "group": self.group,
            "metric": self.metric,
            "teacher": self.teacher,
            "periods": periods,
        }


def read_timelines(model: str, history: Path) -> list[Timeline]:
    """Read the timelines of a model from its validations; empty if it was not distilled selectively.

    Args:
        model: The name of the model.
        history: The file `history.json`, which may not exist.
    """
    lines: list[dict[str, Any]] = json.loads(history.read_bytes()) if history.is_file() else []
    first: Mapping[str, float] = lines[0].get("metrics", {}) if lines else {}
    found = []
    for name in (name for name in first if split_measure(name)[0] == SHARE):
        group = split_measure(name)[1]
        measure = next(key for key in first if key.startswith(TEACHER) and split_measure(key)[1] == group)
        found.append(
            Timeline(
                model=model,
                group=group,
                metric=split_measure(measure)[0].removeprefix(TEACHER),
                teacher=first[measure],
                periods=_find_periods(
                    [(line["update"], line["metrics"][name_measure(SHARE, group)]) for line in lines]
                ),
            )
        )
    return found


def _find_periods(decisions: Sequence[tuple[int, float]]) -> tuple[Period, ...]:
    """Join the updates between decisions that have the same share. After the last decision there are no updates."""
    starts = [(0, 1.0), *decisions[:-1]]
    found: list[Period] = []
    for (start, share), (end, _) in zip(starts, decisions, strict=True):
        if found and found[-1].share == share:
            found[-1] = Period(first=found[-1].first, last=end, share=share)
        else:
            found.append(Period(first=start, last=end, share=share))
    return tuple(found)

"""Teachers of groups: each row of a batch asks the teacher of its data set (Tan et al. 2019, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seqkd.models.registry import NO_TRACES, Traces
from seqkd.models.trace import Trace
from seqkd.objectives.base import Batch, TeacherForced
from seqkd.objectives.teacher import Answer, Teacher


class GroupPart(NamedTuple):
    """The rows of one group in a batch.

    Attributes:
        group: The name of the group.
        rows: `[rows]` int64, their places in the batch, in ascending order.
        places: `[tokens]` int64, the places of their tokens among the batch's kept positions, in ascending order.
    """

    group: str
    rows: npt.NDArray[np.int64]
    places: Tensor


def split_groups(batch: Batch) -> list[GroupPart]:
    """Split the rows of a batch by group. An empty batch has no parts.

    Raises:
        ValueError: The rows of the batch do not know their groups.
    """
    if batch.groups is None:
        raise ValueError("the rows of the batch have no groups")
    owners = batch.kept // batch.target_out.size(1)
    parts = []
    for group in np.unique(batch.groups).tolist():
        rows = np.flatnonzero(batch.groups == group)
        marks = torch.zeros(len(batch.source), dtype=torch.bool)
        marks[torch.from_numpy(rows)] = True
        marks = marks.to(batch.source.device)
        parts.append(GroupPart(group, rows, marks[owners].nonzero()[:, 0]))
    return parts


def take_part(batch: Batch, part: GroupPart) -> Batch:
    """Return the batch of the rows of a part, without their weights, soft targets and origins."""
    width = batch.target_out.size(1)
    rows = torch.from_numpy(part.rows).to(batch.source.device)
    kept = batch.kept.index_select(0, part.places)
    places = torch.empty(len(batch.source), dtype=torch.int64, device=rows.device)
    places[rows] = torch.arange(len(rows), device=rows.device)
    return Batch(
        ids=batch.ids[part.rows],
        source=batch.source.index_select(0, rows),
        target_in=batch.target_in.index_select(0, rows),
        target_out=batch.target_out.index_select(0, rows),
        kept=places[kept // width] * width + kept % width,
        tokens=len(part.places),
        progress=batch.progress,
    )


class GroupedAnswer:
    """The answers of the teachers of a batch's groups. A teacher runs when its distributions are first asked for.

    Args:
        teachers: The teacher of each group.
        batch: The batch.

    Attributes:
        parts: The rows of each group.
    """

    traces: Sequence[Trace] = ()

    def __init__(self, teachers: Mapping[str, Teacher], batch: Batch) -> None:
        self._teachers, self._batch = teachers, batch
        self.parts = split_groups(batch)
        self._found: dict[str, Answer] = {}

    def of(self, part: GroupPart) -> Answer:
        """Return the answer of the teacher of a part, at the kept positions of its rows."""
        if part.group not in self._found:
            self._found[part.group] = self._teachers[part.group](take_part(self._batch, part))
        return self._found[part.group]

    def logprobs(self, start: int, stop: int, temperature: float = 1.0) -> Tensor:
        """Compute the log-probabilities of a chunk of the batch's kept positions; see `Answer.logprobs`."""
        found: Tensor | None = None
        for part in self.parts:
            first, last = torch.searchsorted(part.places, part.places.new_tensor([start, stop])).tolist()
            if first == last:
                continue
            values = self.of(part).logprobs(first, last, temperature)
            if found is None:
                found = values.new_empty(stop - start, values.size(1))
            found[part.places[first:last] - start] = values
        if found is None:
            raise ValueError(f"no row of the batch has the positions {start} to {stop}")
        return found


class GroupedTeacher:
    """A teacher for each group. It has no states or attention to show.

    Args:
        teachers: The teacher of each group, all with the student's target vocabulary.

    Attributes:
        models: The models of all teachers.
    """

    def __init__(self, teachers: Mapping[str, Teacher]) -> None:
        self._teachers = dict(teachers)
        self.models: tuple[TeacherForced, ...] = tuple(
            model for teacher in self._teachers.values() for model in teacher.models
        )

    def __call__(self, batch: Batch, wanted: Traces = NO_TRACES) -> GroupedAnswer:
        """Return the answers of the teachers of the batch's groups.

        Raises:
            ValueError: States or attention are wanted, or the rows do not know their groups.
        """
        if wanted:
            raise ValueError("teachers of groups have no states or attention to show")
        return GroupedAnswer(self._teachers, batch)

"""Terms of an objective. Each is a sum over a batch and has its own denominator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, cast

from torch import Tensor, nn

from seqkd.models.registry import NO_TRACES, Traces
from seqkd.models.trace import Trace
from seqkd.objectives.base import Batch, TeacherForced, kept_features, output_layer
from seqkd.objectives.groups import GroupedAnswer, GroupedTeacher
from seqkd.objectives.teacher import Answer, Teacher


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """The internal tensors that a term reads, beside the student's features and the teacher's distributions.

    Attributes:
        student: Hidden states and attention of the student.
        teacher: Hidden states and attention of the teachers that run beside it.
    """

    student: Traces = NO_TRACES
    teacher: Traces = NO_TRACES


NOTHING = Reads()


class Forward:
    """A student's pass over a batch and a teacher's answer to it, shared by all terms of an objective.

    Values are computed when a term first requests them, and only once.

    Args:
        model: The student.
        batch: The batch.
        teacher: The teacher that runs beside the student, if there is one.
        reads: The tensors that `trace` and `answer.traces` contain.
        trace: The trace of the student, which must be active while terms are evaluated; None if no term needs one.
        by_row: Whether terms also return their values by row.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Batch,
        *,
        teacher: Teacher | GroupedTeacher | None = None,
        reads: Reads = NOTHING,
        trace: Trace | None = None,
        by_row: bool = False,
    ) -> None:
        self.model, self.batch, self.by_row = model, batch, by_row
        self._teacher, self._reads, self._trace = teacher, reads, trace

    @cached_property
    def features(self) -> Tensor:
        """The inputs of a left-to-right student's output layer; see `kept_features`."""
        return kept_features(cast(TeacherForced, self.model), self.batch)

    def compute_features(self, batch: Batch) -> Tensor:
        """Compute the inputs of the output layer for other targets by a further pass, which leaves no trace."""
        _ = self.features  # the student's own pass comes first, whatever the order of terms
        records = () if self._trace is None else (*self._trace.hidden.values(), *self._trace.attention.values())
        before = [list(record) for record in records]
        found = kept_features(cast(TeacherForced, self.model), batch)
        for record, states in zip(records, before, strict=True):
            record[:] = states
        return found

    @cached_property
    def output_weight(self) -> Tensor:
        """The student's output layer, `[vocab, dim]`; see `output_layer`."""
        return output_layer(cast(TeacherForced, self.model))

    @cached_property
    def targets(self) -> Tensor:
        """The target token of each kept position, `[tokens]` int64."""
        return self.batch.target_out.flatten().index_select(0, self.batch.kept)

    @cached_property
    def weights(self) -> Tensor | None:
        """The weight of each kept position, `[tokens]` float32; None if all are 1."""
        return self.batch.weights_at(self.batch.kept, self.batch.target_out.size(1))

    def row_sums(self, values: Tensor) -> Tensor:
        """Multiply values of kept positions `[tokens]` by their weights and sum them by row `[batch]`."""
        weighted = values if self.weights is None else values * self.weights
        return self.batch.row_sums(weighted, self.batch.kept, self.batch.target_out.size(1))

    @property
    def trace(self) -> Trace:
        """The student's states and attention, with gradients. A left-to-right student makes its pass if none was made.

        Raises:
            ValueError: No term asked for a trace.
        """
        if self._trace is None:
            raise ValueError("a term reads a trace that its `reads` does not request")
        if not any(self._trace.hidden.values()) and not any(self._trace.attention.values()):
            _ = self.features
        return self._trace

    @cached_property
    def answer(self) -> Answer | GroupedAnswer | None:
        """The teacher's distributions, states and attention; None if no teacher runs beside the student."""
        return None if self._teacher is None else self._teacher(self.batch, self._reads.teacher)


class Models(NamedTuple):
    """The models for which a term is built. A term that learns a projection reads their widths.

    Attributes:
        student: The student with its initial weights.
        teachers: The teachers that run beside it, in evaluation mode; empty if there are none.
    """

    student: nn.Module
    teachers: tuple[TeacherForced, ...] = ()


class TermOutput(NamedTuple):
    """A term's value on one batch.

    Attributes:
        loss: Scalar float32, the loss as a sum over the batch, in which rows count by their weights.
        nll: Scalar float32 without gradient, the negative log-likelihood in nats, summed in the same way. None if the
            term does not compute it.
        rows: `[batch]` float32 without gradient, `loss` by row, if it is requested and the term can compute it.
    """

    loss: Tensor
    nll: Tensor | None = None
    rows: Tensor | None = None


class Term(Protocol):
    """One of the sums that training minimises.

    A term may be an `nn.Module`. Its parameters are then optimised, saved, resumed and synchronised between processes
    like those of the student, but are left out of the student's file. Every pass must use all of them, even a pass over
    the empty batch of a process that has run out of rows, whose sum is zero.
    """

    @property
    def reads(self) -> Reads:
        """The internal tensors that the term reads."""
        ...

    def count(self, batch: Batch) -> float:
        """Return the batch's part of the denominator, such as target tokens or rows, weighted if rows have weights.

        The loop sums it over the batches and processes of an update before the model processes any of them.
        """
        ...

    def __call__(self, forward: Forward) -> TermOutput:
        """Compute the value of the term on a batch."""
        ...

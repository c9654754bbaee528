"""The objective that training minimises: a weighted sum of terms."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import reduce
from operator import or_

from torch import Tensor, nn

from seqkd.models.registry import NO_TRACES
from seqkd.models.trace import traced
from seqkd.objectives.base import Batch
from seqkd.objectives.groups import GroupedTeacher
from seqkd.objectives.teacher import Teacher
from seqkd.objectives.terms import Forward, Reads, Term, TermOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedTerm:
    """A term of a sum.

    Attributes:
        term: See `Term`.
        name: The name in messages and curves, unique in the sum.
        weight: Factor of the mean of the term, above 0.
    """

    term: Term
    name: str = "loss"
    weight: float = 1.0


class Loss(nn.Module):
    """A sum of terms, each divided by its own denominator and multiplied by its weight.

    Args:
        terms: One or more terms.
        teacher: The teacher that runs beside the student, or None if no term needs one. It is not part of the module.
        measure: A term for the negative log-likelihood of held-out text if the first of `terms` does not compute it.

    Raises:
        ValueError: Two terms have the same name.

    Attributes:
        terms: The terms.
        reads: The internal tensors that any of the terms reads.
        measure: The term that measures a model; the first of `terms` unless another is given.
    """

    def __init__(
        self,
        terms: Sequence[WeightedTerm],
        *,
        teacher: Teacher | GroupedTeacher | None = None,
        measure: Term | None = None,
    ) -> None:
        super().__init__()
        self.terms = tuple(terms)
        names = [part.name for part in self.terms]
        if len(set(names)) < len(names):
            raise ValueError(f"two terms have the same name: {', '.join(names)}")
        self.measure = self.terms[0].term if measure is None else measure
        self.learned = nn.ModuleDict({part.name: part.term for part in self.terms if isinstance(part.term, nn.Module)})
        self._teacher = teacher
        self.reads = Reads(
            student=reduce(or_, (part.term.reads.student for part in self.terms), NO_TRACES),
            teacher=reduce(or_, (part.term.reads.teacher for part in self.terms), NO_TRACES),
        )
        # Terms that read a trace come last, because the trace exists only after a pass. Terms that run their own passes
        # do not read one.
        self._order = sorted(range(len(self.terms)), key=lambda n: bool(self.terms[n].term.reads.student))

    def counts(self, batch: Batch) -> list[float]:
        """Return the batch's part of the denominator of each term."""
        return [part.term.count(batch) for part in self.terms]

    def outputs(self, model: nn.Module, batch: Batch, *, by_row: bool = False) -> list[TermOutput]:
        """Compute the value of each term, without its denominator and weight."""
        wanted = self.reads.student
        with traced(model, wanted) if wanted else nullcontext() as trace:
            forward = Forward(model, batch, teacher=self._teacher, reads=self.reads, trace=trace, by_row=by_row)
            found = {n: self.terms[n].term(forward) for n in self._order}
        return [found[n] for n in range(len(self.terms))]

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Compute the sum of each term, a scalar with a gradient."""
        return tuple(output.loss for output in self.outputs(model, batch))

    def nll(self, model: nn.Module, batch: Batch) -> tuple[Tensor, float]:
        """Compute the negative log-likelihood of a model in evaluation, a sum in nats, and its denominator.

        Raises:
            ValueError: `measure` does not compute it.
        """
        found = self.measure(Forward(model, batch)).nll
        if found is None:
            raise ValueError(f"{type(self.measure).__name__} gives no negative log-likelihood")
        return found, self.measure.count(batch)

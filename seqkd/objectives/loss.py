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
from seqkd.objectives.teacher import Teacher
from seqkd.objectives.terms import Forward, Reads, Term, TermOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedTerm:
    """A term of a sum.

    Attributes:
        term: See `Term`.
        name: For messages and curves; unique in its sum.
        weight: Factor of the term's mean, above 0.
    """

    term: Term
    name: str = "loss"
    weight: float = 1.0


class Loss(nn.Module):
    """A sum of terms, each divided by a denominator of its own and multiplied by its weight.

    Args:
        terms: At least one.
        teacher: Runs beside the student; None if no term asks one. It is no part of the module.
        measure: Gives the negative log-likelihood of held-out text, where none of `terms` does.

    Raises:
        ValueError: Two terms have one name.

    Attributes:
        terms: As given.
        reads: Those of all terms together.
        measure: The term that measures a model; the first of `terms` unless another is given.
    """

    def __init__(
        self, terms: Sequence[WeightedTerm], *, teacher: Teacher | None = None, measure: Term | None = None
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
        # A trace is there once a pass has been made. A term that makes passes of its own has no need of a trace.
        self._order = sorted(range(len(self.terms)), key=lambda n: bool(self.terms[n].term.reads.student))

    def counts(self, batch: Batch) -> list[float]:
        """The batch's part of each term's denominator."""
        return [part.term.count(batch) for part in self.terms]

    def outputs(self, model: nn.Module, batch: Batch, *, by_row: bool = False) -> list[TermOutput]:
        """Each term's value, not yet divided or multiplied by anything."""
        wanted = self.reads.student
        with traced(model, wanted) if wanted else nullcontext() as trace:
            forward = Forward(model, batch, teacher=self._teacher, reads=self.reads, trace=trace, by_row=by_row)
            found = {n: self.terms[n].term(forward) for n in self._order}
        return [found[n] for n in range(len(self.terms))]

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Each term's sum, a scalar with gradient."""
        return tuple(output.loss for output in self.outputs(model, batch))

    def nll(self, model: nn.Module, batch: Batch) -> tuple[Tensor, float]:
        """The negative log-likelihood of a model in evaluation, summed in nats, and its denominator.

        Raises:
            ValueError: `measure` does not know it.
        """
        found = self.measure(Forward(model, batch)).nll
        if found is None:
            raise ValueError(f"{type(self.measure).__name__} gives no negative log-likelihood")
        return found, self.measure.count(batch)

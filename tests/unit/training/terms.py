"""A term that learns, and hooks, for the tests of the loop and of two processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seqkd.models.registry import Traces
from seqkd.objectives.base import Batch
from seqkd.objectives.terms import Forward, Reads, TermOutput
from seqkd.training.state import Validation


class Projected(nn.Module):
    """Squared distance of a teacher's encoder states from a learned projection of the student's; counts rows.

    Args:
        student: Width of the student.
        teacher: Width of the teacher.
    """

    reads = Reads(student=Traces(hidden=("encoder",)), teacher=Traces(hidden=("encoder",)))

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.projection = nn.Linear(student, teacher)

    def count(self, batch: Batch) -> float:
        return len(batch.ids)

    def forward(self, forward: Forward) -> TermOutput:
        own = forward.trace.hidden["encoder"][-1]
        assert forward.answer is not None
        wanted = forward.answer.traces[0].hidden["encoder"][-1]
        rows = (self.projection(own) - wanted).square().mean(-1).mean(-1)
        rows = rows if len(forward.batch.ids) else rows * 0.0
        return TermOutput(rows.sum(), rows=rows.detach() if forward.by_row else None)


class Swaps:
    """A hook that decides by the weights, by chance and by its own memory, and changes batches and weights.

    Args:
        model: The student.
        updates: See `Hook`.
    """

    def __init__(self, model: Any, updates: int) -> None:
        self.model, self.updates = model, updates
        self.seen, self.best = 0, float("inf")
        self.groups: list[int] = []

    def before(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        self.groups.append(len(batches))
        return [self._changed(batch) for batch in batches]

    def _changed(self, batch: Batch) -> Batch:
        """Some decoder inputs become the model's own guesses; which ones depends on chance and on what was seen."""
        self.seen += batch.tokens
        with torch.no_grad():
            logits = self.model.eval()(batch.source, batch.target_in)
            self.model.train()
        share = 0.3 if self.seen % 2 else 0.6
        guessed = torch.rand(batch.target_in.shape).lt(share) & batch.target_in.gt(3)
        guesses: Tensor = logits[..., 4:].argmax(-1) + 4
        return batch._replace(target_in=batch.target_in.where(~guessed, guesses))

    def stepped(self, update: int) -> None:
        with torch.no_grad():
            self.model.encoder[0].ffn.inner.weight[update % 3] = 0.0

    def validated(self, line: Validation) -> None:
        self.best = min(self.best, line.valid_nll)
        with torch.no_grad():
            self.model.decoder[0].ffn.inner.weight *= 1.0 - 0.01 * self.best

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen, self.best = state["seen"], state["best"]

"""Batches for the objectives' tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
from torch import Tensor, nn

from seqkd.objectives.base import Batch
from seqkd.objectives.groups import GroupedTeacher
from seqkd.objectives.teacher import Teacher
from seqkd.objectives.terms import Forward, Term
from seqkd.training.data import SpecialIds
from seqkd.training.translation import collate

SPECIAL = SpecialIds(pad=1, eos=2, start=2)


def batch_of(pairs: Sequence[tuple[list[int], list[int]]]) -> Batch:
    """Source and target ids without end of sentence, as the trainer collates them; no pairs: an idle rank's batch."""
    lists = pa.list_(pa.int32())
    columns = {
        "id": pa.array(range(len(pairs)), pa.int64()),
        "source_ids": pa.array([source for source, _ in pairs], lists),
        "target_ids": pa.array([target for _, target in pairs], lists),
    }
    return collate(pa.table(columns), SPECIAL)


class Found(NamedTuple):
    """The values of a term that knows the likelihood."""

    loss: Tensor
    nll: Tensor
    rows: Tensor | None


def loss_of(
    term: Term, model: nn.Module, batch: Batch, *, teacher: Teacher | GroupedTeacher | None = None, by_row: bool = False
) -> Found:
    """A term by itself, on a pass of its own."""
    output = term(Forward(model, batch, teacher=teacher, by_row=by_row))
    assert output.nll is not None
    return Found(output.loss, output.nll, output.rows)

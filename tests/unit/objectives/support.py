"""Batches for the objectives' tests."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from seqkd.objectives.base import Batch
from seqkd.training.data import SpecialIds, collate

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

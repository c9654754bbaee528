"""Rows with the unknown piece, which stands for characters that the vocabulary lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from seqkd.text.vocabulary import UNK_ID

UNKNOWN_ROWS = "unknown_rows"  # the key in a manifest: rows by side; absent if there are none


def count_unknown(tables: Iterable[pa.Table]) -> dict[str, int]:
    """Count the rows that contain the unknown piece, by side. A side without such rows is left out."""
    rows: Counter[str] = Counter()
    for table in tables:
        for side in ("source", "target"):
            for ids in table.column(f"{side}_ids").chunks:
                unknown = pc.equal(pc.list_flatten(ids), UNK_ID)
                rows[side] += pc.count_distinct(pc.list_parent_indices(ids).filter(unknown)).as_py()
    return {side: number for side, number in rows.items() if number}

"""K-best lists made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from seqkd.corpus.schema import KBEST_SCHEMA
from seqkd.extensions import resolve
from seqkd.selection.filters import Filters
from seqkd.selection.lists import Lists
from seqkd.selection.registry import FILTERS

WORDS = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat", ".", "it's", "3.5", "ü"]), max_size=12)
SENTENCES = WORDS.map(" ".join)
SCORES = st.floats(-20.0, 0.0, allow_nan=False, width=32)


def hypothesis(text: str, score: float = -1.0, **values: Any) -> dict[str, Any]:
    """One hypothesis; a word is a piece, the same word always the same."""
    ids = [sum(map(ord, word)) for word in text.split()]
    return {"ids": ids, "text": text, "score": score, "logprob": score, "ended": "eos", **values}


def filters(**values: Any) -> Filters:
    """Filters by the keys that they have in a file; None is a missing key."""
    given = {name: value for name, value in values.items() if value is not None}
    return Filters.of([resolve(FILTERS.own[name].settings)(**{name: value}) for name, value in given.items()])


def lists_of(
    rows: Sequence[tuple[Sequence[dict[str, Any]], str]], *, source: str = "quelle", first_id: int = 0
) -> Lists:
    """Rows of hypotheses and reference."""
    ids = list(range(first_id, first_id + len(rows)))
    references = [reference for _, reference in rows]
    gold = pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "source": pa.array([source] * len(rows), pa.string()),
            "target": pa.array(references, pa.string()),
            "source_ids": pa.array([[7] * len(source.split())] * len(rows), pa.list_(pa.int32())),
            "target_ids": pa.array([hypothesis(text)["ids"] for text in references], pa.list_(pa.int32())),
        }
    )
    kbest = [{"id": row, "source_ids": [7], "hypotheses": list(rows[row - first_id][0])} for row in ids]
    return Lists.of_tables(gold, pa.Table.from_pylist(kbest, schema=KBEST_SCHEMA))


def kbest(*texts: str) -> list[dict[str, Any]]:
    return [hypothesis(text, -float(rank)) for rank, text in enumerate(texts)]


def rows(most: int = 4) -> st.SearchStrategy[list[tuple[list[dict[str, Any]], str]]]:
    found = st.lists(st.builds(hypothesis, SENTENCES, SCORES), max_size=5)
    return st.lists(st.tuples(found, SENTENCES), max_size=most)


def split(values: np.ndarray[Any, Any], lists: Lists) -> list[list[float]]:
    """Values row by row."""
    return [part.tolist() for part in np.split(values, np.cumsum(lists.counts))[:-1]] if len(lists.counts) else []

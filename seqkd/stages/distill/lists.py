"""Tables of k-best lists, made of the candidates of a source."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import pyarrow as pa

from seqkd.corpus.schema import KBEST_SCHEMA
from seqkd.interop.sources import Candidate
from seqkd.text.vocabularies import TextVocabulary

_LISTS = KBEST_SCHEMA.field("hypotheses").type
_FIELDS = {field.name: field.type for field in _LISTS.value_type}


def kbest_table(rows: pa.Table, lists: Sequence[Sequence[Candidate]], vocabulary: TextVocabulary | None) -> pa.Table:
    """Make the k-best table of some rows.

    Columns are made as a whole. An object for each list and hypothesis would take several times as long, and all the
    while Python could run nothing else, such as the search for the next rows.

    Args:
        rows: The columns `id` and `source_ids`.
        lists: The candidates of each row, best first.
        vocabulary: Encodes the texts of candidates without ids; None if there are no such candidates.
    """
    flat = [candidate for found in lists for candidate in found]
    bare = [candidate.text for candidate in flat if candidate.ids is None]
    encoded = iter(vocabulary.encode(bare) if vocabulary is not None else ())
    ids = [next(encoded) if candidate.ids is None else candidate.ids for candidate in flat]
    offsets = _offsets(ids)
    pieces = pa.array(np.fromiter(chain.from_iterable(ids), np.int32, int(offsets[-1])))
    columns = {
        "ids": pa.ListArray.from_arrays(pa.array(offsets), pieces, type=_FIELDS["ids"]),
        "text": pa.array([candidate.text for candidate in flat], _FIELDS["text"]),
        "score": pa.array([candidate.score for candidate in flat], _FIELDS["score"]),
        "logprob": pa.array([candidate.logprob for candidate in flat], _FIELDS["logprob"]),
        "ended": pa.array([candidate.ended for candidate in flat], _FIELDS["ended"]),
    }
    hypotheses = pa.StructArray.from_arrays(list(columns.values()), fields=list(_LISTS.value_type))
    table = pa.table(
        {
            "id": rows.column("id"),
            "source_ids": rows.column("source_ids"),
            "hypotheses": pa.ListArray.from_arrays(pa.array(_offsets(lists)), hypotheses, type=_LISTS),
        },
        schema=KBEST_SCHEMA,
    )
    # `rows` is a slice, which would take its whole shard along to another process.
    return table.take(np.arange(table.num_rows))


def _offsets(lists: Sequence[Sequence[object]]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Return the offsets `[lists + 1]` of lists that lie one after the other."""
    return np.cumsum([0, *map(len, lists)], dtype=np.int32)

"""Small folders for the tests of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from seqkd.corpus.manifest import Manifest, build_fingerprint, write_manifest
from seqkd.corpus.schema import CORPUS_SCHEMA, KBEST_SCHEMA, required_columns
from seqkd.corpus.writer import write_shard

MADE_BY = build_fingerprint("prepare", {"seed": 1, "vocabulary": {"size": 100}}, {})


def rows(first: int, count: int) -> pa.Table:
    """Gold rows whose values all follow from their id."""
    values = [
        {
            "id": i,
            "source": f"quelle {i} ä\u2028",
            "target": f"target {i}",
            "source_ids": list(range(4, 4 + i % 5)),
            "target_ids": list(range(4, 4 + i % 7)),
        }
        for i in range(first, first + count)
    ]
    return pa.Table.from_pylist(values, schema=CORPUS_SCHEMA).select(required_columns("corpus"))


def kbest_rows(first: int, count: int) -> pa.Table:
    def hypothesis(rank: int) -> dict[str, Any]:
        return {"ids": [4] * rank, "text": "x" * rank, "score": -1.0 * rank, "logprob": -2.0 * rank, "ended": "eos"}

    values = [
        {"id": i, "source_ids": [5, 6], "hypotheses": [hypothesis(rank) for rank in range(i % 3)]}
        for i in range(first, first + count)
    ]
    return pa.Table.from_pylist(values, schema=KBEST_SCHEMA)


def make_corpus(folder: Path, *sizes: int) -> Path:
    """A finished corpus with shards of these sizes and dense ids."""
    folder.mkdir(parents=True)
    shards, first = [], 0
    for index, size in enumerate(sizes):
        shards.append(write_shard(folder, index, rows(first, size)))
        first += size
    write_manifest(folder, Manifest(kind="corpus", fingerprint=MADE_BY, rows=first, shards=shards))
    return folder

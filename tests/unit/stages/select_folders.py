"""Small gold corpora and k-best lists for the tests of `select`, and what they made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from seqkd.corpus.manifest import Manifest, build_fingerprint, write_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.schema import KBEST_SCHEMA
from seqkd.corpus.writer import write_shard
from tests.manifests import comparable

VOCABULARY = "ab" * 32
Hypotheses = list[tuple[str, list[int], float]]
Lists = list[tuple[int, Hypotheses]]

GOLD = [
    (0, "eins", "one", [10], [20]),
    (3, "zwei", "two and two", [11], [21, 22]),
    (4, "drei", "three", [12, 13], [23]),
    (9, "vier", "four", [14], [24]),
]
KBEST: Lists = [
    (0, [("won", [30], -0.5), ("one", [20], -0.75)]),
    (3, [("two and two", [21, 22], -0.25), ("too", [31], -1.5)]),
    (4, [("", [], -0.125), ("three", [23], -2.0)]),
    (9, [("for", [32], -0.5), ("fore", [33], -0.625)]),
]
SOURCE_IDS = {row: source for row, _, _, source, _ in GOLD}


def write_gold(folder: Path, *, rows: list[tuple[int, str, str, list[int], list[int]]] = GOLD, size: int = 2) -> Path:
    folder.mkdir(parents=True)
    names = ["id", "source", "target", "source_ids", "target_ids"]
    shards = []
    for index, start in enumerate(range(0, len(rows), size)):
        columns = zip(*rows[start : start + size], strict=True)
        table = pa.table(dict(zip(names, map(list, columns), strict=True)))
        shards.append(write_shard(folder, index, table))
    write_manifest(folder, _manifest("corpus", "prepare", shards))
    return folder


def write_kbest(
    folder: Path, *, lists: Lists = KBEST, size: int = 2, sources: dict[int, list[int]] = SOURCE_IDS
) -> Path:
    folder.mkdir(parents=True)
    shards = []
    for index, start in enumerate(range(0, len(lists), size)):
        rows: list[dict[str, Any]] = [
            {
                "id": row,
                "source_ids": sources.get(row, [99]),
                "hypotheses": [
                    {"ids": ids, "text": text, "score": score, "logprob": score, "ended": "eos"}
                    for text, ids, score in hypotheses
                ],
            }
            for row, hypotheses in lists[start : start + size]
        ]
        shards.append(write_shard(folder, index, pa.Table.from_pylist(rows, schema=KBEST_SCHEMA)))
    write_manifest(folder, _manifest("kbest", "distill", shards))
    return folder


def _manifest(kind: str, stage: str, shards: list[Any], vocabulary: str = VOCABULARY) -> Manifest:
    return Manifest(
        kind=kind,
        fingerprint=build_fingerprint(stage, {}, {}),
        rows=sum(shard.rows for shard in shards),
        shards=shards,
        vocabulary=vocabulary,
    )


def write_prepared(folder: Path, vocabulary: str = VOCABULARY) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder, _manifest("prepared", "prepare", [], vocabulary))
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for table in Corpus.open(folder, "corpus").tables() for row in table.to_pylist()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: comparable(path) for path in sorted(folder.iterdir())}

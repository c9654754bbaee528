"""Corpora, k-best lists and soft targets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from seqkd.corpus.manifest import MANIFEST, Manifest, ShardInfo, read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.soft import SoftRow, soft_table
from seqkd.corpus.writer import write_shard
from seqkd.tools.verify import verify
from seqkd.training.soft import SoftTable
from tests.unit.corpus.corpora import MADE_BY, kbest_rows, rows

ROWS = 40
PIECES = 10
EXTRA = {"pieces": PIECES, "samples": None}
Reader = Callable[[bytes], None]


def shard(folder: Path) -> tuple[list[bytes], Reader]:
    """Damaged: the manifest is as it was, so nothing but the rows that were written may come out."""
    files, tables = _written(folder)
    path = folder / "corpus" / "shard-00000.arrow"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        assert Corpus.open(path.parent).read_shard(0).equals(tables["corpus"])

    return files[:1], read


def hostile_shard(folder: Path) -> tuple[list[bytes], Reader]:
    """With a manifest made for it: whatever comes out can be worked on without a crash."""
    files, tables = _written(folder)
    kinds = list(tables)

    def read(data: bytes) -> None:
        kind = kinds[hashlib.sha256(data).digest()[0] % len(kinds)]
        if data in files:
            kind = kinds[files.index(data)]
        path = folder / kind / "shard-00000.arrow"
        info = ShardInfo(name=path.name, rows=ROWS, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        path.write_bytes(data)
        _note(folder / kind, Manifest(kind=kind, fingerprint=MADE_BY, rows=ROWS, shards=[info], extra=EXTRA))
        corpus = Corpus.open(folder / kind)
        assert sum(table.num_rows for table in corpus.tables()) == ROWS
        assert len(corpus.take(np.arange(ROWS)[::-1]).to_pylist()) == ROWS
        if kind == "soft":
            soft = SoftTable(corpus)
            soft.check(np.arange(ROWS), np.full(ROWS, 2))
            soft.of(np.arange(ROWS))
        if kind == "corpus":
            corpus.lengths()
            corpus.repeats("source_ids")

    return files, read


def manifest(folder: Path) -> tuple[list[bytes], Reader]:
    """manifest.json."""
    _written(folder)
    files = [(folder / kind / MANIFEST).read_bytes() for kind in ("corpus", "kbest", "soft")]

    def read(data: bytes) -> None:
        (folder / "corpus" / MANIFEST).write_bytes(data)
        found = read_manifest(folder / "corpus")
        assert found.digest()
        found.to_json()
        verify(folder / "corpus")
        if found.kind in ("corpus", "kbest", "soft"):
            Corpus.open(folder / "corpus", "corpus").lengths()

    return files[:1], read


def _written(folder: Path) -> tuple[list[bytes], dict[str, pa.Table]]:
    numbers = pa.chunked_array([range(ROWS)], pa.int64())
    targets = pa.chunked_array([[[4, 5]] * ROWS], pa.list_(pa.int32()))
    logprobs = np.tile(np.array([-0.5, -1.5], dtype=np.float32), 3)
    soft = SoftRow(ids=np.tile([4, 5], 3), logprobs=logprobs, sizes=np.full(3, 2), tail=np.full(3, np.float32(-3.0)))
    tables = {
        "corpus": rows(0, ROWS),
        "kbest": kbest_rows(0, ROWS),
        "soft": soft_table(numbers, targets, [soft] * ROWS, pieces=PIECES, samples=None),
    }
    files = []
    for kind, table in tables.items():
        (folder / kind).mkdir()
        info = write_shard(folder / kind, 0, table)
        _note(folder / kind, Manifest(kind=kind, fingerprint=MADE_BY, rows=ROWS, shards=[info]))
        files.append((folder / kind / info.name).read_bytes())
    return files, tables


def _note(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST).write_text(manifest.to_json())  # without waiting for the disk

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from seqkd.corpus.manifest import (
    Manifest,
    ShardInfo,
    build_fingerprint,
    read_manifest,
    shard_name,
    write_manifest,
)
from seqkd.corpus.reader import Corpus
from seqkd.corpus.schema import SOFT_SCHEMA_1
from seqkd.corpus.soft import SoftRow, soft_table
from seqkd.corpus.writer import write_shard
from seqkd.errors import CorpusError
from seqkd.training.soft import SoftTable

Position = dict[int, float]  # probabilities by id
PIECES = 50


def first_version(row: int, positions: Sequence[Position]) -> dict[str, Any]:
    with np.errstate(divide="ignore"):
        logs = [np.log(np.array(list(position.values()))).astype(np.float16) for position in positions]
        tails = [np.log(1 - sum(position.values())).astype(np.float16) for position in positions]
    return {
        "id": row,
        "target_ids": list(range(4, 3 + len(positions))),
        "topk_ids": [list(position) for position in positions],
        "topk_logprobs": logs,
        "tail_logprob": tails,
    }


Shard = Mapping[int, Sequence[Position]]


def table_of(folder: Path, *shards: Shard, samples: int | None = None) -> SoftTable:
    folder.mkdir()
    written = []
    for number, rows in enumerate(shards):
        targets = pa.chunked_array([[range(4, 3 + len(row)) for row in rows.values()]], pa.list_(pa.int32()))
        ids = pa.chunked_array([list(rows)], pa.int64())
        soft = [soft_row(row) for row in rows.values()]
        written.append(write_shard(folder, number, soft_table(ids, targets, soft, pieces=PIECES, samples=samples)))
    return opened(folder, written, {"samples": samples, "pieces": PIECES})


def soft_row(positions: Sequence[Position]) -> SoftRow:
    with np.errstate(divide="ignore"):
        return SoftRow(
            ids=np.concatenate([list(position) for position in positions]),
            logprobs=np.log(np.concatenate([list(position.values()) for position in positions])).astype(np.float32),
            sizes=np.array([len(position) for position in positions]),
            tail=np.log([1 - sum(position.values()) for position in positions]).astype(np.float32),
        )


def opened(folder: Path, shards: list[ShardInfo], extra: dict[str, Any]) -> SoftTable:
    made_by, total = build_fingerprint("soft_targets", {}, {}), sum(shard.rows for shard in shards)
    write_manifest(folder, Manifest(kind="soft", fingerprint=made_by, rows=total, shards=shards, extra=extra))
    return SoftTable(Corpus.open(folder, "soft"))


def test_rows_come_by_id_in_the_order_asked_for(tmp_path: Path) -> None:
    first = {9: [{5: 0.5, 6: 0.25}, {7: 0.5, 2: 0.125}], 3: [{8: 0.75, 4: 0.125}]}
    table = table_of(tmp_path / "soft", first, {40: [{1: 0.5, 2: 0.5}] * 3})
    found = table.of(np.array([3, 9]))
    assert found.ids.tolist() == [[4, 8], [5, 6], [2, 7]]
    assert found.tail is not None
    wanted = torch.tensor([[0.125, 0.75, 0.125], [0.5, 0.25, 0.25], [0.125, 0.5, 0.375]])
    torch.testing.assert_close(torch.cat([found.logprobs, found.tail[:, None]], 1).exp(), wanted, rtol=2e-3, atol=0.0)
    torch.testing.assert_close(found.logprobs.exp().sum(-1) + found.tail.exp(), torch.ones(3))
    whole = table.of(np.array([40]))
    assert whole.tail is not None
    assert whole.tail.tolist() == [-np.inf] * 3
    assert table.of(np.array([], dtype=np.int64)).ids.shape[0] == 0
    table.check(np.array([40, 3]), np.array([2, 0]))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([9, 4], "1 training rows have no soft targets: row 4"),
        ([100, 1], "2 training rows have no soft targets: row 100, 1"),
    ],
)
def test_missing_rows_are_named(tmp_path: Path, ids: list[int], message: str) -> None:
    table = table_of(tmp_path / "soft", {9: [{5: 0.5}], 3: [{5: 0.5}]})
    with pytest.raises(CorpusError, match=message):
        table.check(np.array(ids), np.zeros(len(ids), dtype=np.int64))


def test_missing_positions_are_named(tmp_path: Path) -> None:
    table = table_of(tmp_path / "soft", {9: [{5: 0.5}], 3: [{5: 0.5}]})
    with pytest.raises(CorpusError, match=r"1 rows differ from their targets in length: row 3"):
        table.check(np.array([9, 3]), np.array([0, 1]))


@pytest.mark.parametrize("samples", [1, 7, 100, 256])
def test_draws_are_kept_as_they_are(tmp_path: Path, samples: int) -> None:
    positions = [{5: count / samples, 6: 1 - count / samples} for count in range(1, samples)] + [{7: 1.0}]
    table = table_of(tmp_path / "soft", {0: positions}, samples=samples)
    found = table.of(np.array([0]))
    assert found.tail is None
    counts = found.logprobs.double().exp() * samples
    torch.testing.assert_close(counts[:-1, 0], torch.arange(1, samples, dtype=torch.float64), rtol=0, atol=1e-4)
    assert found.ids[-1, 0] == 7
    torch.testing.assert_close(counts.sum(-1), torch.full((samples,), float(samples), dtype=torch.float64))


@pytest.mark.parametrize("samples", [None, 8])
def test_the_first_version_is_read(tmp_path: Path, samples: int | None) -> None:
    positions = [{5: 0.5, 6: 0.25, 9: 0.125}, {7: 0.5, 2: 0.375, 1: 0.125}]
    folder = tmp_path / "first"
    folder.mkdir()
    path = folder / shard_name(0)
    table = pa.Table.from_pylist([first_version(3, positions)], schema=SOFT_SCHEMA_1)
    with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    shard = ShardInfo(
        name=path.name, rows=1, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), bytes=path.stat().st_size
    )
    found = opened(folder, [shard], {"samples": samples}).of(np.array([3]))
    wanted = torch.tensor([[0.5, 0.25, 0.125], [0.5, 0.375, 0.125]])
    torch.testing.assert_close(found.logprobs.exp(), wanted, rtol=2e-3, atol=0.0)
    assert (found.tail is None) == (samples is not None)


def test_entries_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "soft"
    table_of(folder, {0: [{5: 0.5, 49: 0.25}]})
    manifest = read_manifest(folder)
    for pieces, message in (
        (49, "id 49, expected 0 to 48"),
        (50_000, "bytes, expected"),
        (None, "`pieces` is missing"),
    ):
        write_manifest(folder, dataclasses.replace(manifest, extra={"samples": None, "pieces": pieces}))
        with pytest.raises(CorpusError, match=message):
            SoftTable(Corpus.open(folder, "soft")).of(np.array([0]))

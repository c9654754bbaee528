from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqkd.corpus.manifest import Manifest, build_fingerprint, write_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.writer import write_shard
from seqkd.errors import CorpusError
from seqkd.models.protocol import TOO_LONG, too_long
from seqkd.objectives.base import Batch
from seqkd.training.data import CorpusData, read_ahead
from seqkd.training.translation import collate
from tests.properties import examples
from tests.unit.training.support import SPECIAL

IDS = st.lists(st.integers(4, 50), max_size=7)


def table(rows: list[tuple[list[int], list[int]]]) -> pa.Table:
    kind = pa.list_(pa.int32())
    return pa.table(
        {
            "id": pa.array(range(7, 7 + len(rows)), pa.int64()),
            "source_ids": pa.array([source for source, _ in rows], kind),
            "target_ids": pa.array([target for _, target in rows], kind),
        }
    )


def test_collate() -> None:
    batch = collate(table([([5, 6], [7]), ([8], [9, 10, 11])]), SPECIAL)
    assert batch.ids.tolist() == [7, 8]
    assert batch.source.tolist() == [[5, 6, 2], [8, 2, 1]]
    assert batch.target_in.tolist() == [[2, 7, 1, 1], [2, 9, 10, 11]]
    assert batch.target_out.tolist() == [[7, 2, 1, 1], [9, 10, 11, 2]]
    assert batch.kept.tolist() == [0, 1, 4, 5, 6, 7]
    assert batch.tokens == 6


@given(st.lists(st.tuples(IDS, IDS), min_size=1, max_size=6), st.integers(0, 3))
@examples(50)
def test_collate_loses_nothing(rows: list[tuple[list[int], list[int]]], skip: int) -> None:
    rows = [([4], [4])] * skip + rows
    batch = collate(table(rows).slice(skip), SPECIAL)  # a slice: its lists do not start at their buffer's start
    for index, (source, target) in enumerate(rows[skip:]):
        assert batch.source[index, : len(source) + 1].tolist() == [*source, 2]
        assert batch.source[index, len(source) + 1 :].eq(1).all()
        assert batch.target_in[index, : len(target) + 1].tolist() == [2, *target]
        assert batch.target_in[index, len(target) + 1 :].eq(1).all()
    assert batch.tokens == sum(len(target) + 1 for _, target in rows[skip:])
    assert torch.equal(batch.target_out.flatten()[batch.kept], batch.target_out[batch.target_out.ne(1)])


def test_collate_of_nothing_counts_nothing() -> None:
    batch = collate(table([]), SPECIAL)
    assert batch.tokens == 0
    assert batch.target_out.tolist() == [[1]]
    assert len(batch.kept) == len(batch.ids) == 0


def test_collate_weighs_rows_where_there_are_weights() -> None:
    rows = [([5, 6], [7]), ([8], [9, 10, 11])]
    plain = collate(table(rows), SPECIAL)
    assert plain.weights is None
    assert plain.total == plain.tokens == 6
    batch = collate(table(rows).append_column("weight", pa.array([0.5, 0.25], pa.float32())), SPECIAL)
    assert batch.weights is not None
    assert batch.weights.rows.tolist() == [0.5, 0.25]
    assert (batch.tokens, batch.total) == (6, 0.5 * 2 + 0.25 * 4)
    at = batch.weights_at(batch.kept, batch.target_out.size(1))
    assert at is not None
    assert at.tolist() == [0.5, 0.5, 0.25, 0.25, 0.25, 0.25]
    none = collate(table([]).append_column("weight", pa.array([], pa.float32())), SPECIAL)
    assert none.total == 0.0
    assert none.weights is not None
    assert len(none.weights.rows) == len(none.target_out)


@pytest.mark.parametrize("wrong", [-0.5, float("nan"), float("inf"), None])
def test_weights_that_are_none_are_named(tmp_path: Path, wrong: float | None) -> None:
    columns = {"id": [3, 5], "source": ["x"] * 2, "target": ["y"] * 2, "source_ids": [[4]] * 2, "target_ids": [[4]] * 2}
    rows = pa.table({**columns, "weight": pa.array([0.5, wrong], pa.float32())})
    shards = [write_shard(tmp_path, 0, rows)]
    write_manifest(
        tmp_path, Manifest(kind="corpus", fingerprint=build_fingerprint("select", {}, {}), rows=2, shards=shards)
    )
    with pytest.raises(CorpusError, match="the weights of 1 rows are invalid: 5"):
        CorpusData(
            Corpus.open(tmp_path),
            SPECIAL,
            unusable=partial(too_long, max_positions=10),
            batch_tokens=30,
            window=100,
            seed=1,
        )


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    shards = []
    for shard in range(2):
        lengths = range(1 + shard, 20, 2)
        columns = {
            "id": [100 + length for length in lengths],
            "source": ["x"] * len(lengths),
            "target": ["y"] * len(lengths),
            "source_ids": [list(range(4, 4 + length)) for length in lengths],
            "target_ids": [list(range(4, 4 + length)) for length in lengths],
        }
        shards.append(write_shard(tmp_path, shard, pa.table(columns)))
    made_by = build_fingerprint("prepare", {}, {})
    rows = sum(shard.rows for shard in shards)
    write_manifest(tmp_path, Manifest(kind="corpus", fingerprint=made_by, rows=rows, shards=shards))
    return Corpus.open(tmp_path)


def test_rows_too_long_are_left_out_and_named(corpus: Corpus) -> None:
    data = CorpusData(
        corpus, SPECIAL, unusable=partial(too_long, max_positions=10), batch_tokens=30, window=100, seed=1
    )
    assert sorted(data.skipped[TOO_LONG]) == [100 + length for length in range(10, 20)]
    assert data.rows == 9
    batches = [data.load(rows) for rows in data.plan(0)]
    assert sorted(np.concatenate([batch.ids for batch in batches]).tolist()) == [101 + i for i in range(9)]
    for batch in batches:
        assert batch.source.numel() <= 30
        assert batch.source.size(1) <= 10
        lengths = batch.source.ne(1).sum(1) - 1
        assert (lengths + 100).tolist() == batch.ids.tolist()


def test_ranks_share_an_epoch(corpus: Corpus) -> None:
    ids = []
    for rank in range(2):
        data = CorpusData(
            corpus,
            SPECIAL,
            unusable=partial(too_long, max_positions=30),
            batch_tokens=30,
            window=100,
            seed=1,
            rank=rank,
            world=2,
        )
        ids += [int(row) for rows in data.plan(3) for row in data.load(rows).ids]
    assert sorted(ids) == list(range(101, 120))


def test_read_ahead_keeps_order_and_ends_its_thread() -> None:
    empty = collate(table([]), SPECIAL)

    def load(number: int) -> Batch:
        return empty._replace(tokens=number)

    groups = [list(range(start, start + 3)) for start in range(0, 60, 3)]
    assert [[batch.tokens for batch in group] for group in read_ahead(load, groups)] == groups
    threads = threading.active_count()
    reader = read_ahead(load, groups)
    next(reader)
    reader.close()
    assert threading.active_count() <= threads


def test_read_ahead_passes_errors_on() -> None:
    def load(number: int) -> Batch:
        raise ValueError(f"row {number}")

    with pytest.raises(ValueError, match="row 5"):
        list(read_ahead(load, [[5]]))

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.corpus.manifest import ShardInfo
from seqkd.corpus.writer import finished_shards, write_shard
from seqkd.errors import WorkError
from tests.events import largest_file
from tests.properties import examples
from tests.unit.corpus.corpora import kbest_rows, rows


def read(path: Path) -> pa.Table:
    return pa.ipc.open_file(str(path)).read_all()


@pytest.mark.parametrize("table", [rows(5, 20), rows(0, 0), kbest_rows(0, 7)])
def test_reads_back_and_is_described(tmp_path: Path, table: pa.Table) -> None:
    info = write_shard(tmp_path, 3, table)
    data = (tmp_path / "shard-00003.arrow").read_bytes()
    assert info == ShardInfo(
        name="shard-00003.arrow", rows=len(table), sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)
    )
    assert read(tmp_path / info.name).equals(table)
    assert [entry.name for entry in tmp_path.iterdir()] == [info.name]


@given(cuts=st.lists(st.integers(0, 30), max_size=4), offset=st.integers(0, 9))
@examples(30)
def test_equal_rows_are_equal_bytes(tmp_path_factory: pytest.TempPathFactory, cuts: list[int], offset: int) -> None:
    """However the memory is laid out: slices of larger tables, several chunks."""
    folder = tmp_path_factory.mktemp("shards")
    for make in (rows, kbest_rows):
        plain = make(10, 30)
        wider = make(10 - offset, 30 + 2 * offset).slice(offset, 30)
        edges = [0, *sorted(cuts), 30]
        chunked = pa.concat_tables([wider.slice(low, high - low) for low, high in itertools.pairwise(edges)])
        hashes = {write_shard(folder, i, table).sha256 for i, table in enumerate([plain, wider, chunked])}
        assert len(hashes) == 1


def test_what_lies_under_a_null_does_not_show(tmp_path: Path) -> None:
    hidden = np.array([1.0, 2.0, 3.0], np.float32)
    mask = np.array([False, True, False])
    one = rows(0, 3).append_column("score", pa.array(hidden, mask=mask))
    two = rows(0, 3).append_column("score", pa.array(np.where(mask, np.float32(9), hidden), mask=mask))
    assert write_shard(tmp_path, 0, one).sha256 == write_shard(tmp_path, 1, two).sha256


@pytest.mark.parametrize("size", [0, 200, 1000])
def test_a_disk_that_takes_no_more_leaves_no_half_shard(tmp_path: Path, size: int) -> None:
    with largest_file(size), pytest.raises(WorkError, match="File too large"):
        write_shard(tmp_path, 0, rows(0, 30))
    assert list(tmp_path.iterdir()) == []


def test_a_negative_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="negative"):
        write_shard(tmp_path, -1, rows(0, 1))


def test_finished_shards_are_those_that_were_written(tmp_path: Path) -> None:
    written = {index: write_shard(tmp_path, index, rows(index, 2)) for index in (100_000, 99_999, 0)}
    (tmp_path / "partial.json").touch()
    (tmp_path / ".shard-00001.arrow.5.tmp").touch()
    done = finished_shards(tmp_path)
    assert done == written
    assert list(done) == [0, 99_999, 100_000]


@pytest.mark.parametrize("keep", [0, 10, 300, -1])
def test_a_truncated_shard_is_named_and_to_be_written_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keep: int
) -> None:
    write_shard(tmp_path, 0, rows(0, 20))
    info = write_shard(tmp_path, 1, rows(20, 20))
    path = tmp_path / info.name
    path.write_bytes(path.read_bytes()[:keep])
    assert list(finished_shards(tmp_path)) == [0]
    assert "shard-00001.arrow: the shard is damaged" in capsys.readouterr().err
    assert write_shard(tmp_path, 1, rows(20, 20)) == info
    assert list(finished_shards(tmp_path)) == [0, 1]


def test_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="cannot be listed"):
        finished_shards(tmp_path / "none")

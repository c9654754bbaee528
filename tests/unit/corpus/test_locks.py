"""Several workers in one folder: who may come in, and who finishes it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.corpus.locks import FolderLock, Part
from seqkd.corpus.manifest import Manifest, Provenance, StageOutput, read_manifest
from seqkd.corpus.writer import finished_shards, write_shard
from seqkd.errors import ConflictError, InputError, WorkError
from tests.events import before
from tests.unit.corpus.corpora import rows

MADE_BY = Provenance(stage="distill", settings={"beam": 5}, inputs={})


def join(folder: Path, part: str | None = None, *, overwrite: bool = False) -> StageOutput:
    return StageOutput.open(
        folder, "corpus", MADE_BY, overwrite=overwrite, part=None if part is None else Part.parse(part)
    )


@given(st.integers(1, 20), st.integers(0, 50))
def test_parts_are_a_partition_of_the_shards(count: int, total: int) -> None:
    parts = [Part(index, count).shards(total) for index in range(1, count + 1)]
    assert sorted(shard for part in parts for shard in part) == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "-1/3", "a/b", "1/3/5", " 1/3", ""])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--worker"):
        Part.parse(text)


def test_workers_share_a_folder_and_the_last_one_finishes_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, second = join(out, "1/2"), join(out, "2/2")
    with first, second:
        infos = [write_shard(out, 0, rows(0, 3)), write_shard(out, 1, rows(3, 2))]
        manifest = Manifest(kind="corpus", fingerprint=MADE_BY.fingerprint, rows=5, shards=infos)
        with pytest.raises(ValueError, match="shared"):
            first.commit(manifest)
        assert not first.last()
        assert second.last()
        second.commit(manifest)
    assert {entry.name for entry in out.iterdir()} == {
        "manifest.json",
        "cost.json",
        "shard-00000.arrow",
        "shard-00001.arrow",
    }
    assert join(out, "1/2").complete


def test_a_part_given_twice_is_told(tmp_path: Path) -> None:
    with join(tmp_path, "2/3"):
        with pytest.raises(ConflictError, match="another process is working as worker 2/3"):
            join(tmp_path, "2/3")
        join(tmp_path, "1/3").close()
    join(tmp_path, "2/3").close()


def test_a_worker_and_a_process_without_a_part_exclude_each_other(tmp_path: Path) -> None:
    with join(tmp_path), pytest.raises(ConflictError, match="in use by another process"):
        join(tmp_path, "1/2")
    with join(tmp_path, "1/2"), pytest.raises(ConflictError, match="in use by another process"):
        join(tmp_path)


def test_a_worker_does_not_sweep_away_what_another_one_is_writing(tmp_path: Path) -> None:
    with join(tmp_path, "1/2"):
        (tmp_path / ".shard-00000.arrow.5.tmp").touch()
        with join(tmp_path, "2/2"):
            assert (tmp_path / ".shard-00000.arrow.5.tmp").exists()
    with join(tmp_path, "2/2"):  # alone again: it is left over from a process that was killed
        assert not (tmp_path / ".shard-00000.arrow.5.tmp").exists()


def test_a_worker_of_other_settings_is_refused(tmp_path: Path) -> None:
    changed = Provenance(stage="distill", settings={"beam": 4}, inputs={})
    with join(tmp_path, "1/2"), pytest.raises(ConflictError, match=r"config\.beam: 5 -> 4"):
        StageOutput.open(tmp_path, "corpus", changed, overwrite=False, part=Part.parse("2/2"))


def test_file_systems_without_locks_are_told(tmp_path: Path) -> None:
    def refused(*_: object) -> None:
        raise OSError(37, "No locks available")

    with before("fcntl.flock", refused), pytest.raises(WorkError, match="cannot be locked: No locks available"):
        FolderLock(tmp_path, None)


def _work(out: Path, part: str, shards: int) -> None:
    """What a stage does: start, write the shards of the part, and finish if it is the last."""
    with join(out, part) as output:
        if output.complete:
            os._exit(3)
        for shard in Part.parse(part).shards(shards):
            write_shard(out, shard, rows(10 * shard, 2))
        if not output.last():
            os._exit(0)
        infos = finished_shards(out)
        if len(infos) == shards:
            output.commit(
                Manifest(kind="corpus", fingerprint=MADE_BY.fingerprint, rows=2 * shards, shards=list(infos.values()))
            )
            os._exit(10)
    os._exit(0)


@pytest.mark.parametrize("repeat", range(3))
def test_exactly_one_of_many_finishes(tmp_path: Path, repeat: int) -> None:  # noqa: ARG001
    context: Any = multiprocessing.get_context("fork")
    crowd = [context.Process(target=_work, args=(tmp_path, f"{index}/6", 20)) for index in range(1, 7)]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join(60)
    codes = [process.exitcode for process in crowd]
    assert codes.count(10) == 1, codes
    assert set(codes) == {0, 10}
    assert read_manifest(tmp_path).rows == 40
    assert not list(tmp_path.glob(".*"))


def test_a_killed_workers_part_is_free_at_once(tmp_path: Path) -> None:
    def hold(out: Path) -> None:
        join(out, "1/2")
        (out / "ready").touch()
        time.sleep(60)

    context: Any = multiprocessing.get_context("fork")
    process = context.Process(target=hold, args=(tmp_path,))
    process.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    (tmp_path / "ready").unlink()
    with pytest.raises(ConflictError, match="as worker 1/2"):
        join(tmp_path, "1/2")
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    with join(tmp_path, "1/2") as output:
        assert output.last()

"""Full and read-only disks, inputs that vanish, clocks that jump: a clear error, and the same bytes afterwards."""

from __future__ import annotations

import errno
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from seqkd.corpus.manifest import ShardInfo
from seqkd.corpus.writer import write_shard
from seqkd.errors import CorpusError, InputError, WorkError
from seqkd.stages import distill, select, soft_targets
from seqkd.text.vocabulary import Vocabulary
from tests.unit.stages.whole_run import STAGES, make_run, result


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system refuses to let a file grow beyond `size` bytes, as it does when the disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 2_500, 12_000, 60_000])
@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk(made: Path, tmp_path: Path, stage: str, size: int) -> None:
    name, run = STAGES[stage]
    out = tmp_path / "out"
    told = ""
    try:
        with largest_file(size):
            run(made, out)
    except WorkError as error:
        told = error.what
    assert ("cannot be" in told) == (not (out / "manifest.json").exists())  # written, finished, used
    assert told or size > 0, "a folder without contents was called whole"
    run(made, out)
    if stage != "evaluate":  # which measures speed
        assert result(out) == result(made / name)


@pytest.mark.parametrize("stage", STAGES)
def test_a_read_only_file_system(made: Path, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Path.mkdir

    def refuse(path: Path, *arguments: Any, **options: Any) -> None:
        if path == tmp_path / "out":
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        make(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(WorkError, match=r"out: cannot be .*Read-only(.|\n)*choose another --out"):
            STAGES[stage][1](made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("module", [distill, select, soft_targets], ids=lambda module: module.__name__.split(".")[-1])
def test_an_input_that_vanishes_at_work(
    made: Path, tmp_path: Path, module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that is not open yet: it is named, and with it back the stage goes on."""
    stage = module.__name__.rsplit(".", 1)[-1]
    source = {"distill": "gold/train", "select": "kbest", "soft_targets": "distilled"}[stage]
    shard = made / source / "shard-00001.arrow"
    away = tmp_path / "away.arrow"

    def write(folder: Path, index: int, table: pa.Table) -> ShardInfo:
        info = write_shard(folder, index, table)
        if shard.exists():
            shard.rename(away)
        return info

    name, run = STAGES[stage]
    target = "seqkd.stages.selecting.write_shard" if stage == "select" else f"{module.__name__}.write_shard"
    try:
        with monkeypatch.context() as patch:
            patch.setattr(target, write)
            if stage == "soft_targets":  # has every shard open from the start: nothing is missed
                run(made, tmp_path / "out")
            else:
                with pytest.raises(CorpusError, match=r"shard-00001.arrow: missing, but listed in the manifest"):
                    run(made, tmp_path / "out")
                assert not (tmp_path / "out" / "manifest.json").exists()
    finally:
        away.rename(shard)
    run(made, tmp_path / "out")
    assert result(tmp_path / "out") == result(made / name)


def test_text_that_vanishes_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, run = Vocabulary.train, STAGES["prepare"][1]
    text, away = tmp_path / "text" / "train.de", tmp_path / "train.de"

    def gone(*arguments: Any, **options: Any) -> Vocabulary:
        vocabulary = train(*arguments, **options)
        text.rename(away)
        return vocabulary

    with monkeypatch.context() as patch:
        patch.setattr(Vocabulary, "train", gone)
        with pytest.raises((InputError, WorkError), match=r"train\.de"):
            run(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
    away.rename(text)
    run(tmp_path, tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").exists()


def jumping() -> Callable[[], float]:
    """A wall clock that is set on and back all the time, to before 1970 too."""
    times = iter(range(10**9))
    return lambda: (-1.0) ** next(times) * 3e9


@pytest.mark.parametrize("stage", STAGES)
def test_a_clock_that_jumps(
    made: Path, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is made, rates and times left do not come from it."""
    monkeypatch.setattr(time, "time", jumping())
    name, run = STAGES[stage]
    run(made, tmp_path / "out")
    if stage != "evaluate":
        assert result(tmp_path / "out") == result(made / name)
    said = capfd.readouterr().err
    assert " -" not in said
    assert "83" + "3" not in said  # thousand hours

"""Full and read-only disks, inputs that vanish, clocks that jump: a clear error, and the same bytes afterwards."""

from __future__ import annotations

import errno
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from seqkd.corpus import reader
from seqkd.errors import InputError, SeqkdError, WorkError
from seqkd.metrics import speed
from seqkd.models.checkpoint import read_config
from seqkd.stages.train import train
from tests.events import before, largest_file
from tests.torture.disk import before_each_event
from tests.torture.table import Record
from tests.unit.stages.teachers import student_config
from tests.unit.stages.whole_run import STAGES, make_run, result

Run = Callable[[Path, Path], None]

SIZES = (0, 2_500, 12_000, 60_000)  # bytes, of the largest file
MOMENTS = {False: 1, True: 5}  # in the short form, in full


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short measurements of speed, and shards that are opened again whenever another one was wanted."""
    monkeypatch.setattr(speed, "SECONDS", 0.005)
    monkeypatch.setattr(speed, "LATENCY_SECONDS", 0.005)
    defaults = reader.Corpus.open.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "mapped_shards", 1)


def train_after_a_teacher(root: Path, out: Path) -> None:
    """From its weights, and with it beside."""
    teacher = read_config(root / "teacher")
    config = student_config(
        root / "gold",
        {"teachers": [root / "teacher"]},
        training={"max_updates": 2, "validate_every": 1},
        init_from=root / "teacher",
        model={"arch": teacher["arch"], **teacher["settings"]},
    )
    train.run(config, out, device="cpu")


# --- disks --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk(made: Path, tmp_path: Path, full: bool, record: Record, stage: str) -> None:
    name, run = STAGES[stage]
    draw = random.Random(stage)
    drawn = [int(10 ** draw.uniform(2.0, 5.0)) for _ in range(MOMENTS[True])] if full else []
    times = 0
    for number, size in enumerate((*SIZES, *drawn)):
        out = tmp_path / f"out{number}"
        told = ""
        try:
            with largest_file(size):
                run(made, out)
        except WorkError as error:
            told = error.what
        assert ("cannot be" in told) == (not (out / "manifest.json").exists()), size  # written, finished, used
        assert told or size > 0, "a folder without contents was called whole"
        times += bool(told)
        run(made, out)
        assert result(out) == result(made / name), size
    record(
        "the disk is full",
        "files may not grow beyond 0 to 100,000 bytes",
        times,
        "the error says which file cannot be written, and why; no manifest; with room again the same command ends with "
        "the same bytes",
        of=f"`{stage}`",
    )


@pytest.mark.parametrize("stage", STAGES)
def test_a_read_only_file_system(made: Path, tmp_path: Path, stage: str, record: Record) -> None:
    def refuse(path: Any, *_: object) -> None:
        if Path(path) == tmp_path / "out":
            raise OSError(errno.EROFS, "Read-only file system", str(path))

    refused = pytest.raises(WorkError, match=r"out: cannot be .*Read-only(.|\n)*choose another --out")
    with before("os.mkdir", refuse), refused:
        STAGES[stage][1](made, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    record(
        "the output folder's file system is read-only",
        "the folder cannot be made",
        1,
        "the error names it and says what to do; nothing is left",
        of=f"`{stage}`",
    )


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_file_system_that_becomes_read_only(
    made: Path, tmp_path: Path, stage: str, full: bool, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Linux makes it after an error of the disk."""
    name, run = STAGES[stage]
    moments = random_moments(lambda: run(made, tmp_path / "whole"), stage, full, monkeypatch)
    for moment in moments:
        out = tmp_path / f"out{moment}"

        def refuse(number: int, moment: int = moment) -> None:
            if number >= moment:
                raise OSError(errno.EROFS, "Read-only file system")

        with monkeypatch.context() as patch:
            before_each_event(patch, refuse)
            with pytest.raises(WorkError, match=r"cannot be .*Read-only"):
                run(made, out)
        if (out / "manifest.json").exists():  # the very last fsync was refused: that of the manifest's name
            assert result(made / name).items() <= result(out).items(), moment
        run(made, out)
        assert result(out) == result(made / name), moment
    record(
        "the output folder's file system becomes read-only at work",
        "from a random moment on every fsync and rename is refused",
        len(moments),
        "the error says which file cannot be written, and why; no manifest, unless all else was on the disk; "
        "afterwards the same command ends with the same bytes",
        of=f"`{stage}`",
    )


def random_moments(work: Callable[[], None], seed: str, full: bool, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Some of the fsyncs and renames of some work, which is done once."""
    events = 0

    def count(number: int) -> None:
        nonlocal events
        events = number + 1

    with monkeypatch.context() as patch:
        before_each_event(patch, count)
        work()
    return sorted(random.Random(seed).sample(range(events), min(events, MOMENTS[full])))


# --- inputs -------------------------------------------------------------------------------------------------------

RUNS: dict[str, Run] = {stage: run for stage, (_, run) in STAGES.items()} | {
    "train after a teacher": train_after_a_teacher
}
INPUTS = [
    ("prepare", "text/train.de"),
    ("train", "gold/train/shard-00001.arrow"),
    ("train", "gold/valid/shard-00000.arrow"),
    ("train", "gold/vocab.model"),
    ("train after a teacher", "gold/train/shard-00001.arrow"),
    ("train after a teacher", "teacher/model.safetensors"),
    ("distill", "gold/train/shard-00001.arrow"),
    ("distill", "teacher/model.safetensors"),
    ("select", "kbest/shard-00001.arrow"),
    ("select", "gold/train/shard-00001.arrow"),
    ("soft_targets", "distilled/shard-00001.arrow"),
    ("soft_targets", "teacher/model.safetensors"),
    ("evaluate", "gold/test/shard-00000.arrow"),
    ("evaluate", "teacher/model.safetensors"),
    ("report", "distilled/shard-00001.arrow"),
    ("report", "evaluation/result.json"),
    ("export", "teacher/model.safetensors"),
    ("import", "exported/checkpoint.pt"),
    ("import", "exported/dict.tgt.txt"),
]


@contextmanager
def away(path: Path, moment: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Takes a file away at the fsync or rename of that number, -1 at once; afterwards it is there again."""
    hidden = path.with_name("taken-away")

    def take(number: int) -> None:
        if number == moment:
            path.rename(hidden)

    with monkeypatch.context() as patch:
        take(-1)
        before_each_event(patch, take)
        try:
            yield
        finally:
            if hidden.exists():
                hidden.rename(path)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "path"), INPUTS)
def test_an_input_that_vanishes(
    made: Path, tmp_path: Path, stage: str, path: str, full: bool, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, file, out = RUNS[stage], made / path, tmp_path / "out"
    named = f"`{stage}` ({Path(path).name if '/shard-' not in path else 'a shard of ' + str(Path(path).parent)})"

    def clear(error: SeqkdError) -> bool:
        """It says where, and what to do or what was expected."""
        return file.name in str(error) and str(file.parent) in error.where and bool(error.expected or error.hint)

    with away(file, -1, monkeypatch), pytest.raises(InputError) as caught:
        run(made, out)
    assert clear(caught.value), caught.value
    assert not out.exists()
    record(
        "an input is missing", "deleted before the start", 1, "the error names it; no output folder is begun", of=named
    )
    moments = random_moments(lambda: run(made, tmp_path / "whole"), stage + path, full, monkeypatch)
    told = 0
    for moment in moments:
        out = tmp_path / f"out{moment}"
        problem = None
        with away(file, moment, monkeypatch):
            try:
                run(made, out)
            except (InputError, WorkError) as error:
                problem = error
        if problem is not None:
            told += 1
            assert clear(problem), problem
            assert not (out / "manifest.json").exists()
        run(made, out)
        assert result(out) == result(tmp_path / "whole"), moment
    record(
        "an input vanishes at work",
        "deleted at a random moment (a shard is opened whenever it is wanted)",
        len(moments),
        "{told} times the error named it and there was no manifest, else it had been read; with it back the same "
        "command ended with the same bytes",
        of=named,
        counts={"told": told},
    )


@pytest.mark.parametrize("stage", ["train", "distill", "soft_targets", "evaluate"])
def test_where_nothing_is_to_do_no_ids_are_read(made: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each shard, that is; a corpus may take minutes to read."""

    def read(*_: object) -> None:
        raise AssertionError

    name, run = STAGES[stage]
    monkeypatch.setattr(reader.Corpus, "check_ids", read)
    run(made, made / name)
    with pytest.raises(AssertionError):
        run(made, made / "not there")
    assert not (made / "not there").exists()


# --- clocks -------------------------------------------------------------------------------------------------------


def jumping() -> Callable[[], float]:
    """A wall clock that is set on and back all the time, to before 1970 too."""
    times = iter(range(10**9))
    return lambda: (-1.0) ** next(times) * 3e9


@pytest.mark.parametrize("stage", STAGES)
def test_a_clock_that_jumps(
    made: Path,
    tmp_path: Path,
    stage: str,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What is made, rates and times left do not come from it."""
    monkeypatch.setattr(time, "time", jumping())
    name, run = STAGES[stage]
    run(made, tmp_path / "out")
    assert result(tmp_path / "out") == result(made / name)
    said = capfd.readouterr().err
    assert " -" not in said
    assert re.search(r"\d{3,}:\d\d", said) is None  # hundreds of hours, or of minutes
    record(
        "the clock jumps",
        "set on and back by decades at each look, to before 1970 too",
        1,
        "the same bytes; rates and times left come from the monotonic clock",
        of=f"`{stage}`",
    )

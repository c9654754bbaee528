"""Stages shared by several workers: the bytes of one process, whoever finishes the folder."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from seqkd.config.select import FilterConfig
from seqkd.config.stages import DistillConfig, PrepareConfig, SearchConfig, SelectConfig, SoftTargetsConfig
from seqkd.corpus.locks import Part
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import ConflictError, WorkError
from seqkd.executors.work import Scale
from seqkd.stages.distill import distill, soft_targets
from seqkd.stages.prepare import prepare
from seqkd.stages.select import select
from tests.events import before, interrupted_before, placed
from tests.manifests import comparable
from tests.unit.stages import teachers
from tests.unit.stages.support import prepare_config
from tests.unit.stages.test_distill import make_teacher


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gold corpus of five shards, a teacher, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("sharing")
    settings = prepare_config(folder)
    prepare.run(PrepareConfig(**{**settings.__dict__, "shard_rows": 40}), folder / "gold")
    make_teacher(folder / "teacher", folder / "gold" / "vocab.model")
    distill.run(distilling(folder), folder / "kbest", device="cpu")
    select.run(selecting(folder), folder / "seqkd")
    # The longest rows do not fit this teacher, so the list of rows left out is not empty.
    longest = int(max(map(max, Corpus.open(folder / "gold" / "train").lengths()[1:])))
    teachers.make_teacher(folder / "small", folder / "gold" / "vocab.model", max_positions=longest)
    soft_targets.run(softening(folder), folder / "soft", device="cpu")
    assert read_manifest(folder / "soft").counts["longer than a teacher's max_positions"] > 0
    assert len(Corpus.open(folder / "seqkd").shards) == 5
    return folder


def distilling(folder: Path) -> DistillConfig:
    return DistillConfig(
        models=(folder / "teacher",),
        corpus=folder / "gold" / "train",
        search=SearchConfig(beam=2, nbest=2, max_length_ratio=0.5, max_length_extra=2),
        batch_tokens=200,
        workers=1,
    )


def selecting(folder: Path) -> SelectConfig:
    # What sees the whole corpus, too: duplicates, and a percentile of all scores.
    return SelectConfig(
        kbest=folder / "kbest",
        gold=folder / "gold" / "train",
        prepared=folder / "gold",
        rule="seqinter",
        filters=FilterConfig.model_validate({"duplicates": True, "worst_percent": 20.0}),
    )


def softening(folder: Path) -> SoftTargetsConfig:
    return teachers.soft_config(folder / "gold", folder / "small", top_k=4)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: comparable(path) for path in folder.iterdir() if path.name != "speed.json"}


def part(text: str) -> Scale:
    return Scale(part=Part.parse(text))


def test_distill_in_parts(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for number in (2, 3):
        distill.run(distilling(made), out, device="cpu", scale=part(f"{number}/3"))
        assert not (out / "manifest.json").exists()
    assert "part 3/3 is done, but shards 0, 3 of other parts are missing" in capsys.readouterr().err
    distill.run(distilling(made), out, device="cpu", scale=part("1/3"))
    assert contents(out) == contents(made / "kbest")
    assert 0 <= json.loads((out / "speed.json").read_text())["waiting_for_writing"] < 1
    distill.run(distilling(made), out, device="cpu", scale=part("2/3"))
    assert "up to date" in capsys.readouterr().err


def test_select_in_parts(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in (1, 2):
        select.run(selecting(made), out, scale=part(f"{number}/2"))
    assert contents(out) == contents(made / "seqkd")


def test_soft_targets_in_parts(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for number in (3, 1):
        soft_targets.run(softening(made), out, device="cpu", scale=part(f"{number}/3"))
        assert not (out / "manifest.json").exists()
    assert "part 1/3 is done, but shards 1, 4 of other parts are missing" in capsys.readouterr().err
    soft_targets.run(softening(made), out, device="cpu", scale=part("2/3"))
    assert contents(out) == contents(made / "soft")


@pytest.mark.slow
def test_soft_targets_by_two_processes(made: Path, tmp_path: Path) -> None:
    config = softening(made).model_copy(update={"workers": 2})
    soft_targets.run(config, tmp_path / "out", device="cpu")
    assert contents(tmp_path / "out") == contents(made / "soft")


def test_more_workers_than_shards(made: Path, tmp_path: Path) -> None:
    for number in (7, 6, 5, 4, 3, 2, 1):
        select.run(selecting(made), tmp_path / "out", scale=part(f"{number}/7"))
    assert contents(tmp_path / "out") == contents(made / "seqkd")


def test_a_run_without_a_part_finishes_what_workers_left(made: Path, tmp_path: Path) -> None:
    distill.run(distilling(made), tmp_path / "out", device="cpu", scale=part("2/2"))
    distill.run(distilling(made), tmp_path / "out", device="cpu")
    assert contents(tmp_path / "out") == contents(made / "kbest")


def test_a_crashed_worker_is_run_again(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with interrupted_before("shard-00002.arrow"), pytest.raises(KeyboardInterrupt):
        distill.run(distilling(made), out, device="cpu", scale=part("1/2"))
    distill.run(distilling(made), out, device="cpu", scale=part("2/2"))
    assert not (out / "manifest.json").exists()
    with placed(".arrow") as written:
        distill.run(distilling(made), out, device="cpu", scale=part("1/2"))
    assert written == ["shard-00002.arrow", "shard-00004.arrow"]
    assert contents(out) == contents(made / "kbest")


def test_one_part_for_two_processes(made: Path, tmp_path: Path) -> None:
    """The second one is refused while the first is at work, which it does not disturb."""
    out = tmp_path / "out"
    refused: list[Path] = []

    def try_as_well(_: object, target: Any, *__: object) -> None:
        if not refused and Path(target).suffix == ".arrow":
            refused.append(Path(target))
            with pytest.raises(ConflictError, match="another process is working as worker 1/1"):
                distill.run(distilling(made), out, device="cpu", scale=part("1/1"))

    with before("os.rename", try_as_well):
        distill.run(distilling(made), out, device="cpu", scale=part("1/1"))
    assert refused
    assert contents(out) == contents(made / "kbest")


def test_a_stop_ends_after_the_shard_in_hand(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def stop(_: object, target: Any, *__: object) -> None:
        if Path(target).name == "shard-00002.arrow":
            os.kill(os.getpid(), signal.SIGTERM)

    # While a shard is written, the next one is decoded, unless it has not been begun yet.
    with before("os.rename", stop), pytest.raises(WorkError, match=r"stopped after [34] of 5 shards") as raised:
        distill.run(distilling(made), out, device="cpu")
    assert raised.value.exit_code == 1
    assert f"after {len(list(out.glob('shard-*')))} of" in raised.value.what
    distill.run(distilling(made), out, device="cpu")
    assert contents(out) == contents(made / "kbest")

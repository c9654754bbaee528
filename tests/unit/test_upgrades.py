"""What an earlier version wrote is read, inspected, verified, reported, found up to date and continued."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seqkd.cli.main import main
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.models.checkpoint import load_model
from seqkd.tools.verify import verify
from tests.unit.earlier_runs import RUN, unpack

FINISHED = {
    "prepare": ("prepare", "gold"),
    "teacher": ("train", "teacher"),
    "distill.beam2": ("distill", "kbest/beam2"),
    "select.seqkd": ("select", "corpora/seqkd"),
    "soft_targets.top4": ("distill --soft-targets", "soft_targets/top4"),
    "student.soft": ("train", "students/soft"),
    "evaluate.teacher": ("evaluate", "evaluations/teacher"),
    "evaluate.soft": ("evaluate", "evaluations/soft"),
    "report": ("report", "report"),
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    unpack(tmp_path)
    monkeypatch.chdir(tmp_path)  # the stage files name folders from here
    return RUN


def call(name: str, stage: str, out: str, *more: str) -> int:
    config = RUN / "config" / f"{name}.toml"
    return main([*stage.split(), "--config", str(config), "--out", str(RUN / out), "--device", "cpu", *more])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_stage_is_up_to_date(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run)
    assert call(name, *FINISHED[name], "--overwrite-changed") == 0
    said = capsys.readouterr().err
    assert said.endswith("is up to date\n")
    later = {"soft_targets.top4": "soft targets", "report": "alignment"}.get(name)  # results of a later revision
    assert len(said.splitlines()) == (1 if later is None else 2)
    assert f"{later} of revision 1, now 2" in said or later is None
    assert contents(run) == before


def test_an_evaluation_of_before_there_were_baselines_is_used_as_it_is(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run / "evaluations")
    edit("evaluate.soft", 'role = "student"', f'role = "student"\nbaseline = "{RUN}/evaluations/teacher"')
    assert call("evaluate.soft", *FINISHED["evaluate.soft"], "--overwrite-changed") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("is up to date, without a comparison with teacher; --overwrite makes one")
    assert contents(run / "evaluations") == before


def test_folders_are_read(run: Path) -> None:
    kinds = {"kbest/beam2": "kbest", "corpora/seqkd": "corpus", "soft_targets/top4": "soft", "gold/train": "corpus"}
    for folder, kind in kinds.items():
        assert sum(table.num_rows for table in Corpus.open(run / folder, kind).tables()) == 150
    for folder in ("teacher", "students/soft"):
        assert load_model(run / folder).arch == "transformer"


def test_a_run_is_verified(run: Path) -> None:
    found = verify(run)
    assert found.problems == []
    assert found.notes == []
    assert len(found.folders) == 12


@pytest.mark.parametrize("folder", [".", *(out for _, out in FINISHED.values())])
def test_a_folder_is_inspected(folder: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(run / folder)]) == 0
    shown = capsys.readouterr().out
    assert {".": "kbest/beam2", "kbest/beam2": "precision", "students/soft": "word_kd"}.get(folder, "") in shown


def kept(new: Any, old: Any) -> Any:
    """What `new` says of the keys that `old` has; later versions may say more."""
    if isinstance(old, dict):
        return {key: kept(new[key], value) for key, value in old.items()}
    return new


def test_a_run_is_reported(run: Path) -> None:
    assert call("report", "report", "new-report") == 0
    old, new = (json.loads((run / folder / "report.json").read_text()) for folder in ("report", "new-report"))
    assert {model["name"] for model in new["models"]} == {"teacher", "soft"}
    for before, after in zip(old["models"], new["models"], strict=True):
        assert kept(after, before) == before


def test_a_killed_training_is_continued(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = json.loads((run / "students/cut/history.json").read_text())
    assert call("student.cut", "train", "students/cut", "--overwrite-changed") == 0
    history = json.loads((run / "students/cut/history.json").read_text())
    assert history[:1] == first
    assert [line["update"] for line in history] == [10, 20, 30]
    assert "starting anew" not in capsys.readouterr().err
    assert load_model(run / "students/cut").arch == "transformer"


def test_a_killed_distillation_is_continued(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = run / "kbest/cut/shard-00000.arrow"
    before = shard.stat()
    assert call("distill.cut", "distill", "kbest/cut", "--overwrite-changed") == 0
    assert (shard.stat().st_ino, shard.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert read_manifest(run / "kbest/cut").rows == 150
    assert "starting anew" not in capsys.readouterr().err
    assert verify(run / "kbest/cut").problems == []


def edit(name: str, old: str, new: str) -> None:
    path = RUN / "config" / f"{name}.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("name", ["distill.beam2", "soft_targets.top4", "evaluate.soft"])
def test_a_precision_that_had_worked_is_that_of_auto_and_of_itself(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Version 0.1.0 recorded the precision that it had chosen, not `auto`."""
    found = read_manifest(run / FINISHED[name][1]).fingerprint["config"]["precision"]
    edit(name, 'precision = "auto"', f'precision = "{found}"')
    assert call(name, *FINISHED[name]) == 0
    edit(name, f'precision = "{found}"', f'precision = "{"bf16" if found == "float32" else "float32"}"')
    assert call(name, *FINISHED[name]) == 2
    assert "config.precision: " in capsys.readouterr().err


def test_an_unfinished_folder_of_another_precision_is_refused_with_both(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run / "kbest/cut")
    partial = run / "kbest/cut/partial.json"
    note = json.loads(partial.read_text())
    note["fingerprint"]["config"].update(precision="bf16", device="cuda")
    partial.write_text(json.dumps(note))
    edit("distill.cut", 'precision = "float32"', 'precision = "auto"')
    assert call("distill.cut", "distill", "kbest/cut", "--overwrite-changed") == 2
    said = capsys.readouterr().err
    assert "precision: bf16 -> " in said
    assert "device: cuda -> cpu" in said
    assert contents(run / "kbest/cut").keys() == before.keys()


def test_a_changed_option_moves_the_folder_and_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = read_manifest(run / "corpora/seqkd")
    edit("select.seqkd", 'rule = "seqkd"', 'rule = "seqinter"')
    assert call("select.seqkd", "select", "corpora/seqkd", "--overwrite-changed") == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "starting anew" in line]
    assert 'config.rule: "seqkd" -> "seqinter"' in line
    assert line.endswith(str(run / "corpora/seqkd.old"))
    assert read_manifest(run / "corpora/seqkd.old") == old
    assert read_manifest(run / "corpora/seqkd").fingerprint["config"]["rule"] == "seqinter"
    assert main(["inspect", str(run)]) == 0
    assert ".old" not in capsys.readouterr().out

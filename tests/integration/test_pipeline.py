"""Real stages under the real Make and the real command line, on tiny data."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqkd.cli.main import main
from seqkd.corpus.manifest import MANIFEST, read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.models.checkpoint import model_digest
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.stages import plan_stages
from tests.integration.pipelines import (
    ROOT,
    environment,
    make,
    make_command,
    run_stages,
    shrunk,
    toy_text,
    write_pipeline,
)

pytestmark = pytest.mark.slow

HELD_OUT = 8


class Toy:
    """The toy pipeline, shrunk, and what Make made of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self.root = self.runs / "toy"
        self.text = folder / "text"
        held_out = toy_text(self.text, rows=1, held_out=HELD_OUT)
        self.values = shrunk(ROOT / "pipelines" / "toy.toml")
        self.values["students"] = self.values["students"][:2]
        self.values["evaluate"]["beams"] = [1, 2]
        self.values["data"]["fetch"]["args"] = ["--rows", "200"]
        self.values["data"] |= {part: held_out[part] for part in ("valid", "test")}
        self.file = write_pipeline(self.values, folder)

    def make(self, *words: str) -> str:
        return make(self.file, self.runs, *words)

    def change(self, student: str, **training: Any) -> None:
        for part in self.values["students"]:
            if part["name"] == student:
                part["training"] |= training
        write_pipeline(self.values, self.folder)

    def manifests(self) -> dict[str, int]:
        """Each finished folder, and when Make last saw it made."""
        return {str(path.parent.relative_to(self.root)): path.stat().st_mtime_ns for path in self.root.rglob(MANIFEST)}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """Made once, with two jobs side by side; each test below leaves it whole."""
    made = Toy(tmp_path_factory.mktemp("toy"))
    made.make("--jobs=2", "report")
    return made


def test_make_report_makes_everything(toy: Toy) -> None:
    stages = plan_stages(read_pipeline(toy.file), toy.runs)
    assert all(stage.target.is_file() for stage in stages)
    report = json.loads((toy.root / "report" / "report.json").read_text())
    assert report["pipeline"] == "toy"
    assert [entry["name"] for entry in report["corpora"]] == ["gold", "seqkd", "seqinter"]
    assert [entry["name"] for entry in report["distill"]] == ["beam5"]
    assert [(entry["name"], entry["role"], entry["corpus"]) for entry in report["models"]] == [
        ("teacher", "teacher", "gold"),
        ("gold", "student", "gold"),
        ("seqkd", "student", "seqkd"),
    ]
    for entry in report["models"]:
        assert set(entry["bleu"]) == {"1", "2"}
        assert 0.0 <= entry["valid"] <= 1.0
    assert "</html>" in (toy.root / "report" / "report.html").read_text()


def test_rows_line_up_from_the_text_to_the_distilled_corpora(toy: Toy) -> None:
    gold = Corpus.open(toy.root / "gold" / "train", "corpus")
    kbest = Corpus.open(toy.root / "kbest" / "beam5", "kbest")
    assert gold.rows == kbest.rows > 150
    sources = {row["id"]: row["source"] for table in gold.tables(["id", "source"]) for row in table.to_pylist()}
    for name in ("seqkd", "seqinter"):
        corpus = Corpus.open(toy.root / "corpora" / name, "corpus")
        rows = [row for table in corpus.tables() for row in table.to_pylist()]
        assert rows
        assert len(rows) + sum(corpus.manifest.counts.values()) == gold.rows
        assert all(sources[row["id"]] == row["source"] for row in rows)


def test_a_second_run_does_nothing(toy: Toy) -> None:
    before = toy.manifests()
    assert "Nothing to be done for 'report'" in toy.make("report")
    assert toy.manifests() == before


def test_stages_with_nothing_to_do_leave_their_folders_as_they_are(toy: Toy) -> None:
    before = {path: path.read_bytes() for path in toy.root.rglob("*") if path.is_file()}
    for config in (toy.root / "config").iterdir():
        config.touch()
    shown = toy.make("report")
    assert shown.count("is up to date") == len(toy.manifests()) - 3  # gold's train, valid and test are one stage
    assert {path: path.read_bytes() for path in toy.root.rglob("*") if path.is_file()} == before
    assert "Nothing to be done for 'report'" in toy.make("report")


def test_a_changed_student_is_trained_again_and_no_other(toy: Toy) -> None:
    folders = {name: toy.root / name for name in ("teacher", "students/gold", "students/seqkd")}
    models, times = {name: model_digest(folder) for name, folder in folders.items()}, toy.manifests()
    toy.change("seqkd", learning_rate=1e-4)
    toy.make("report")
    assert {name for name, folder in folders.items() if model_digest(folder) != models[name]} == {"students/seqkd"}
    now = toy.manifests()
    changed = {"students/seqkd", "evaluations/seqkd", "report"}
    assert {name for name in times if now[name] != times[name]} == changed
    assert now.keys() - times.keys() == {f"{name}.old" for name in changed}
    assert model_digest(toy.root / "students/seqkd.old") == models["students/seqkd"]


def test_a_killed_training_is_finished_by_the_next_run(toy: Toy, tmp_path: Path) -> None:
    toy.change("gold", max_updates=60, validate_every=6)
    out = toy.root / "students" / "gold"
    process = subprocess.Popen(
        make_command(toy.file, toy.runs, "students"),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: not (out / MANIFEST).exists() and any(out.glob("state/*")), process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (out / MANIFEST).exists()
    toy.make("students")
    history = json.loads((out / "history.json").read_text())
    assert [entry["update"] for entry in history] == list(range(6, 61, 6))
    # It is the model that a training without a break gives.
    whole = tmp_path / "whole"
    command = ["train", "--config", str(toy.root / "config" / "student.gold.toml"), "--out", str(whole)]
    subprocess.run(
        [sys.executable, "-m", "seqkd", *command, "--device", "cpu"], cwd=ROOT, env=environment(), check=True
    )
    assert model_digest(whole) == model_digest(out)


def test_a_folder_with_other_settings_is_refused_without_overwrite(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = toy.root / "config" / "select.seqkd.toml"
    other = tmp_path / "select.toml"  # outside the run, whose folders it names by `{run}`
    other.write_text(config.read_text().replace('"seqkd"', '"seqinter"').replace("{run}", str(toy.root)))
    out = toy.root / "corpora" / "seqkd"
    before = read_manifest(out).digest()
    assert main(["select", "--config", str(other), "--out", str(out)]) == 2
    assert "config.rule" in capsys.readouterr().err
    assert read_manifest(out).digest() == before


def test_a_model_of_the_pipeline_translates_scores_and_is_shown(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    model = str(toy.root / "students" / "seqkd")
    text = toy.text
    with (text / "test.src").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert main(["translate", "--model", model, "--beam", "2", "--device", "cpu"]) == 0
    assert capfdbinary.readouterr().out.count(b"\n") == HELD_OUT
    words = ["--source", str(text / "test.src"), "--target", str(text / "test.tgt"), "--device", "cpu"]
    assert main(["score", "--model", model, *words]) == 0
    assert capfdbinary.readouterr().out.count(b"\n") == HELD_OUT
    for folder in ("", "gold", "gold/train", "kbest/beam5", "corpora/seqkd", "students/seqkd", "report"):
        assert main(["inspect", str(toy.root / folder)]) == 0
        assert capfdbinary.readouterr().out


def test_a_brought_teacher_brings_its_vocabulary(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    values = shrunk(toy.file, toy_text(tmp_path / "text", rows=100, held_out=4))
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    for name in ("model.safetensors", "config.json", "vocab.model"):
        (teacher / name).write_bytes((toy.root / "teacher" / name).read_bytes())
    runs = tmp_path / "runs"
    small = write_pipeline(values | {"teacher": {"path": str(teacher)}}, tmp_path)
    before, _, rest = small.read_text().partition("[prepare.vocabulary]\n")
    small.write_text(before + rest[rest.index("\n\n") :])
    run_stages(small, runs)
    vocabularies = [path.read_bytes() for path in tmp_path.rglob("vocab.model")]
    assert len(vocabularies) == 2 + len(values["students"])  # the teacher's, the corpora's, the students'
    assert len(set(vocabularies)) == 1
    report = json.loads((runs / "toy" / "report" / "report.json").read_text())
    assert report["models"][0]["role"] == "teacher"


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    """Wait until `condition` holds while `process` is still at work."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it was over before it could be killed"
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)

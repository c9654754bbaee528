"""From a pipeline file to Make rules; Make itself runs them here, with a stand-in for the stages."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from seqkd.cli.main import main
from seqkd.config.stages import TrainConfig
from seqkd.config.toml import load_stage
from seqkd.errors import ConfigError
from seqkd.pipeline.make import GOALS, write_plan
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.stages import plan_stages
from tests.unit.pipeline.pipeline_files import WORD_KD, edited

ROOT = Path(__file__).parents[3]
SHIPPED = sorted(ROOT.glob("pipelines/**/*.toml"))

# --- shipped files ------------------------------------------------------------------------------------------------


def test_there_are_shipped_pipelines_and_names_are_unique() -> None:
    assert {path.stem for path in SHIPPED} >= {"toy", "multi30k-en-de"}
    assert len({path.stem for path in SHIPPED}) == len(SHIPPED)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_pipeline_is_planned_by_the_cli(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["plan", str(path), "--runs", str(tmp_path)]) == 0
    plan = tmp_path / path.stem / "plan.mk"
    assert capsys.readouterr().out == f"{plan}\n"
    stages = plan_stages(read_pipeline(path), tmp_path)
    assert {file.stem for file in (tmp_path / path.stem / "config").iterdir()} == {stage.name for stage in stages}
    for stage in stages:
        assert f"\n$(RUN)/{stage.target.relative_to(plan.parent)}: " in plan.read_text()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_pipeline_opens_with_the_command_that_runs_it(path: Path) -> None:
    assert path.read_text().splitlines()[0] == f"# make PIPELINE={path.stem} report"


# --- what is written ----------------------------------------------------------------------------------------------


def test_only_stage_files_that_change_are_rewritten(pipeline: Path, tmp_path: Path) -> None:
    def times() -> dict[str, int]:
        return {file.name: file.stat().st_mtime_ns for file in (tmp_path / "runs/small/config").iterdir()}

    write_plan(pipeline, Path("runs"))
    before = times()
    edited(pipeline, "learning_rate = 0.01", "learning_rate = 0.02")
    write_plan(pipeline, Path("runs"))
    assert {name for name, time in times().items() if time != before[name]} == {"student.kd.toml"}


def test_models_that_the_kernels_do_not_fit_are_told(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(pipeline, tmp_path / "runs")
    assert capsys.readouterr().err == ""
    text = pipeline.read_text().replace("[teacher.training]", "[teacher.model]\nffn_dim = 100\n\n[teacher.training]")
    pipeline.write_text(text.replace("heads = 2", "heads = 4"))
    write_plan(pipeline, tmp_path / "runs")
    unfit = "the CPU kernels do not support dim 32 with heads 4 (8 a head); nearest: dim 64 or heads 2"
    lines = ["plan: teacher.model: the CPU kernels do not support ffn_dim 100; nearest: ffn_dim 96 or 112"]
    lines += [f"plan: students.{name}.model: {unfit}" for name in ("gold", "kd", "tuned")]
    assert capsys.readouterr().err.splitlines() == lines


def test_a_run_folder_that_make_cannot_name_is_refused(pipeline: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be a Make target"):
        write_plan(pipeline, Path("my runs"))


# --- Make ---------------------------------------------------------------------------------------------------------


class FakeMake:
    """Runs plan.mk with a shell script that notes each stage, checks its stage file and writes a manifest."""

    def __init__(self, pipeline: Path) -> None:
        self.pipeline = pipeline
        self.log = pipeline.with_name("log")
        script = pipeline.with_name("fake")
        script.write_text(
            f'#!/bin/sh\nset -e\ntest -f "$3"\nmkdir -p "$5"\necho "$1 $(basename "$5")" >> {self.log}\n'
            'touch "$5/manifest.json"\n'
        )
        script.chmod(0o755)
        self.script = script

    def __call__(self, goal: str, *flags: str, runs: str = "runs", plan: bool = True) -> list[str]:
        file = write_plan(self.pipeline, Path(runs)) if plan else Path(runs) / "small/plan.mk"
        self.log.write_text("")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
        command = ["make", "-f", str(file), f"SEQKD={self.script}", goal, *flags]
        subprocess.run(command, check=True, capture_output=True, env=environment)
        return self.log.read_text().splitlines()


@pytest.fixture
def make(pipeline: Path) -> FakeMake:
    return FakeMake(pipeline)


def test_make_runs_every_stage_once_and_then_none(make: FakeMake) -> None:
    done = make("report")
    assert sorted(done) == sorted(
        [
            "prepare gold",
            "train teacher",
            "distill beam5",
            "select kd",
            "train gold",
            "train kd",
            "train tuned",
            *(f"evaluate {name}" for name in ("teacher", "gold", "kd", "tuned")),
            "report report",
        ]
    )
    assert make("report") == []


def test_make_in_parallel_keeps_the_order(make: FakeMake) -> None:
    done = make("report", "--jobs=4")
    assert len(done) == len(set(done)) == 12
    for earlier, later in (
        ("prepare gold", "train teacher"),
        ("train teacher", "distill beam5"),
        ("distill beam5", "select kd"),
        ("select kd", "train kd"),
        ("train kd", "train tuned"),
        ("evaluate tuned", "report report"),
    ):
        assert done.index(earlier) < done.index(later)


# The gold student is the baseline of the others, which are compared with it again.
AGAIN = ("train gold", "evaluate gold", "evaluate kd", "evaluate tuned")


def test_a_changed_student_retrains_that_student_alone(make: FakeMake) -> None:
    make("report")
    edited(make.pipeline, 'corpus = "gold"', 'corpus = "gold"\ntraining = { learning_rate = 0.02 }')
    assert make("report") == [*AGAIN, "report report"]
    assert make("report") == []


def test_a_changed_comment_makes_nothing(make: FakeMake) -> None:
    make("report")
    edited(make.pipeline, "[data]", "# new\n[data]")
    assert make("report") == []


def test_a_clock_that_was_set_back(make: FakeMake) -> None:
    """What was made while the clock was ahead is not taken for newer than a change."""
    make("report")
    ahead = time.time() + 86_400
    for path in make.pipeline.parent.joinpath("runs").rglob("*"):
        os.utime(path, (ahead, ahead))
    edited(make.pipeline, 'corpus = "gold"', 'corpus = "gold"\ntraining = { learning_rate = 0.02 }')
    assert make("report") == [*AGAIN, "report report"]
    assert make("report") == []


def test_changed_text_makes_everything_again(make: FakeMake) -> None:
    make("report")
    make.pipeline.with_name("a.src").write_text("y\n")
    assert len(make("report")) == 12


def test_a_text_that_is_replaced_by_an_older_one_is_seen(make: FakeMake) -> None:
    """As by `cp -p`; also if it is of the same size, and another file of the same size and time is renamed to it."""
    old = time.time() - 86_400
    make("report")
    text = make.pipeline.with_name("a.src")
    text.write_text("y\n")
    os.utime(text, (old, old))
    assert len(make("report")) == 12
    assert make("report") == []
    other = make.pipeline.with_name("other")
    other.write_text("z\n")
    os.utime(other, (old, old))
    other.rename(text)
    assert make("report", plan=False)[0] == "prepare gold"
    assert make("report", plan=False) == []


def test_a_text_that_is_gone_is_told_by_its_stage(make: FakeMake) -> None:
    make("report")
    make.pipeline.with_name("a.src").unlink()
    assert make("report", plan=False)[0] == "prepare gold"


@pytest.mark.parametrize("absolute", [False, True])
def test_a_run_that_was_moved_or_copied_is_finished_and_goes_on(make: FakeMake, absolute: bool) -> None:
    old, new = ("runs", "new")
    if absolute:
        old, new = (str(Path(name).absolute()) for name in (old, new))
    make("report", runs=old)
    shutil.copytree(old, new, copy_function=shutil.copy2)
    files = {path.name: path.read_bytes() for path in Path(new, "small/config").iterdir()}
    assert make("report", runs=new, plan=False) == []
    assert make("report", runs=new) == []
    assert {path.name: path.read_bytes() for path in Path(new, "small/config").iterdir()} == files
    shutil.rmtree(old)
    edited(make.pipeline, 'corpus = "gold"', 'corpus = "gold"\ntraining = { learning_rate = 0.02 }')
    assert make("report", runs=new) == [*AGAIN, "report report"]
    student = load_stage(TrainConfig, Path(new, "small/config/student.gold.toml"))
    assert student.prepared == Path(new, "small/gold")
    assert not Path(old).exists()


def test_a_stage_file_is_read_from_within_its_folder(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = write_plan(pipeline, "runs")
    monkeypatch.chdir(plan.parent / "config")
    assert load_stage(TrainConfig, "teacher.toml").corpus == Path("../gold/train")


def test_two_pipeline_files_of_one_name_do_not_share_a_run_folder(pipeline: Path) -> None:
    write_plan(pipeline, "runs")
    other = Path("other/small.toml")
    other.parent.mkdir()
    other.write_text(pipeline.read_text())
    write_plan(other, "runs")  # the same pipeline
    other.write_text(pipeline.read_text().replace("seed = 3", "seed = 4"))
    plan = write_plan(other, "runs").read_text()  # the same file, changed
    with pytest.raises(ConfigError, match=r"the run folder belongs to other/small\.toml") as caught:
        write_plan(pipeline, "runs")
    assert "delete runs/small/plan.mk" in caught.value.hint
    assert Path("runs/small/plan.mk").read_text() == plan
    write_plan(pipeline, "elsewhere")
    other.rename("moved.toml")
    write_plan(pipeline, "runs")  # the other file is no more


@pytest.mark.parametrize(
    ("goal", "last"), [("prepare", "prepare"), ("teacher", "train"), ("distill", "select"), ("students", "train")]
)
def test_goals_stop_where_they_say(make: FakeMake, goal: str, last: str) -> None:
    assert goal in GOALS
    assert make(goal)[-1].split()[0] == last


def test_make_writes_soft_targets_before_their_student(make: FakeMake) -> None:
    make.pipeline.write_text(make.pipeline.read_text() + WORD_KD)
    done = make("report")
    assert done.index("select kd") < done.index("distill kd16") < done.index("train written")
    assert done.index("train teacher") < done.index("train live")
    edited(make.pipeline, "temperature = 2.0", "temperature = 2.0\nsamples = 50")
    assert make("report") == ["distill kd16", "train written", "evaluate written", "report report"]


def test_the_fetch_script_runs_once_and_again_when_its_arguments_change(make: FakeMake) -> None:
    folder = make.pipeline.with_name("data")
    folder.mkdir()
    (folder / "fetch.py").write_text(
        "import sys, pathlib\nout, words = pathlib.Path(sys.argv[2]), sys.argv[3:]\n"
        "with open('calls', 'a') as file: print(sys.argv[1], *words, sep='|', file=file)\n"
    )
    edited(make.pipeline, "[data]", '[data]\nfetch = { script = "data/fetch.py", args = ["it\'s $HOME"] }')
    assert make("prepare") == ["prepare gold"]
    assert make("prepare") == []
    edited(make.pipeline, "it's $HOME", "two words")
    assert make("prepare") == ["prepare gold"]
    assert make.pipeline.with_name("calls").read_text() == "--out|it's $HOME\n--out|two words\n"

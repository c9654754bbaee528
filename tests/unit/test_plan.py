"""From a pipeline file to Make rules; Make itself runs them here, with a stand-in for the stages."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from seqkd.cli import main
from seqkd.config import (
    BitextConfig,
    DistillConfig,
    EvaluateConfig,
    PrepareConfig,
    ReportConfig,
    SelectConfig,
    SoftTargetsConfig,
    TrainConfig,
    VocabularyConfig,
    load_stage,
)
from seqkd.config_models import WordKdConfig
from seqkd.errors import ConfigError
from seqkd.pipeline import read_pipeline, to_toml
from seqkd.plan import GOALS, write_plan
from seqkd.plan_stages import plan_stages
from tests.unit.pipeline_files import edited

ROOT = Path(__file__).parents[2]
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
        assert f"\n{stage.target}: " in plan.read_text()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_pipeline_opens_with_the_command_that_runs_it(path: Path) -> None:
    assert path.read_text().splitlines()[0] == f"# make PIPELINE={path.stem} report"


# --- stage files --------------------------------------------------------------------------------------------------


def test_what_a_select_says_reaches_its_stage(pipeline: Path, tmp_path: Path) -> None:
    settings = (
        'rejected = "next"\nfilters = { max_ratio = 2.5, cut = true }\nrerank = { reverse = "m", channel_weight = 0.5 }'
    )
    edited(pipeline, 'rule = "seqkd"', f'rule = "rerank"\n{settings}')
    write_plan(pipeline, tmp_path)
    config = load_stage(SelectConfig, tmp_path / "small" / "config" / "select.kd.toml")
    assert (config.rule, config.rejected) == ("rerank", "next")
    assert (config.filters.max_ratio, config.filters.cut, config.filters.copies) == (2.5, True, False)
    assert config.rerank is not None
    assert (config.rerank.forward, config.rerank.reverse, config.rerank.channel_weight) == (None, Path("m"), 0.5)


def test_what_a_select_cannot_be_is_told(pipeline: Path) -> None:
    edited(pipeline, 'rule = "seqkd"', 'rule = "rerank"\nfilters = { max_ratio = 0.5, worst = 1 }')
    with pytest.raises(ConfigError) as error:
        read_pipeline(pipeline)
    assert "max_ratio" in str(error.value)
    assert "worst: unknown key" in str(error.value)


def test_every_stage_file_reads_back(pipeline: Path) -> None:
    for stage in plan_stages(read_pipeline(pipeline), Path("runs")):
        file = Path(f"{stage.name}.toml")
        file.write_text(to_toml(stage.config))
        assert load_stage(type(stage.config), file) == stage.config


def test_stage_files_hold_what_their_stages_need(pipeline: Path) -> None:
    stages = {stage.name: stage for stage in plan_stages(read_pipeline(pipeline), Path("runs"))}
    run = Path("runs/small")
    prepare = stages["prepare"].config
    assert isinstance(prepare, PrepareConfig)
    assert prepare.test == BitextConfig(source=Path("c.tsv"))
    tuned = stages["student.tuned"].config
    assert isinstance(tuned, TrainConfig)
    assert (tuned.corpus, tuned.init_from, tuned.prepared) == (run / "corpora/kd", run / "students/kd", run / "gold")
    teacher = stages["evaluate.teacher"].config
    assert isinstance(teacher, EvaluateConfig)
    assert (teacher.role, teacher.trained_on, teacher.corpus) == ("teacher", "gold", run / "gold/test")
    assert (teacher.speed_against, teacher.rescore_with) == (None, None)
    student = stages["evaluate.kd"].config
    assert isinstance(student, EvaluateConfig)
    assert (student.speed_against, student.rescore_with, student.decode) == (run / "teacher", None, ())
    assert run / "teacher/manifest.json" in stages["evaluate.kd"].needs
    assert run / "students/kd/manifest.json" in stages["student.tuned"].needs
    assert set(stages["report"].needs) == {stage.target for stage in stages.values() if stage.name != "report"}


def test_a_student_that_the_teacher_rescores_is_evaluated_with_it(pipeline: Path) -> None:
    ways = 'decode = [{ name = "one" }, { name = "npd", candidates = 9, rescore = true }]'
    edited(pipeline, 'init_from = "kd"', f'model = {{ arch = "nat" }}\n{ways}')
    stage = {stage.name: stage for stage in plan_stages(read_pipeline(pipeline), Path("runs"))}["evaluate.tuned"]
    assert isinstance(stage.config, EvaluateConfig)
    assert stage.config.rescore_with == Path("runs/small/teacher")
    assert [(way.name, way.candidates, way.rescore) for way in stage.config.decode] == [
        ("one", 1, False),
        ("npd", 9, True),
    ]
    file = Path("evaluate.toml")
    file.write_text(to_toml(stage.config))
    assert load_stage(EvaluateConfig, file) == stage.config


WORD_KD = """
[[soft_targets]]
name = "kd16"
corpus = "kd"
temperature = 2.0

[[students]]
name = "live"
corpus = "kd"
objective = { type = "word_kd", alpha = 0.7 }

[[students]]
name = "written"
corpus = "kd"
objective = { type = "word_kd", soft_targets = "kd16", temperature = 2.0 }
"""


def test_a_student_taught_word_by_word_needs_the_teacher_or_what_it_wrote(pipeline: Path) -> None:
    pipeline.write_text(pipeline.read_text() + WORD_KD)
    stages = {stage.name: stage for stage in plan_stages(read_pipeline(pipeline), Path("runs"))}
    run = Path("runs/small")
    live, written, soft = (stages[name] for name in ("student.live", "student.written", "soft_targets.kd16"))
    assert isinstance(live.config, TrainConfig)
    assert isinstance(live.config.objective, WordKdConfig)
    assert (live.config.objective.teachers, live.config.objective.alpha) == ((run / "teacher",), 0.7)
    assert run / "teacher/manifest.json" in live.needs
    assert isinstance(written.config, TrainConfig)
    assert isinstance(written.config.objective, WordKdConfig)
    assert written.config.objective.soft_targets == run / "soft_targets/kd16"
    assert run / "soft_targets/kd16/manifest.json" in written.needs
    assert isinstance(soft.config, SoftTargetsConfig)
    assert (soft.config.models, soft.config.corpus) == ((run / "teacher",), run / "corpora/kd")
    assert (soft.config.top_k, soft.config.samples, soft.config.temperature) == (16, None, 2.0)
    assert set(soft.needs) == {run / "teacher/manifest.json", run / "corpora/kd/manifest.json"}
    for stage in (live, written, soft):
        file = Path(f"{stage.name}.toml")
        file.write_text(to_toml(stage.config))
        assert load_stage(type(stage.config), file) == stage.config
    rules = write_plan(pipeline, Path("runs")).read_text()
    assert f"distill --config {run}/config/soft_targets.kd16.toml --out {soft.out} --soft-targets " in rules


def test_an_ensemble_of_teachers_differs_in_seeds_and_teaches_together(pipeline: Path) -> None:
    pipeline.write_text(pipeline.read_text() + WORD_KD)
    alone = {stage.name: stage for stage in plan_stages(read_pipeline(pipeline), Path("runs"))}
    edited(pipeline, "[teacher.training]", "[teacher]\nensemble = 3\n\n[teacher.training]")
    stages = {stage.name: stage for stage in plan_stages(read_pipeline(pipeline), Path("runs"))}
    run, names = Path("runs/small"), ("teacher", "teacher-2", "teacher-3")
    folders = tuple(run / name for name in names)
    assert stages["teacher"] == alone["teacher"]
    seeds = set()
    for name in names:
        teacher, evaluate = stages[name].config, stages[f"evaluate.{name}"].config
        assert isinstance(teacher, TrainConfig)
        assert isinstance(evaluate, EvaluateConfig)
        seeds.add(teacher.training.seed)
        training = teacher.training.model_copy(update={"seed": 1})
        first = stages["teacher"].config.model_copy(update={"training": training})
        assert teacher.model_copy(update={"training": training}) == first
        assert (evaluate.role, evaluate.model, stages[name].goal) == ("teacher", run / name, "teacher")
    assert len(seeds) == 3
    distill, soft, live = (stages[name].config for name in ("distill.beam5", "soft_targets.kd16", "student.live"))
    assert isinstance(distill, DistillConfig)
    assert isinstance(soft, SoftTargetsConfig)
    assert isinstance(live, TrainConfig)
    assert isinstance(live.objective, WordKdConfig)
    assert distill.models == soft.models == live.objective.teachers == folders
    for name in ("distill.beam5", "soft_targets.kd16", "student.live"):
        assert {folder / "manifest.json" for folder in folders} <= set(stages[name].needs)
    report = stages["report"].config
    assert isinstance(report, ReportConfig)
    assert [model.name for model in report.models][:4] == [*names, "gold"]
    assert [model.name for model in report.evaluations][:5] == [*names, "teacher-ensemble", "gold"]
    together = stages["evaluate.teacher-ensemble"]
    assert isinstance(together.config, EvaluateConfig)
    assert (together.config.model, *together.config.ensemble) == folders
    assert (together.config.role, together.config.speed_against) == ("teacher", run / "teacher")
    assert {folder / "manifest.json" for folder in folders} <= set(together.needs)
    assert {("teacher-3", "k-best beam5"), ("gold", "teacher-2"), ("teacher-2", "student live")} <= set(report.edges)


def test_a_student_of_several_corpora_needs_all_of_them(pipeline: Path) -> None:
    edited(
        pipeline,
        'corpus = "kd"\ninit_from = "kd"',
        'corpus = [{ name = "gold", weight = 0.5 }, { name = "kd" }]',
    )
    stages = {stage.name: stage for stage in plan_stages(read_pipeline(pipeline), Path("runs"))}
    run, stage = Path("runs/small"), stages["student.tuned"]
    assert isinstance(stage.config, TrainConfig)
    assert [(part.path, part.weight) for part in stage.config.corpora] == [
        (run / "gold/train", 0.5),
        (run / "corpora/kd", 1.0),
    ]
    assert {run / "gold/manifest.json", run / "corpora/kd/manifest.json"} <= set(stage.needs)
    evaluate, report = stages["evaluate.tuned"].config, stages["report"].config
    assert isinstance(evaluate, EvaluateConfig)
    assert evaluate.trained_on == "0.5 gold + kd"
    assert isinstance(report, ReportConfig)
    assert {("gold", "student tuned"), ("corpus kd", "student tuned")} <= set(report.edges)
    file = Path("train.toml")
    file.write_text(to_toml(stage.config))
    assert load_stage(TrainConfig, file) == stage.config


def test_make_writes_soft_targets_before_their_student(make: FakeMake) -> None:
    make.pipeline.write_text(make.pipeline.read_text() + WORD_KD)
    done = make("report")
    assert done.index("select kd") < done.index("distill kd16") < done.index("train written")
    assert done.index("train teacher") < done.index("train live")
    edited(make.pipeline, "temperature = 2.0", "temperature = 2.0\nsamples = 50")
    assert make("report") == ["distill kd16", "train written", "evaluate written", "report report"]


def test_seeds_come_from_the_pipeline_and_students_share_theirs(pipeline: Path) -> None:
    def seeds() -> dict[str, int]:
        stages = plan_stages(read_pipeline(pipeline), Path("runs"))
        return {stage.name: stage.config.training.seed for stage in stages if isinstance(stage.config, TrainConfig)}

    before = seeds()
    assert before["student.gold"] == before["student.kd"] != before["teacher"]
    edited(pipeline, "seed = 3", "seed = 4")
    assert not set(before.values()) & set(seeds().values())
    edited(pipeline, "learning_rate = 0.01", "seed = 77")
    assert seeds()["student.kd"] == 77


def test_a_brought_teacher_is_not_trained(pipeline: Path) -> None:
    edited(pipeline, "[teacher.training]\nmax_updates = 10", '[teacher]\npath = "models/big"')
    stages = {stage.name: stage for stage in plan_stages(read_pipeline(pipeline), Path("runs"))}
    assert "teacher" not in stages
    assert Path("models/big/model.safetensors") in stages["distill.beam5"].needs
    assert Path("models/big/model.safetensors") in stages["prepare"].needs
    prepare = stages["prepare"].config
    assert isinstance(prepare, PrepareConfig)
    assert prepare.vocabulary_from == Path("models/big")


def test_only_stage_files_that_change_are_rewritten(pipeline: Path, tmp_path: Path) -> None:
    def times() -> dict[str, int]:
        return {file.name: file.stat().st_mtime_ns for file in (tmp_path / "runs/small/config").iterdir()}

    write_plan(pipeline, Path("runs"))
    before = times()
    edited(pipeline, "learning_rate = 0.01", "learning_rate = 0.02")
    write_plan(pipeline, Path("runs"))
    assert {name for name, time in times().items() if time != before[name]} == {"student.kd.toml"}


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

    def __call__(self, goal: str, *flags: str) -> list[str]:
        plan = write_plan(self.pipeline, Path("runs"))
        self.log.write_text("")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
        command = ["make", "-f", str(plan), f"SEQKD={self.script}", goal, *flags]
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


def test_a_changed_student_retrains_that_student_alone(make: FakeMake) -> None:
    make("report")
    edited(make.pipeline, 'corpus = "gold"', 'corpus = "gold"\ntraining = { learning_rate = 0.02 }')
    assert make("report") == ["train gold", "evaluate gold", "report report"]
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
    assert make("report") == ["train gold", "evaluate gold", "report report"]
    assert make("report") == []


def test_changed_text_makes_everything_again(make: FakeMake) -> None:
    make("report")
    make.pipeline.with_name("a.src").write_text("y\n")
    assert len(make("report")) == 12


@pytest.mark.parametrize(
    ("goal", "last"), [("prepare", "prepare"), ("teacher", "train"), ("distill", "select"), ("students", "train")]
)
def test_goals_stop_where_they_say(make: FakeMake, goal: str, last: str) -> None:
    assert goal in GOALS
    assert make(goal)[-1].split()[0] == last


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


def test_vocabulary_settings_reach_prepare(pipeline: Path) -> None:
    edited(pipeline, "[teacher.training]", '[prepare.vocabulary]\nsize = 300\nsymbols = ["<de>"]\n\n[teacher.training]')
    prepare = plan_stages(read_pipeline(pipeline), Path("runs"))[0].config
    assert isinstance(prepare, PrepareConfig)
    assert prepare.vocabulary == VocabularyConfig(size=300, symbols=("<de>",))

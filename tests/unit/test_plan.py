"""From a pipeline file to Make rules; Make itself runs them here, with a stand-in for the stages."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from seqkd.cli import main
from seqkd.config import (
    BitextConfig,
    EvaluateConfig,
    PrepareConfig,
    TrainConfig,
    VocabularyConfig,
    load_stage,
)
from seqkd.config_models import LstmConfig, NllConfig, TransformerConfig
from seqkd.errors import ConfigError
from seqkd.pipeline import read_pipeline, to_toml
from seqkd.plan import GOALS, write_plan
from seqkd.plan_stages import plan_stages

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(ROOT.glob("pipelines/**/*.toml"))

PIPELINE = """
name = "small"
seed = 3

[data]
train = { source = "a.src", target = "a.tgt" }
valid = { source = "b.src", target = "b.tgt" }
test = { source = "c.tsv" }

[teacher.training]
max_updates = 10

[[distill]]
name = "beam5"

[[select]]
name = "kd"
kbest = "beam5"
rule = "seqkd"

[student.model]
dim = 32
heads = 2

[student.training]
max_updates = 20

[[students]]
name = "gold"
corpus = "gold"

[[students]]
name = "kd"
corpus = "kd"
training = { learning_rate = 0.01 }

[[students]]
name = "tuned"
corpus = "kd"
init_from = "kd"
"""


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.src", "a.tgt", "b.src", "b.tgt", "c.tsv"):
        (tmp_path / name).write_text("x\n")
    path = tmp_path / "small.toml"
    path.write_text(PIPELINE)
    return path


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_pipeline(path)
    assert caught.value.where == str(path)
    return [line.strip() for line in caught.value.what.splitlines()[1:]]


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


# --- reading ------------------------------------------------------------------------------------------------------


def test_a_student_of_another_architecture_takes_what_that_has_too(pipeline: Path) -> None:
    with pipeline.open("a") as file:
        file.write('\n[[students]]\nname = "rnn"\ncorpus = "gold"\nmodel = { arch = "lstm", dropout = 0.3 }\n')
    edited(pipeline, "[student.training]", "[student.objective]\nlabel_smoothing = 0.2\n\n[student.training]")
    rnn = read_pipeline(pipeline).students[-1]
    assert rnn.model == LstmConfig(dim=32, dropout=0.3)  # without the shared `heads`
    assert rnn.objective == NllConfig(label_smoothing=0.2)


def test_student_tables_are_laid_over_the_shared_one(pipeline: Path) -> None:
    gold, kd, tuned = read_pipeline(pipeline).students
    assert isinstance(gold.model, TransformerConfig)
    assert isinstance(kd.model, TransformerConfig)
    assert (gold.model.dim, gold.training.max_updates, gold.training.learning_rate) == (32, 20, 5e-4)
    assert (kd.model.dim, kd.training.max_updates, kd.training.learning_rate) == (32, 20, 0.01)
    assert tuned.init_from == "kd"


def test_all_problems_of_a_pipeline_are_in_one_message(pipeline: Path) -> None:
    for old, new in (
        ('name = "small"', 'name = "other"\nnmae = 1'),
        ('kbest = "beam5"', 'kbest = "beam6"'),
        ("learning_rate = 0.01", "learning_rate = -1"),
        ('corpus = "gold"', 'corpus = "silver"'),
        ('init_from = "kd"', 'init_from = "nobody"'),
        ('name = "beam5"', 'name = "beam5"\nsearch = { nbest = 9 }'),
        ('source = "a.src"', 'source = "a file"'),
    ):
        edited(pipeline, old, new)
    found = problems(pipeline)
    for start in (
        "nmae: unknown key",
        "name: 'other' differs from the file's name",
        "select.kd.kbest: no [[distill]] is named 'beam6'; there is beam5",
        "students.kd.training.learning_rate: ",
        "students.gold.corpus: no [[select]] is named 'silver'; there is gold, kd",
        "students.tuned.init_from: no [[students]] is named 'nobody'; there is teacher, gold, kd, tuned",
        "distill.beam5.search: nbest 9 is larger than beam 5",
        "data.train.source: 'a file' cannot be a Make target",
    ):
        assert sum(line.startswith(start) for line in found) == 1, (start, found)
    assert len(found) == 8


def test_a_mistake_in_the_shared_table_is_said_once_and_there(pipeline: Path) -> None:
    edited(pipeline, "dim = 32", 'dim = "wide"\nwidth = 1')
    assert [line.split(":")[0] for line in problems(pipeline)] == ["student.model.dim", "student.model.width"]


def test_a_shared_table_without_students_is_a_mistake(pipeline: Path) -> None:
    text = pipeline.read_text()
    pipeline.write_text(text[: text.index("[[students]]")])
    assert problems(pipeline) == ["student: there are no [[students]] to share it"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('name = "tuned"', 'name = "kd"', "students.kd: the name is taken"),
        ('name = "tuned"', 'name = "teacher"', "students.teacher: the name is taken by the teacher"),
        ('name = "kd"\nkbest', 'name = "gold"\nkbest', "select.gold: the name is taken"),
        ('corpus = "kd"\ntraining', 'corpus = "kd"\ninit_from = "tuned"\ntraining', "kd <- tuned <- kd"),
        ('init_from = "kd"', 'init_from = "tuned"', "tuned <- tuned"),
        ("[data]", '[data]\nfetch = { script = "nope.py" }', "data.fetch.script: no such file"),
    ],
)
def test_names_that_do_not_fit(pipeline: Path, old: str, new: str, problem: str) -> None:
    edited(pipeline, old, new)
    assert sum(problem in line for line in problems(pipeline)) == 1


def test_what_students_share_is_one_table(pipeline: Path) -> None:
    edited(pipeline, "[student.model]\ndim = 32\nheads = 2\n\n[student.training]\nmax_updates = 20", "")
    edited(pipeline, "seed = 3", "student = 3")
    assert "student: what all students share must be one table, [student]" in problems(pipeline)


def test_a_circle_is_named_once_and_what_hangs_on_it_is_not_blamed(pipeline: Path) -> None:
    edited(pipeline, 'corpus = "gold"', 'corpus = "gold"\ninit_from = "kd"')
    edited(pipeline, 'corpus = "kd"\ntraining', 'corpus = "kd"\ninit_from = "tuned"\ntraining')
    assert problems(pipeline) == ["students.kd.init_from: goes in a circle: kd <- tuned <- kd"]


def test_a_decode_is_for_architectures_that_write_all_positions_at_once(pipeline: Path) -> None:
    edited(pipeline, 'init_from = "kd"', 'decode = [{ name = "fast" }]')
    assert problems(pipeline) == [
        "students.tuned: decode is for architectures that write all positions at once (cmlm, ctc, dag, nat); "
        "'transformer' is decoded with evaluate.beams"
    ]
    edited(pipeline, 'decode = [{ name = "fast" }]', 'model = { arch = "nat" }\ndecode = [{ name = "7" }]')
    assert [line.split(":")[0] for line in problems(pipeline)] == ["students.tuned.decode.0"]


def test_a_decode_that_students_share_is_for_those_that_can_use_it(pipeline: Path) -> None:
    edited(pipeline, "dim = 32", 'arch = "cmlm"\ndim = 32')
    edited(pipeline, "[student.model]", '[student]\ndecode = [{ name = "four", iterations = 4 }]\n\n[student.model]')
    edited(pipeline, 'init_from = "kd"', 'model = { arch = "lstm" }')
    gold, kd, tuned = read_pipeline(pipeline).students
    assert [way.name for way in gold.decode] == [way.name for way in kd.decode] == ["four"]
    assert tuned.decode == ()


# --- stage files --------------------------------------------------------------------------------------------------


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


def test_a_brought_teacher_brings_the_vocabulary(pipeline: Path) -> None:
    edited(
        pipeline, "[teacher.training]\nmax_updates = 10", '[teacher]\npath = "big"\n[prepare.vocabulary]\nsize = 300'
    )
    assert [line.split(":")[0] for line in problems(pipeline)] == ["prepare.vocabulary"]


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

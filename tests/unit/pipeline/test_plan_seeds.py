"""`seeds = n` on a student or a teacher: the models that it makes, and which of them a reference means."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqkd.config.stages import EvaluateConfig, ReportConfig, TrainConfig
from seqkd.errors import ConfigError
from seqkd.pipeline.expansion import build_graph
from seqkd.pipeline.folders import Stage, derive_seed
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.relations import find_baselines, list_edges
from seqkd.pipeline.stages import plan_stages
from tests.unit.pipeline.pipeline_files import WORD_KD, edited

RUN = Path("runs/small")


def planned(pipeline: Path) -> dict[str, Stage]:
    return {stage.name: stage for stage in plan_stages(read_pipeline(pipeline), Path("runs"))}


def training_seed(stage: Stage) -> int:
    assert isinstance(stage.config, TrainConfig)
    return stage.config.training.seed


def test_a_student_of_several_seeds_is_several_students_that_differ_in_their_seed(pipeline: Path) -> None:
    before = planned(pipeline)
    edited(pipeline, 'corpus = "kd"\n', 'corpus = "kd"\nseeds = 3\n')
    after = planned(pipeline)
    new = {f"{kind}.kd.seed{number}" for kind in ("student", "evaluate") for number in (2, 3)}
    assert after.keys() - before.keys() == new
    assert {name: after[name] for name in before if name != "report"} == {
        name: stage for name, stage in before.items() if name != "report"
    }
    first = after["student.kd"]
    assert isinstance(first.config, TrainConfig)
    for number in (2, 3):
        other = after[f"student.kd.seed{number}"]
        seed = derive_seed(training_seed(first), f"seed{number}")
        training = first.config.training.model_copy(update={"seed": seed})
        assert other.config == first.config.model_copy(update={"training": training})
        assert (other.out, other.needs, other.goal) == (RUN / f"students/kd.seed{number}", first.needs, first.goal)
    report = after["report"].config
    assert isinstance(report, ReportConfig)
    assert [(part.name, part.evaluations) for part in report.seeds] == [("kd", ("kd", "kd.seed2", "kd.seed3"))]
    assert [named.name for named in report.evaluations] == ["teacher", "gold", "kd", "kd.seed2", "kd.seed3", "tuned"]


def test_a_reference_means_the_first(pipeline: Path) -> None:
    edited(pipeline, 'corpus = "kd"\n', 'corpus = "kd"\nseeds = 2\n')
    edited(pipeline, "[teacher.training]", "[teacher]\nseeds = 2\n\n[teacher.training]")
    pipeline.write_text(pipeline.read_text() + WORD_KD)
    stages = planned(pipeline)
    tuned, live = stages["student.tuned"].config, stages["student.live"].config
    assert isinstance(tuned, TrainConfig)
    assert tuned.init_from is not None
    assert tuned.init_from.model == str(RUN / "students/kd")
    assert isinstance(live, TrainConfig)
    assert live.objective.teachers == (RUN / "teacher",)
    assert stages["distill.beam5"].needs == (RUN / "teacher/manifest.json", RUN / "gold/manifest.json")
    student = stages["evaluate.kd.seed2"].config
    assert isinstance(student, EvaluateConfig)
    assert student.speed_against == RUN / "teacher"


def test_each_seed_of_a_chain_starts_from_its_own(pipeline: Path) -> None:
    edited(pipeline, 'corpus = "kd"\ntraining', 'corpus = "kd"\nseeds = 2\ntraining')
    edited(pipeline, 'init_from = "kd"', 'init_from = "kd"\nseeds = 3')
    starts = {}
    for name in ("tuned", "tuned.seed2", "tuned.seed3"):
        stage = planned(pipeline)[f"student.{name}"]
        assert isinstance(stage.config, TrainConfig)
        assert stage.config.init_from is not None
        starts[name] = stage.config.init_from.model
        assert Path(starts[name]) / "manifest.json" in stage.needs
    kd = str(RUN / "students/kd")
    assert starts == {"tuned": kd, "tuned.seed2": f"{kd}.seed2", "tuned.seed3": kd}
    edited(pipeline, 'init_from = "kd"', 'init_from = "kd.seed2"')
    stage = planned(pipeline)["student.tuned.seed3"]
    assert isinstance(stage.config, TrainConfig)
    assert stage.config.init_from is not None
    assert stage.config.init_from.model == f"{kd}.seed2"


def test_a_teacher_of_several_seeds_keeps_its_folder(pipeline: Path) -> None:
    before = planned(pipeline)
    edited(pipeline, "[teacher.training]", "[teacher]\nseeds = 3\n\n[teacher.training]")
    after = planned(pipeline)
    assert after["teacher"] == before["teacher"]
    assert [str(after[f"teacher.seed{number}"].out) for number in (2, 3)] == [
        f"runs/small/teacher.seed{number}" for number in (2, 3)
    ]
    assert len({training_seed(after[name]) for name in ("teacher", "teacher.seed2", "teacher.seed3")}) == 3
    own = after["evaluate.teacher.seed2"].config
    assert isinstance(own, EvaluateConfig)
    assert (own.role, own.model, own.speed_against) == ("teacher", RUN / "teacher.seed2", None)


def test_the_nth_seeds_of_all_students_are_equal(pipeline: Path) -> None:
    edited(pipeline, "[student.model]", "[student]\nseeds = 2\n\n[student.model]")
    edited(pipeline, "learning_rate = 0.01", "learning_rate = 0.01, seed = 7")
    stages = planned(pipeline)
    seeds = {name: training_seed(stages[f"student.{name}"]) for name in ("gold.seed2", "tuned.seed2", "kd.seed2")}
    assert seeds["gold.seed2"] == seeds["tuned.seed2"]
    assert seeds["kd.seed2"] == derive_seed(7, "seed2")


def test_gains_are_over_the_same_seed_of_the_baseline(pipeline: Path) -> None:
    text = pipeline.read_text()

    def pairs(gold: int, kd: int) -> list[tuple[str, str]]:
        changed = text.replace('corpus = "gold"', f'corpus = "gold"\nseeds = {gold}', 1)
        pipeline.write_text(changed.replace('corpus = "kd"\n', f'corpus = "kd"\nseeds = {kd}\n', 1))
        graph = build_graph(read_pipeline(pipeline))
        return list(find_baselines(graph, graph.of_kind("students")))

    assert pairs(1, 1) == [("kd", "gold"), ("tuned", "gold")]
    assert pairs(2, 2) == [("kd", "gold"), ("kd.seed2", "gold.seed2"), ("tuned", "gold")]
    assert pairs(2, 3) == [("kd", "gold"), ("kd.seed2", "gold.seed2"), ("tuned", "gold")]
    assert pairs(3, 1) == [("kd", "gold"), ("tuned", "gold")]


def test_the_drawing_has_a_model_of_several_seeds_once(pipeline: Path) -> None:
    def drawn() -> list[tuple[str, str]]:
        graph = build_graph(read_pipeline(pipeline))
        return list(list_edges(graph, list(graph), graph["data", "gold"]))

    before = drawn()
    edited(pipeline, "[student.model]", "[student]\nseeds = 2\n\n[student.model]")
    edited(pipeline, "[teacher.training]", "[teacher]\nseeds = 2\n\n[teacher.training]")
    assert drawn() == before


def test_in_rounds_the_first_teaches_and_every_seed_is_made_again(pipeline: Path) -> None:
    edited(pipeline, "seed = 3", 'seed = 3\nrounds = 2\nnext_teacher = "kd"')
    edited(pipeline, 'corpus = "kd"\n', 'corpus = "kd"\nseeds = 2\n')
    stages = planned(pipeline)
    assert RUN / "students/kd/manifest.json" in stages["distill.beam5.round2"].needs
    assert RUN / "students/kd.seed2/manifest.json" not in stages["distill.beam5.round2"].needs
    again = stages["student.kd.seed2.round2"].config
    first = stages["student.kd.seed2"].config
    assert isinstance(again, TrainConfig)
    assert isinstance(first, TrainConfig)
    assert again.training == first.training
    report = stages["report"].config
    assert isinstance(report, ReportConfig)
    assert [(part.name, part.evaluations) for part in report.rounds] == [
        ("kd", ("kd", "kd.round2")), ("tuned", ("tuned", "tuned.round2"))
    ]  # fmt: skip
    assert [(part.name, part.evaluations) for part in report.seeds] == [
        ("kd", ("kd", "kd.seed2")), ("kd.round2", ("kd.round2", "kd.seed2.round2"))
    ]  # fmt: skip


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('corpus = "gold"', 'corpus = "gold"\nseeds = 0', r"students\.gold\.seeds: .*greater than or equal to 1"),
        ('corpus = "gold"', 'corpus = "gold"\nseeds = 17', r"students\.gold\.seeds: .*less than or equal to 16"),
        (
            "[teacher.training]",
            "[teacher]\nseeds = 2\nensemble = 2\n[teacher.training]",
            "seeds: is only for a teacher that",
        ),
        (
            'name = "kd"\ncorpus',
            'name = "gold.seed2"\ncorpus = "gold"\n\n[[students]]\nname = "kd"\ncorpus',
            r"students\.gold\.seed2: the name is taken by a seed of 'gold'",
        ),
        (
            'name = "gold"\ncorpus',
            'name = "gold.seed2"\ncorpus = "gold"\n\n[[students]]\nname = "gold"\ncorpus',
            r"students\.gold\.seeds: makes 'gold\.seed2', and the name is taken by another of \[\[students\]\]",
        ),
        ('name = "gold"', f'name = "{"g" * 60}"', r"seeds: makes 'g{60}\.seed2'; names have at most 64 letters"),
    ],
)
def test_seeds_that_cannot_be(pipeline: Path, old: str, new: str, message: str) -> None:
    if "seeds" not in new:
        edited(pipeline, 'corpus = "gold"', 'corpus = "gold"\nseeds = 2')
    edited(pipeline, old, new)
    with pytest.raises(ConfigError, match=message) as caught:
        read_pipeline(pipeline)
    assert str(caught.value).count("problem") == 1
    assert "1 problem:" in str(caught.value)


def test_a_teacher_that_is_brought_along_has_one_seed(pipeline: Path) -> None:
    edited(pipeline, "[teacher.training]\nmax_updates = 10", '[teacher]\npath = "there"\nseeds = 2')
    with pytest.raises(ConfigError, match="seeds: is only for a teacher that is trained here"):
        read_pipeline(pipeline)


def test_what_is_wrong_with_a_student_is_said_once_for_all_its_seeds(pipeline: Path) -> None:
    edited(pipeline, 'init_from = "kd"', 'init_from = "none"\nseeds = 3\nteacher = "teacher"')
    with pytest.raises(ConfigError) as caught:
        read_pipeline(pipeline)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(set(lines)) == 3

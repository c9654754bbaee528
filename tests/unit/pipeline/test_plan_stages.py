"""From a pipeline file to its stages: what each stage file holds, and what the stage is made from."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from seqkd.config.stages import (
    BitextConfig,
    DistillConfig,
    EvaluateConfig,
    PrepareConfig,
    ReportConfig,
    SelectConfig,
    SoftTargetsConfig,
    TrainConfig,
    VocabularyConfig,
)
from seqkd.config.toml import load_stage, to_toml, validate
from seqkd.errors import ConfigError
from seqkd.interop.sources import SOURCES
from seqkd.models.initialiser import Initialiser
from seqkd.pipeline.make import write_plan
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.stages import plan_stages
from seqkd.text.noise import NoiseSettings
from tests.unit.pipeline.pipeline_files import WORD_KD, edited
from tests.unit.stages.test_distill_source import ECHO

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_what_a_select_says_reaches_its_stage(pipeline: Path, tmp_path: Path) -> None:
    settings = (
        'rejected = "next"\nfilters = { max_ratio = 2.5, cut = true }\nrerank = { reverse = "m", channel_weight = 0.5 }'
    )
    edited(pipeline, 'rule = "seqkd"', f'rule = "rerank"\n{settings}')
    Path("m").mkdir()
    write_plan(pipeline, tmp_path)
    config = load_stage(SelectConfig, tmp_path / "small" / "config" / "select.kd.toml")
    assert (config.rule, config.rejected) == ("rerank", "next")
    assert [config.filters[name] for name in ("max_ratio", "cut", "copies", "max_ter")] == [2.5, True, False, None]
    assert config.rerank is not None
    scorer = config.rerank.settings
    assert (scorer.forward, scorer.reverse, scorer.channel_weight) == (None, Path("m"), 0.5)


def test_make_watches_the_models_that_rerank(pipeline: Path) -> None:
    edited(pipeline, 'rule = "seqkd"', 'rule = "rerank"\nrerank = { forward = "models/big", reverse = "models/empty" }')
    Path("models/big").mkdir(parents=True)
    Path("models/empty").mkdir()
    Path("models/big/model.safetensors").touch()
    (select,) = [stage for stage in plan_stages(read_pipeline(pipeline), Path("runs")) if stage.kind == "select"]
    assert Path("models/big/model.safetensors") in select.needs
    assert not [path for path in select.needs if "empty" in path.parts]


def test_a_scorer_names_models_of_the_pipeline(pipeline: Path) -> None:
    text = pipeline.read_text()
    edited(pipeline, 'rule = "seqkd"', 'rule = "score"\nscorer = { forward = "teacher", reverse = "other" }')
    Path("other").mkdir()
    (select,) = [stage for stage in plan_stages(read_pipeline(pipeline), Path("runs")) if stage.kind == "select"]
    assert isinstance(select.config, SelectConfig)
    assert select.config.judge is not None
    assert select.config.judge.models == {"forward": Path("runs/small/teacher"), "reverse": Path("other")}
    assert Path("runs/small/teacher/manifest.json") in select.needs
    pipeline.write_text(text)
    edited(pipeline, 'rule = "seqkd"', 'rule = "score"\nscorer = { reverse = "third" }')
    with pytest.raises(ConfigError, match=r"select\.kd\.scorer\.reverse: no such model folder in .*: third"):
        read_pipeline(pipeline)


def test_a_model_that_reranks_cannot_be_a_make_target(pipeline: Path) -> None:
    edited(pipeline, 'rule = "seqkd"', 'rule = "rerank"\nrerank = { forward = "my models/big" }')
    with pytest.raises(ConfigError, match=r"select\.rerank\.forward: 'my models/big' cannot be a Make target"):
        read_pipeline(pipeline)


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
    assert (tuned.corpus, tuned.prepared) == (run / "corpora/kd", run / "gold")
    assert tuned.init_from == Initialiser(model=str(run / "students/kd"))
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


def test_a_student_is_compared_with_its_baseline(pipeline: Path) -> None:
    found = plan_stages(read_pipeline(pipeline), Path("runs"))
    names = [stage.name for stage in found]
    stages = {stage.name: stage for stage in found}
    baseline = Path("runs/small/evaluations/gold")
    for name, expected in (("teacher", None), ("gold", None), ("kd", baseline), ("tuned", baseline)):
        config = stages[f"evaluate.{name}"].config
        assert isinstance(config, EvaluateConfig)
        assert config.baseline == expected, name
        assert (baseline / "manifest.json" in stages[f"evaluate.{name}"].needs) == (expected is not None)
    assert names.index("evaluate.gold") < names.index("evaluate.kd")
    report = stages["report"].config
    assert isinstance(report, ReportConfig)
    assert [part.name for part in report.evaluations] == ["teacher", "gold", "kd", "tuned"]


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


def test_a_student_taught_word_by_word_needs_the_teacher_or_what_it_wrote(pipeline: Path) -> None:
    pipeline.write_text(pipeline.read_text() + WORD_KD)
    stages = {stage.name: stage for stage in plan_stages(read_pipeline(pipeline), Path("runs"))}
    run = Path("runs/small")
    live, written, soft = (stages[name] for name in ("student.live", "student.written", "soft_targets.kd16"))
    assert isinstance(live.config, TrainConfig)
    assert (live.config.objective.teachers, live.config.objective.terms[0].settings.alpha) == ((run / "teacher",), 0.7)
    assert run / "teacher/manifest.json" in live.needs
    assert isinstance(written.config, TrainConfig)
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
    assert (
        "distill --config $(RUN)/config/soft_targets.kd16.toml --out $(RUN)/soft_targets/kd16 --soft-targets " in rules
    )


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


def test_a_student_of_corpora_in_turn_needs_all_of_them(pipeline: Path) -> None:
    edited(
        pipeline,
        'corpus = "kd"\ninit_from = "kd"',
        'alternate = [{ corpus = "gold", updates = 70 }, { corpus = "kd", updates = 30 }]',
    )
    edited(pipeline, "[student.model]", '[student]\ncorpus = "gold"\n[student.model]')  # shared by the others
    stages = {stage.name: stage for stage in plan_stages(read_pipeline(pipeline), Path("runs"))}
    run, stage = Path("runs/small"), stages["student.tuned"]
    assert isinstance(stage.config, TrainConfig)
    assert [(block.corpus, block.updates) for block in stage.config.alternate or ()] == [
        (run / "gold/train", 70),
        (run / "corpora/kd", 30),
    ]
    assert {run / "gold/manifest.json", run / "corpora/kd/manifest.json"} <= set(stage.needs)
    evaluate, report = stages["evaluate.tuned"].config, stages["report"].config
    assert isinstance(evaluate, EvaluateConfig)
    assert evaluate.trained_on == "70 gold / 30 kd"
    assert isinstance(report, ReportConfig)
    assert {("gold", "student tuned"), ("corpus kd", "student tuned")} <= set(report.edges)
    file = Path("train.toml")
    file.write_text(to_toml(stage.config))
    assert load_stage(TrainConfig, file) == stage.config


def test_a_student_of_noised_sources_is_no_baseline(pipeline: Path) -> None:
    noise = "{ drop = 0.2, shuffle = 3 }"
    edited(pipeline, 'name = "gold"\ncorpus = "gold"', f'name = "gold"\ncorpus = {{ name = "gold", noise = {noise} }}')
    stages = {stage.name: stage for stage in plan_stages(read_pipeline(pipeline), Path("runs"))}
    stage, evaluate, report = (stages[name].config for name in ("student.gold", "evaluate.gold", "report"))
    assert isinstance(stage, TrainConfig)
    assert [(part.path, part.noise) for part in stage.corpora] == [
        (Path("runs/small/gold/train"), NoiseSettings(drop=0.2, shuffle=3))
    ]
    assert isinstance(evaluate, EvaluateConfig)
    assert evaluate.trained_on == "noised gold"
    assert isinstance(report, ReportConfig)
    assert report.baselines == ()
    file = Path("train.toml")
    file.write_text(to_toml(stage))
    assert load_stage(TrainConfig, file) == stage


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


def test_a_brought_ensemble_has_numbered_folders(pipeline: Path) -> None:
    brought = '[teacher]\npath = "models/big"\nensemble = 2'
    edited(pipeline, "[teacher.training]\nmax_updates = 10", brought)
    stages = {stage.name: stage for stage in plan_stages(read_pipeline(pipeline), Path("runs"))}
    folders = Path("models/big"), Path("models/big-2")
    distill = stages["distill.beam5"]
    assert isinstance(distill.config, DistillConfig)
    assert distill.config.models == folders
    assert {folder / "model.safetensors" for folder in folders} <= set(distill.needs)
    assert not [name for name in stages if name.startswith("teacher")]


def test_vocabulary_settings_reach_prepare(pipeline: Path) -> None:
    edited(pipeline, "[teacher.training]", '[prepare.vocabulary]\nsize = 300\nsymbols = ["<de>"]\n\n[teacher.training]')
    prepare = plan_stages(read_pipeline(pipeline), Path("runs"))[0].config
    assert isinstance(prepare, PrepareConfig)
    assert prepare.vocabulary == VocabularyConfig(size=300, symbols=("<de>",))


SUM = """
[[students]]
name = "summed"
corpus = "kd"
init_from = { model = "teacher", encoder_layers = [0, 2], freeze = ["embeddings"] }
model = { encoder_layers = 2, dim = 256, heads = 4 }

[[students.objective.terms]]
type = "word_kd"
alpha = 1.0
weight = 0.7

[[students.objective.terms]]
type = "nll"
"""


def test_a_sum_of_terms_and_a_start_from_chosen_layers_reach_the_stage(pipeline: Path) -> None:
    edited(pipeline, "[student.training]", "[student.objective]\nlabel_smoothing = 0.2\n\n[student.training]")
    pipeline.write_text(pipeline.read_text() + SUM)
    plan = plan_stages(read_pipeline(pipeline), Path("runs"))
    stage = {stage.name: stage for stage in plan}["student.summed"]
    run = Path("runs/small")
    assert isinstance(stage.config, TrainConfig)
    assert [(term.type, term.weight) for term in stage.config.objective.terms] == [("word_kd", 0.7), ("nll", 1.0)]
    assert stage.config.objective.teachers == (run / "teacher",)
    assert stage.config.init_from == Initialiser(
        model=str(run / "teacher"), encoder_layers=(0, 2), freeze=("embeddings",)
    )
    assert run / "teacher/manifest.json" in stage.needs
    file = Path("student.toml")
    file.write_text(to_toml(stage.config))
    assert load_stage(TrainConfig, file) == stage.config


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('model = "teacher"', 'model = "nobody"', "students.summed.init_from: no [[students]] is named 'nobody'"),
        ("encoder_layers = [0, 2]", "layers = [0, 2]", "students.summed.init_from.layers: unknown key"),
        ("[0, 2]", "[0, 3]", "students.summed.init_from.encoder_layers names layer 3, but teacher has layers 0 to 2"),
        ("[0, 2]", "[0]", "init_from.encoder_layers names 1 layers, but the model has 2; name one for each"),
        (
            "encoder_layers = [0, 2], ",
            "",
            "init_from: teacher has 3 encoder layers, but the model that starts from it has 2",
        ),
        ('type = "nll"', 'type = "mse"', "students.summed.objective.terms.1: unknown objective 'mse'"),
        (
            "weight = 0.7",
            'teachers = ["t"]',
            "objective.teachers: the students of a pipeline learn from its own teacher",
        ),
        (
            "weight = 0.7",
            'soft_targets = "top4"',
            "objective.soft_targets: no [[soft_targets]] is named",
        ),
    ],
)
def test_mistakes_in_a_sum_or_a_start_are_named(pipeline: Path, old: str, new: str, message: str) -> None:
    pipeline.write_text(pipeline.read_text() + SUM.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        read_pipeline(pipeline)
    assert message in str(caught.value)


def test_a_source_stands_in_place_of_the_teacher(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES.own, "echo", ECHO)
    text = pipeline.read_text()
    at = text.index('name = "beam5"') + len('name = "beam5"')
    rest = text[at:].split("[[", 1)[1]
    pipeline.write_text(f'{text[:at]}\nsource = {{ type = "echo", most = 3 }}\n\n[[{rest}')
    (distill,) = [stage for stage in plan_stages(read_pipeline(pipeline), Path("runs")) if stage.kind == "distill"]
    assert isinstance(distill.config, DistillConfig)
    assert distill.config.models == ()
    assert distill.config.source is not None
    assert distill.config.source.settings.most == 3
    assert not [path for path in distill.needs if "teacher" in path.parts]
    assert validate(DistillConfig, tomllib.loads(to_toml(distill.config)), "stage file") == distill.config
    pipeline.write_text(f'{text[:at]}\nsource = {{ type = "echo" }}\nprecision = "bf16"\n\n[[{rest}')
    with pytest.raises(ConfigError, match="precision: is for a teacher, which `source` replaces"):
        read_pipeline(pipeline)

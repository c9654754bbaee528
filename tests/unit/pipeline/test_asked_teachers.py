"""Teachers that are sources of k-best lists, such as external workers."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomllib

from seqkd.config.stages import DistillConfig, EvaluateConfig, SelectConfig
from seqkd.config.toml import to_toml, validate
from seqkd.errors import ConfigError
from seqkd.interop.workers import FilterSettings, ScorerSettings, TeacherSettings
from seqkd.pipeline.make import write_plan
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.stages import plan_stages
from tests.unit.pipeline.pipeline_files import PIPELINE, WORD_KD

ASKED = PIPELINE.replace(
    "[teacher.training]\nmax_updates = 10",
    """
[[teachers]]
name = "service"

[teachers.source]
endpoint = "https://example.org/v1/chat/completions"
form = "chat"
prompt = "Translate into German: {source}"
samples = 4
version = "2026-11"
key = "SERVICE_KEY"
options = { model = "big", stop = ["\\n"] }
rate = 2.5
""",
)


@pytest.fixture(autouse=True)
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.src", "a.tgt", "b.src", "b.tgt", "c.tsv"):
        (tmp_path / name).write_text("a\n")


def written(text: str) -> Path:
    Path("small.toml").write_text(text)
    return Path("small.toml")


def test_lists_of_an_asked_teacher_need_no_model() -> None:
    stages = plan_stages(read_pipeline(written(ASKED)), Path("runs"))
    (distill,) = [stage for stage in stages if stage.kind == "distill"]
    assert isinstance(distill.config, DistillConfig)
    assert distill.config.source is not None
    settings = distill.config.source.settings
    assert isinstance(settings, TeacherSettings)
    assert (settings.samples, settings.options) == (4, {"model": "big", "stop": ["\n"]})
    assert distill.needs == (Path("runs/small/gold/manifest.json"),)
    assert validate(DistillConfig, tomllib.loads(to_toml(distill.config)), "stage file") == distill.config
    # It is not evaluated, and nothing is compared with its speed.
    evaluations = [stage.config for stage in stages if isinstance(stage.config, EvaluateConfig)]
    assert [config.name for config in evaluations] == ["gold", "kd", "tuned"]
    assert {config.speed_against for config in evaluations} == {None}
    assert all("service" not in str(need) for stage in stages for need in stage.needs)
    write_plan(Path("small.toml"), Path("runs"))
    assert "service" not in Path("runs/small/plan.mk").read_text()


@pytest.mark.parametrize("where", ["teachers.service", "distill.beam5"])
def test_rules_and_filters_that_read_scores_are_refused_if_the_source_gives_texts_alone(where: str) -> None:
    text = ASKED
    if where.startswith("distill"):
        start, end = text.index('[[teachers]]\nname = "service"'), text.index("[[distill]]")
        source = text[start:end].replace("[[teachers]]", "").replace('name = "service"', "")
        text = PIPELINE.replace(
            'name = "beam5"\n', f'name = "beam5"\n{source.replace("teachers.source", "distill.source")}'
        )
    assert plan_stages(read_pipeline(written(text)), Path("runs"))  # the rule "seqkd" reads no scores
    text = text.replace(
        'rule = "seqkd"', 'rule = "sample"\nfilters = { min_score = -2.0, copies = true, worst_percent = 5 }'
    )
    with pytest.raises(ConfigError) as caught:
        read_pipeline(written(text))
    lines = [line.strip() for line in caught.value.what.splitlines()[1:]]
    assert lines == [
        f"select.kd.{what} the scores of 'beam5', but {where}.source gives texts without scores; choose a rule and "
        "filters that do not read scores, or a source that gives them"
        for what in ("rule: 'sample' reads", "filters.min_score: reads", "filters.worst_percent: reads")
    ]
    # A worker whose answers are rows may give scores.
    for line in ('form = "chat"\n', 'prompt = "Translate into German: {source}"\n', "samples = 4\n"):
        text = text.replace(line, "")
    assert read_pipeline(written(text))


def test_a_single_teacher_may_be_a_command_and_rules_and_filters_name_workers() -> None:
    text = PIPELINE.replace("[teacher.training]\nmax_updates = 10", 'teacher = { source = { command = ["./t"] } }')
    text = text.replace("\n[data]", "").replace('teacher = { source = { command = ["./t"] } }', "")
    text = text.replace("seed = 3", 'seed = 3\nteacher = { source = { command = ["./t"] } }\n\n[data]')
    text = text.replace(
        'rule = "seqkd"',
        'rule = "rerank"\nrerank = { type = "worker", command = ["python", "comet.py"], reference = true }\n'
        'filters = { worker = { command = ["python", "bicleaner.py"], version = "3" } }',
    )
    stages = plan_stages(read_pipeline(written(text)), Path("runs"))
    (config,) = [stage.config for stage in stages if isinstance(stage.config, SelectConfig)]
    assert config.rerank is not None
    assert config.rerank.settings == ScorerSettings(command=("python", "comet.py"), reference=True)
    assert config.filters["worker"] == FilterSettings(command=("python", "bicleaner.py"), version="3")
    assert config.reads_references
    assert validate(SelectConfig, tomllib.loads(to_toml(config)), "stage file") == config


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "service"', 'name = "service"\nseeds = 2', "seeds: is for a teacher that is trained here"),
        ('name = "service"', 'name = "service"\npath = "m"', r"either `path` \(bring one\), `training` .* or `source`"),
        (
            'name = "beam5"',
            'name = "beam5"\nsearch = { beam = 2 }',
            "distill.beam5.search: is for a teacher with a model",
        ),
        (
            'init_from = "kd"',
            'init_from = "service"',
            "students.tuned.init_from: 'service' is a source of k-best lists",
        ),
        ("seed = 3", "seed = 3\nrounds = 2\nnext_teacher = 'kd'", "rounds: is 2, but a teacher is a source"),
        ("rate = 2.5", "rate = 0", "teachers.service.source.rate: Input should be greater than 0"),
        ("rate = 2.5", "pace = 1", "teachers.service.source.pace"),
        (
            "[student.model]",
            f"{WORD_KD}\n[student.model]",
            "students.live.teacher: 'service' is a source of k-best lists",
        ),
        ("[student.model]", f"{WORD_KD}\n[student.model]", "soft_targets.kd16.teacher: 'service' is a source"),
        (
            "[student.model]",
            '[evaluate]\nagreement = "service"\n\n[student.model]',
            "evaluate.agreement: 'service' is a source of k-best lists",
        ),
        (
            'name = "beam5"',
            'name = "beam5"\nsource = { command = ["a", "{model}"], model = "service" }',
            "distill.beam5.source.model: 'service' is a source of k-best lists",
        ),
    ],
)
def test_mistakes_with_an_asked_teacher_are_named(old: str, new: str, message: str) -> None:
    assert old in ASKED
    with pytest.raises(ConfigError, match=message):
        read_pipeline(written(ASKED.replace(old, new)))


SOURCE = '{ command = ["{python}", "w.py", "{model}"], model = "MODEL", name = "system" }'


@pytest.mark.parametrize("own", [True, False])
def test_a_command_may_run_a_model_of_the_pipeline(own: bool) -> None:
    source = SOURCE.replace("MODEL", "gold")
    text = PIPELINE.replace('name = "beam5"', f'name = "beam5"\nsource = {source}')
    if not own:
        text = PIPELINE.replace(
            "[teacher.training]\nmax_updates = 10", f'[[teachers]]\nname = "service"\nsource = {source}'
        )
    stages = {stage.name: stage for stage in plan_stages(read_pipeline(written(text)), Path("runs"))}
    (distill,) = [stage for stage in stages.values() if isinstance(stage.config, DistillConfig)]
    assert isinstance(distill.config, DistillConfig)
    assert distill.config.source is not None
    assert distill.config.source.settings.model == Path("runs/small/students/gold")
    assert set(distill.needs) == {Path("runs/small/gold/manifest.json"), Path("runs/small/students/gold/manifest.json")}
    assert list(stages).index("student.gold") < list(stages).index(distill.name)
    assert validate(DistillConfig, tomllib.loads(to_toml(distill.config)), "stage file") == distill.config


def test_a_command_may_run_a_model_that_is_brought_along() -> None:
    Path("big").mkdir()
    (Path("big") / "model.safetensors").touch()
    text = PIPELINE.replace('name = "beam5"', f'name = "beam5"\nsource = {SOURCE.replace("MODEL", "big")}')
    (distill,) = [stage for stage in plan_stages(read_pipeline(written(text)), Path("runs")) if stage.kind == "distill"]
    assert distill.needs == (Path("runs/small/gold/manifest.json"), Path("big/model.safetensors"))


def test_a_model_that_learns_from_its_own_answers_is_a_circle() -> None:
    text = PIPELINE.replace('name = "beam5"', f'name = "beam5"\nsource = {SOURCE.replace("MODEL", "kd")}')
    with pytest.raises(ConfigError, match=r"source\.model: goes in a circle: distill\.beam5 <- students\.kd"):
        read_pipeline(written(text))

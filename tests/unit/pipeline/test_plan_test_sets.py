"""Further test sets in a pipeline file: their stages, the evaluations on them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqkd.config.stages import BitextConfig, EvaluateConfig, FurtherTestConfig, PrepareConfig, ReportConfig
from seqkd.errors import ConfigError
from seqkd.pipeline.folders import Stage
from seqkd.pipeline.make import write_plan
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.stages import plan_stages
from tests.unit.pipeline.pipeline_files import edited

RUN = Path("runs/small")
MODELS = ["teacher", "gold", "kd", "tuned"]
FURTHER = """
[data.tests.news]
source = "d.src"
target = ["d.one", "d.two"]
accepted = "d.jsonl"

[data.tests.talks]
source = "e.tsv"
"""


def planned(pipeline: Path) -> dict[str, Stage]:
    return {stage.name: stage for stage in plan_stages(read_pipeline(pipeline), Path("runs"))}


def with_tests(pipeline: Path, text: str = FURTHER) -> dict[str, Stage]:
    edited(pipeline, "[teacher.training]", f"{text}\n[teacher.training]")
    return planned(pipeline)


def test_a_test_set_adds_its_stage_and_evaluations_and_changes_no_other_stage(pipeline: Path) -> None:
    before = planned(pipeline)
    for name in ("d.src", "d.one", "d.jsonl"):
        Path(name).touch()
    after = with_tests(pipeline)
    sets = ["news", "talks"]
    new = [f"test.{name}" for name in sets]
    new += [f"evaluate.{model}@{name}" for name in sets for model in MODELS]
    assert after.keys() - before.keys() == set(new)
    assert {name: after[name] for name in before if name != "report"} == {
        name: stage for name, stage in before.items() if name != "report"
    }
    news = after["test.news"]
    assert isinstance(news.config, FurtherTestConfig)
    assert news.config.text.find_files() == BitextConfig(
        source=Path("d.src"), target=(Path("d.one"), Path("d.two")), accepted=Path("d.jsonl")
    )
    assert (news.config.prepared, news.out, news.goal) == (RUN / "gold", RUN / "tests/news", "prepare")
    assert news.words == ("prepare", "--test")
    assert news.needs == (RUN / "gold/manifest.json", Path("d.src"), Path("d.one"), Path("d.jsonl"))  # those there are


def test_an_evaluation_on_it_is_like_the_other_but_for_speed(pipeline: Path) -> None:
    stages = with_tests(pipeline)
    for model in MODELS:
        own, further = stages[f"evaluate.{model}"], stages[f"evaluate.{model}@news"]
        assert isinstance(own.config, EvaluateConfig)
        rival = None if own.config.baseline is None else RUN / f"evaluations/{own.config.baseline.name}@news"
        changed = {"corpus": RUN / "tests/news", "speed_against": None, "timed": False, "baseline": rival}
        assert further.config == own.config.model_copy(update=changed)
        assert further.out == RUN / f"evaluations/{model}@news"
        folder = RUN / ("teacher" if model == "teacher" else f"students/{model}")
        compared = set() if rival is None else {rival / "manifest.json"}
        assert set(further.needs) == {RUN / "tests/news/manifest.json", folder / "manifest.json", *compared}
    report = stages["report"]
    assert isinstance(report.config, ReportConfig)
    assert [(part.name, [named.name for named in part.evaluations]) for part in report.config.tests] == [
        ("news", MODELS),
        ("talks", MODELS),
    ]
    assert [named.name for named in report.config.evaluations] == MODELS
    assert stages["evaluate.kd@talks"].target in report.needs


def test_a_model_that_rescores_is_needed_on_every_test_set(pipeline: Path) -> None:
    ways = 'decode = [{ name = "npd", candidates = 9, rescore = true }]'
    edited(pipeline, 'init_from = "kd"', f'model = {{ arch = "nat" }}\n{ways}')
    stage = with_tests(pipeline)["evaluate.tuned@news"]
    assert isinstance(stage.config, EvaluateConfig)
    assert stage.config.rescore_with == RUN / "teacher"
    assert RUN / "teacher/manifest.json" in stage.needs


def test_several_references_of_the_own_test_text(pipeline: Path) -> None:
    edited(pipeline, 'test = { source = "c.tsv" }', 'test = { source = "a.src", target = ["a.tgt", "b.tgt"] }')
    stages = planned(pipeline)
    prepare = stages["prepare"]
    assert isinstance(prepare.config, PrepareConfig)
    assert prepare.config.test.references == (Path("a.tgt"), Path("b.tgt"))
    assert set(prepare.needs) == {Path(name) for name in ("a.src", "a.tgt", "b.src", "b.tgt")}
    assert "tests" not in {stage.kind for stage in stages.values()}


def test_with_a_fetch_step_texts_lie_in_what_it_wrote(pipeline: Path) -> None:
    Path("fetch.py").touch()
    edited(pipeline, "[data]", '[data]\nfetch = { script = "fetch.py" }')
    news = with_tests(pipeline)["test.news"]
    assert isinstance(news.config, FurtherTestConfig)
    assert news.config.text.find_files().references == (RUN / "raw/d.one", RUN / "raw/d.two")
    assert news.needs == (RUN / "gold/manifest.json",)


def test_each_data_set_has_test_sets_of_its_own(pipeline: Path) -> None:
    text = pipeline.read_text().replace("[data]", '[[data]]\nname = "de"')
    second = """
[[data]]
name = "fr"
train = { source = "a.src", target = "a.tgt" }
valid = { source = "b.src", target = "b.tgt" }
test = { source = "c.tsv" }
tests.news = { source = "g.tsv" }

[[teachers]]
name = "fr"
corpus = "fr"
training = { max_updates = 3 }

[[teachers]]
name = "teacher"
corpus = "de"
training = { max_updates = 3 }

[[distill]]"""
    text = text.replace("[teacher.training]\nmax_updates = 10\n", "").replace("[[distill]]", second, 1)
    text = text.replace('name = "beam5"', 'name = "beam5"\nteacher = "teacher"\ncorpus = "de"')
    text = text.replace('corpus = "gold"', 'corpus = "de"')
    own = 'test = { source = "c.tsv" }'
    text = text.replace(own, f'{own}\ntests.news = {{ source = "d.tsv" }}', 1)
    pipeline.write_text(text)
    stages = planned(pipeline)
    outs = {name: str(stage.out.relative_to(RUN)) for name, stage in stages.items() if "news" in name}
    assert outs["test.de@news"] == "tests/de@news"
    assert outs["test.fr@news"] == "tests/fr@news"
    assert {name for name in outs if name.startswith("evaluate.")} == {
        *(f"evaluate.{model}@news" for model in ("teacher", "gold", "kd", "tuned", "fr"))
    }
    french, german = stages["evaluate.fr@news"].config, stages["evaluate.kd@news"].config
    assert isinstance(french, EvaluateConfig)
    assert isinstance(german, EvaluateConfig)
    assert (french.corpus, german.corpus) == (RUN / "tests/fr@news", RUN / "tests/de@news")


def test_two_names_for_one_text_are_one_stage(pipeline: Path) -> None:
    stages = with_tests(pipeline, '[data.tests]\none = { source = "e.tsv" }\ntwo = { source = "e.tsv" }\n')
    assert "test.two" not in stages
    assert "evaluate.kd@two" not in stages
    report = stages["report"].config
    assert isinstance(report, ReportConfig)
    folders = [[named.path for named in part.evaluations] for part in report.tests]
    assert folders[0] == folders[1] == [RUN / f"evaluations/{model}@one" for model in MODELS]


def test_make_names_the_stages(pipeline: Path) -> None:
    edited(pipeline, "[teacher.training]", f"{FURTHER}\n[teacher.training]")
    rules = write_plan(pipeline, "runs").read_text()
    assert "prepare --config $(RUN)/config/test.news.toml --out $(RUN)/tests/news --test " in rules
    assert "\n$(RUN)/evaluations/kd@news/manifest.json: $(RUN)/config/evaluate.kd@news.toml " in rules


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[data.tests.test]\nsource = "a"', r"data: tests\.test: this name belongs to the data set's own test text"),
        ('[data.tests."a@b"]\nsource = "a"', r"data\.tests\.a@b"),
        ('[data.tests."a.old"]\nsource = "a"', "reserved for finished folders"),
        ('[data.tests.a]\nsource = "a"\ntarget = ["b c"]', r"data\.tests\.a\.target: 'b c' cannot be a Make target"),
        ('[data.tests.a]\nsource = "a"\n[data.tests.a]\nsource = "b"', "not valid TOML"),
        ('[data.tests.a]\nsource = "a"\ntarget = 3', r"data\.tests\.a\.target: "),
        ('[data.tests.a]\nsacrebleu = "wmt14"', r"data\.tests\.a: `sacrebleu` and `langpair` go together"),
    ],
)
def test_names_and_texts_that_cannot_be(pipeline: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_tests(pipeline, text)


def test_sets_of_sacrebleu_are_looked_for_before_any_work_and_told_together(pipeline: Path) -> None:
    text = """
[data.tests]
news = { sacrebleu = "wmt-14", langpair = "en-de" }
more = { sacrebleu = "wmt14", langpair = "en-dee" }
there = { sacrebleu = "wmt14", langpair = "en-de" }
"""
    with pytest.raises(ConfigError) as caught:
        with_tests(pipeline, text)
    lines = str(caught.value).splitlines()
    assert "3 problems" in lines[0]
    assert "data.tests.news: sacrebleu has no test set 'wmt-14'; expected: " in lines[1]
    assert "data.tests.more: sacrebleu's test set 'wmt14' has no language pair 'en-dee'; expected: " in lines[2]
    assert "data.tests.there: sacrebleu's test set 'wmt14' (en-de) is not on this machine, in " in lines[3]
    assert "`sacrebleu --download wmt14 --language-pair en-de`" in lines[3]

"""Models that learn from several data sets: the stages that a pipeline file makes of them, and problems."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqkd.config.stages import (
    EvaluateConfig,
    FurtherVocabularyConfig,
    PrepareConfig,
    ReportConfig,
    SoftTargetsConfig,
    TrainConfig,
    WeightedPath,
)
from seqkd.pipeline.folders import Stage
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.stages import plan_stages
from tests.unit.pipeline.pipeline_files import edited
from tests.unit.pipeline.test_pipeline import problems

RUN = Path("runs/pairs")
DATA = """
[[data]]
name = "{name}"
train = {{ source = "train.en", target = "train.{name}" }}
valid = {{ source = "valid.en", target = "valid.{name}" }}
test = {{ source = "test.en", target = "test.{name}" }}
target_language = "{name}"
tag = "<2{name}>"

[[teachers]]
name = "en-{name}"
corpus = "{name}"
vocabulary = "all"
training = {{ max_updates = 10 }}

[[distill]]
name = "{name}-beam5"
teacher = "en-{name}"
corpus = "{name}"

[[select]]
name = "{name}-seqkd"
kbest = "{name}-beam5"
rule = "seqkd"
"""
PAIRS = f"""
name = "pairs"
{DATA.format(name="de")}
{DATA.format(name="fr")}

[[vocabularies]]
name = "all"
size = 300
corpus = ["de", "fr"]

[student.training]
max_updates = 20

[[students]]
name = "many"
corpus = [{{ name = "de" }}, {{ name = "fr" }}]
corpus_temperature = 5.0
vocabulary = "all"

[[students]]
name = "many-seqkd"
corpus = [{{ name = "de-seqkd" }}, {{ name = "fr-seqkd", weight = 2.0 }}]
vocabulary = "all"
training = {{ best_by = {{ metric = "bleu", group = "fr" }} }}

[[students]]
name = "german"
corpus = "de"
vocabulary = "all"
"""


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.toml").write_text(PAIRS)
    return tmp_path / "pairs.toml"


def planned(file: Path) -> dict[str, Stage]:
    return {stage.name: stage for stage in plan_stages(read_pipeline(file), Path("runs"))}


def test_a_vocabulary_is_learnt_from_several_data_sets(pairs: Path) -> None:
    stages = planned(pairs)
    vocabulary, german = stages["vocabulary.all"], stages["prepare.de"].config
    assert isinstance(vocabulary.config, FurtherVocabularyConfig)
    assert isinstance(vocabulary.config.prepared, tuple)
    assert [(part.group, part.path) for part in vocabulary.config.prepared] == [
        ("de", RUN / "data/de"),
        ("fr", RUN / "data/fr"),
    ]
    assert vocabulary.config.vocabulary.symbols == ("<2de>", "<2fr>")
    assert vocabulary.needs == (RUN / "data/de/manifest.json", RUN / "data/fr/manifest.json")
    assert isinstance(german, PrepareConfig)
    assert (german.tag, german.vocabulary.symbols) == ("<2de>", ("<2de>",))


def test_rows_of_a_model_know_their_data_set(pairs: Path) -> None:
    stages = planned(pairs)
    many, distilled, german = (stages[f"student.{name}"].config for name in ("many", "many-seqkd", "german"))
    assert isinstance(many, TrainConfig)
    assert many.prepared == RUN / "vocabularies/all"
    assert many.corpora == (
        WeightedPath(path=RUN / "corpora/de@all", group="de"),
        WeightedPath(path=RUN / "corpora/fr@all", group="fr"),
    )
    assert many.corpus_temperature == 5.0
    assert isinstance(distilled, TrainConfig)
    assert [(part.path.name, part.weight, part.group) for part in distilled.corpora] == [
        ("de-seqkd@all", 1.0, "de"),
        ("fr-seqkd@all", 2.0, "fr"),
    ]
    assert distilled.training.chooses_by == "bleu@fr"
    assert isinstance(german, TrainConfig)
    assert german.corpora == (WeightedPath(path=RUN / "corpora/de@all", group="de"),)
    # The teacher decodes the text of its data set in its own pieces.
    assert stages["encode.fr-seqkd@all"].needs[0] == RUN / "corpora/fr-seqkd/manifest.json"


def test_a_model_is_evaluated_on_each_data_set_and_is_in_each_report(pairs: Path) -> None:
    stages = planned(pairs)
    names = [name.removeprefix("evaluate.") for name in stages if name.startswith("evaluate")]
    assert sorted(names) == ["en-de", "en-fr", "german", "many-seqkd@de", "many-seqkd@fr", "many@de", "many@fr"]
    found = {name: stages[f"evaluate.{name}"].config for name in ("many@de", "many@fr", "many-seqkd@fr")}
    for config in found.values():
        assert isinstance(config, EvaluateConfig)
        assert config.corpus.name.endswith("@test@all")
    first, second, distilled = found.values()
    assert isinstance(first, EvaluateConfig)
    assert isinstance(second, EvaluateConfig)
    assert isinstance(distilled, EvaluateConfig)
    assert (first.name, first.timed, first.speed_against) == ("many", True, RUN / "teachers/en-de")
    assert (second.corpus, second.timed, second.speed_against) == (RUN / "tests/fr@test@all", False, None)
    assert first.trained_on == "de + fr"
    assert distilled.baseline == RUN / "evaluations/many@fr"
    report = stages["report.de"]
    assert isinstance(report.config, ReportConfig)
    assert [(part.name, part.path.name) for part in report.config.evaluations] == [
        ("en-de", "en-de"),
        ("many", "many@de"),
        ("many-seqkd", "many-seqkd@de"),
        ("german", "german"),
    ]
    (joined,) = report.config.tests
    assert (joined.name, [part.name for part in joined.evaluations]) == ("fr", ["en-fr", "many", "many-seqkd"])
    assert RUN / "evaluations/many@fr/manifest.json" in report.needs
    assert list(stages).index("report.de") > list(stages).index("evaluate.many@fr")
    assert ("data fr", "student many") in report.config.edges


def test_seeds_of_models_in_the_reports_of_joined_data_sets(pairs: Path) -> None:
    """A report has all seeds of its own models, and the first one of the others."""
    edited(pairs, 'name = "many"\n', 'name = "many"\nseeds = 2\n')
    edited(pairs, 'name = "en-fr"\n', 'name = "en-fr"\nseeds = 2\n')
    report = planned(pairs)["report.de"].config
    assert isinstance(report, ReportConfig)
    (joined,) = report.tests
    assert [part.name for part in joined.evaluations] == ["en-fr", "many", "many.seed2", "many-seqkd"]
    assert joined.evaluations[2].path == RUN / "evaluations/many.seed2@fr"


TAUGHT = """
[[students]]
name = "taught"
corpus = [{ name = "de" }, { name = "fr" }]
vocabulary = "all"
objective = { type = "word_kd" }
teacher = { de = "en-de", fr = "en-fr" }
hooks = [{ type = "selective", margin = 1.0 }]
"""


def test_a_student_asks_the_teacher_of_each_data_set(pairs: Path) -> None:
    edited(pairs, 'name = "en-fr"\n', 'name = "en-fr"\nensemble = 2\n')
    pairs.write_text(pairs.read_text() + TAUGHT)
    stage = planned(pairs)["student.taught"]
    assert isinstance(stage.config, TrainConfig)
    teachers = RUN / "teachers"
    assert stage.config.teachers == {
        "de": (teachers / "en-de",),
        "fr": (teachers / "en-fr", teachers / "en-fr-2"),
    }
    assert stage.config.objective.teachers == ()
    assert teachers / "en-fr-2" / "manifest.json" in stage.needs


STORED = """
[[soft_targets]]
name = "de8"
teacher = "en-de"
corpus = "de"
top_k = 8

[[soft_targets]]
name = "fr8"
teacher = "en-fr"
corpus = "fr-seqkd"
top_k = 8

[[students]]
name = "stored"
corpus = [{ name = "de" }, { name = "fr-seqkd" }]
vocabulary = "all"
objective = { type = "word_kd" }
soft_targets = { de = "de8", fr = "fr8" }
"""


def test_a_student_reads_the_soft_targets_of_each_data_set(pairs: Path) -> None:
    pairs.write_text(pairs.read_text() + STORED)
    stages = planned(pairs)
    soft, student = stages["soft_targets.fr8"].config, stages["student.stored"]
    assert isinstance(soft, SoftTargetsConfig)
    assert soft.corpus == RUN / "corpora/fr-seqkd@all"
    assert isinstance(student.config, TrainConfig)
    assert student.config.soft_targets == {"de": RUN / "soft_targets/de8", "fr": RUN / "soft_targets/fr8"}
    assert (student.config.teachers, student.config.objective.teachers) == ({}, ())
    assert RUN / "soft_targets/fr8/manifest.json" in student.needs
    edited(pairs, 'corpus = "fr-seqkd"\ntop_k = 8', 'corpus = "fr"\ntop_k = 8\ntemperature = 2.0')
    assert problems(pairs) == [
        "students.stored.soft_targets: 'fr8' belongs to the corpus 'fr', which the student does not have; name the "
        "soft targets of its corpora"
    ]
    edited(pairs, 'corpus = "fr"\ntop_k', 'corpus = "fr-seqkd"\ntop_k')
    assert problems(pairs) == [
        "students.stored.objective.temperature: is 1.0, but the soft targets 'fr8' are written at temperature 2.0; "
        "give both the same temperature"
    ]
    edited(pairs, 'soft_targets = { de = "de8", fr = "fr8" }', 'soft_targets = { de = "de8" }')
    assert (
        "students.stored.soft_targets: no soft targets for the data set fr; name one for each data set: de, fr"
        in problems(pairs)
    )


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            ', fr = "en-fr" }',
            " }",
            "students.taught.teacher: no teacher for the data set fr; name one for each data set: de, fr",
        ),
        (
            ', fr = "en-fr" }',
            ', fr = "en-es" }',
            "students.taught.teacher: no [[teachers]] is named 'en-es'; there is en-de, en-fr, many, many-seqkd, "
            "german, taught",
        ),
        (
            'fr = "en-fr" }',
            'fr = "en-fr", es = "en-fr" }',
            "students.taught.teacher: the student does not learn from the data set es; leave it out",
        ),
        (
            '[{ name = "de" }, { name = "fr" }]',
            '"de"',
            "students.taught.teacher: the student has one data set; give the name of its teacher alone",
        ),
    ],
)
def test_teachers_that_do_not_fit_the_data_sets(pairs: Path, old: str, new: str, problem: str) -> None:
    before = pairs.read_text()
    pairs.write_text(TAUGHT)
    edited(pairs, old, new)
    pairs.write_text(before + pairs.read_text())
    assert problem in problems(pairs)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            'corpus_temperature = 5.0\nvocabulary = "all"\n',
            "",
            "students.many: is made from the data sets de, fr, each of which has a vocabulary of its own; name parts "
            "of one data set, or give its models a `vocabulary` of all of them: [[vocabularies]] with corpus = "
            '["de", "fr"]',
        ),
        (
            'corpus = ["de", "fr"]',
            'corpus = ["de"]',
            "students.many.vocabulary: 'all' is learnt from de, but the model learns from fr; name all of them in "
            "vocabularies.all.corpus",
        ),
        (
            '[{ name = "de" }, { name = "fr" }]',
            '[{ name = "de" }, { name = "fr", weight = 2.0 }]',
            "students.many: corpus_temperature: the corpora have weights, too; leave out one or the other",
        ),
        (
            'name = "german"\n',
            'name = "german"\ntraining = { best_by = { metric = "nll", group = "fr" } }\n',
            "students.german.training.best_by.group: 'fr': the model has one data set; give a metric alone, or another "
            "group",
        ),
        (
            'teacher = "en-fr"\ncorpus = "fr"',
            'teacher = "en-de"\ncorpus = "fr"',
            "distill.fr-beam5.teacher: 'en-de' writes de, but the target language of the corpus is fr; name a teacher "
            "of this language",
        ),
        (
            'tag = "<2de>"',
            'tag = "<2de>"\ntests.fr = { source = "c.tsv" }',
            "data.de.tests.fr: is also the name of a data set; choose another name",
        ),
        (
            'tag = "<2fr>"',
            'tag = "<2fr>"\nshares_sources = "es"',
            "data.fr.shares_sources: no [[data]] is named 'es'; there is de, fr",
        ),
        (
            '"<2fr>"',
            '"<2 fr>"',
            "data.fr.tag: String should match pattern '^\\S+$', got '<2 fr>'",
        ),
    ],
)
def test_what_cannot_be_mixed(pairs: Path, old: str, new: str, problem: str) -> None:
    edited(pairs, old, new)
    assert problem in problems(pairs)


# --- models that start from one another ---------------------------------------------------------------------------

FAMILY = """
[[students]]
name = "tuned-0.2"
corpus = "fr"
vocabulary = "all"
init_from = "en-de"
teacher = "en-de"
objective = { type = "word_kd", alpha = 0.2 }

[[students]]
name = "tuned-0.8"
corpus = "fr"
vocabulary = "all"
init_from = "en-de"
teacher = "en-de"
objective = { type = "word_kd", alpha = 0.8 }

[[students]]
name = "in-turn"
alternate = [{ corpus = "fr", updates = 10 }, { corpus = "de-seqkd", updates = 20 }]
vocabulary = "all"
init_from = "en-de"
"""


def test_models_of_one_family_are_evaluated_on_all_its_data_sets(pairs: Path) -> None:
    pairs.write_text(pairs.read_text() + FAMILY)
    stages = planned(pairs)
    for name in ("en-de", "tuned-0.2", "in-turn"):
        for data in ("de", "fr"):
            config = stages[f"evaluate.{name}@{data}"].config
            assert isinstance(config, EvaluateConfig)
            assert config.corpus == RUN / f"tests/{data}@test@all"
    assert "evaluate.en-fr" in stages  # not of the family
    train = stages["student.in-turn"].config
    assert isinstance(train, TrainConfig)
    assert [(block.corpus, block.group, block.updates) for block in train.alternate or ()] == [
        (RUN / "corpora/fr@all", "fr", 10),
        (RUN / "corpora/de-seqkd@all", "de", 20),
    ]
    report, other = stages["report.fr"].config, stages["report.de"].config
    assert isinstance(report, ReportConfig)
    assert isinstance(other, ReportConfig)
    for config, known in ((report, ("de",)), (other, ("test",))):
        assert [(each.name, each.start, each.known) for each in config.starts] == [
            (name, "en-de", known) for name in ("tuned-0.2", "tuned-0.8", "in-turn")
        ]
        assert config.grids == (("tuned-0.2", "tuned-0.8"),)
    assert {"en-de", "in-turn", "tuned-0.8"} <= {named.name for named in report.evaluations}
    assert {"en-de", "in-turn", "tuned-0.8"} <= {named.name for named in other.evaluations}
    assert {path.parent for path in stages["report.fr"].needs} >= {
        RUN / "evaluations/en-de@fr",
        RUN / "evaluations/in-turn@de",
    }

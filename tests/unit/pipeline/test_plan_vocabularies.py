"""Models with vocabularies of their own in a pipeline file: the stages that they need, and problems."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqkd.config.stages import (
    DistillConfig,
    EncodeConfig,
    EvaluateConfig,
    FurtherVocabularyConfig,
    PrepareConfig,
    ReportConfig,
    SoftTargetsConfig,
    TrainConfig,
    VocabularyConfig,
)
from seqkd.pipeline.folders import Stage
from seqkd.pipeline.make import write_plan
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.stages import plan_stages
from tests.unit.pipeline.pipeline_files import WORD_KD, edited
from tests.unit.pipeline.test_contradictions import brought
from tests.unit.pipeline.test_pipeline import problems

RUN = Path("runs/small")
SMALL = """
[[vocabularies]]
name = "tiny"
size = 300

[[students]]
name = "own"
corpus = "kd"
vocabulary = "tiny"

[[students]]
name = "mixed"
corpus = [{ name = "gold" }, { name = "kd", weight = 2.0 }]
vocabulary = "tiny"
"""


def planned(pipeline: Path) -> dict[str, Stage]:
    return {stage.name: stage for stage in plan_stages(read_pipeline(pipeline), Path("runs"))}


def add(pipeline: Path, text: str) -> None:
    with pipeline.open("a") as file:
        file.write(text)


def test_a_vocabulary_adds_a_stage_for_each_corpus_and_changes_no_other_stage(pipeline: Path) -> None:
    before = planned(pipeline)
    add(pipeline, SMALL)
    after = planned(pipeline)
    new = {"vocabulary.tiny", "encode.kd@tiny", "encode.gold@tiny", "encode.test.test@tiny"}
    new |= {f"{stage}.{name}" for stage in ("student", "evaluate") for name in ("own", "mixed")}
    assert after.keys() - before.keys() == new
    assert {name: after[name] for name in before if name != "report"} == {
        name: stage for name, stage in before.items() if name != "report"
    }
    vocabulary = after["vocabulary.tiny"]
    assert isinstance(vocabulary.config, FurtherVocabularyConfig)
    assert vocabulary.config.prepared == RUN / "gold"
    assert vocabulary.config.vocabulary == VocabularyConfig(size=300)
    assert (vocabulary.out, vocabulary.goal) == (RUN / "vocabularies/tiny", "prepare")
    assert vocabulary.words == ("prepare", "--vocabulary")
    encoded = after["encode.kd@tiny"]
    assert encoded.config == EncodeConfig(corpus=RUN / "corpora/kd", vocabulary=RUN / "vocabularies/tiny")
    assert (encoded.out, encoded.words) == (RUN / "corpora/kd@tiny", ("prepare", "--encode"))
    assert encoded.needs == (RUN / "corpora/kd/manifest.json", RUN / "vocabularies/tiny/manifest.json")
    assert after["encode.gold@tiny"].config == EncodeConfig(
        corpus=RUN / "gold/train", vocabulary=RUN / "vocabularies/tiny"
    )
    assert after["encode.test.test@tiny"].config == EncodeConfig(
        corpus=RUN / "gold/test", vocabulary=RUN / "vocabularies/tiny"
    )
    for name, corpora in (("own", ["kd@tiny"]), ("mixed", ["gold@tiny", "kd@tiny"])):
        student, evaluation = after[f"student.{name}"], after[f"evaluate.{name}"]
        assert isinstance(student.config, TrainConfig)
        assert student.config.prepared == RUN / "vocabularies/tiny"
        assert [part.path for part in student.config.corpora] == [RUN / "corpora" / corpus for corpus in corpora]
        assert RUN / "vocabularies/tiny/manifest.json" in student.needs
        assert isinstance(evaluation.config, EvaluateConfig)
        assert evaluation.config.corpus == RUN / "tests/test@tiny"
        assert evaluation.config.baseline is None  # no student of gold text has this vocabulary
        assert RUN / "tests/test@tiny/manifest.json" in evaluation.needs
    mixed = after["evaluate.mixed"].config
    assert isinstance(mixed, EvaluateConfig)
    assert mixed.trained_on == "gold + 2 kd"
    report = after["report"].config
    assert isinstance(report, ReportConfig)
    assert [named.path.name for named in report.corpora] == ["kd"]
    edges = {tuple(edge) for edge in report.edges}
    drawn = {("gold", "vocabulary tiny"), ("vocabulary tiny", "student own"), ("corpus kd", "student own")}
    assert drawn <= edges
    assert not any("@" in label for edge in edges for label in edge)


def test_the_plan_holds_every_folder_once(pipeline: Path) -> None:
    add(pipeline, SMALL)
    plan = write_plan(pipeline, "runs").read_text()
    rules = [line.partition(":")[0] for line in plan.splitlines() if line.startswith("$(RUN)/")]
    assert len(rules) == len(set(rules))
    assert "$(RUN)/corpora/kd@tiny/manifest.json" in rules


def test_a_teacher_with_a_vocabulary_of_its_own(pipeline: Path) -> None:
    """It is trained on gold text in its pieces, and its lists have the pieces of the data set."""
    edited(pipeline, "[teacher.training]", '[teacher]\nvocabulary = "tiny"\n\n[teacher.training]')
    add(pipeline, SMALL.partition("[[students]]")[0])
    edited(pipeline, "[data]", '[data]\ntests.news = { source = "c.tsv" }')
    stages = planned(pipeline)
    teacher, lists, plain = (stages[name].config for name in ("teacher", "distill.beam5", "student.kd"))
    assert isinstance(teacher, TrainConfig)
    assert (teacher.prepared, teacher.corpus) == (RUN / "vocabularies/tiny", RUN / "corpora/gold@tiny")
    assert isinstance(lists, DistillConfig)
    assert (lists.corpus, lists.prepared) == (RUN / "gold/train", RUN / "gold")
    assert isinstance(plain, TrainConfig)
    assert plain.prepared == RUN / "gold"
    news = stages["evaluate.teacher@news"].config
    assert isinstance(news, EvaluateConfig)
    assert news.corpus == RUN / "tests/news@tiny"
    assert stages["encode.test.news@tiny"].needs[0] == RUN / "tests/news/manifest.json"


def test_a_brought_teacher_beside_a_vocabulary_that_is_learnt(pipeline: Path) -> None:
    edited(pipeline, "[teacher.training]\nmax_updates = 10", '[teacher]\npath = "big"')
    edited(pipeline, "[data]", "[prepare.vocabulary]\nsize = 300\n\n[data]")
    stages = planned(pipeline)
    prepare, lists, teacher = (stages[name].config for name in ("prepare", "distill.beam5", "evaluate.teacher"))
    assert isinstance(prepare, PrepareConfig)
    assert (prepare.vocabulary_from, prepare.vocabulary.size) == (None, 300)
    assert isinstance(lists, DistillConfig)
    assert lists.prepared == RUN / "gold"
    assert isinstance(teacher, EvaluateConfig)
    assert teacher.corpus == RUN / "tests/test@@teacher"
    assert stages["encode.test.test@@teacher"].config == EncodeConfig(corpus=RUN / "gold/test", vocabulary=Path("big"))


def test_soft_targets_belong_to_what_their_teacher_reads(pipeline: Path) -> None:
    """All models share the vocabulary, so that distributions can be compared."""
    edited(pipeline, "[teacher.training]", '[teacher]\nvocabulary = "tiny"\n\n[teacher.training]')
    edited(pipeline, "[student.training]", '[student]\nvocabulary = "tiny"\n\n[student.training]')
    add(pipeline, WORD_KD + SMALL.partition("[[students]]")[0])
    stages = planned(pipeline)
    soft, written = stages["soft_targets.kd16"].config, stages["student.written"].config
    assert isinstance(soft, SoftTargetsConfig)
    assert isinstance(written, TrainConfig)
    assert soft.corpus == written.corpus == RUN / "corpora/kd@tiny"
    gold, tuned = (stages[f"evaluate.{name}"].config for name in ("gold", "tuned"))
    assert isinstance(gold, EvaluateConfig)
    assert isinstance(tuned, EvaluateConfig)
    assert tuned.baseline == RUN / "evaluations/gold"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'name = "live"\ncorpus = "kd"\n',
            "students.live.objective: takes the distributions of 'teacher', which has the vocabulary of the data set, "
            "but the student has the vocabulary 'tiny', whose pieces differ",
        ),
        (
            'name = "written"\ncorpus = "kd"\n',
            "students.written.objective: takes the soft targets of 'teacher', which has the vocabulary of the data set",
        ),
        (
            'name = "tuned"\ncorpus = "kd"\n',
            "students.tuned.init_from: takes the weights of 'kd', which has the vocabulary of the data set",
        ),
    ],
)
def test_pieces_that_cannot_be_compared(pipeline: Path, text: str, expected: str) -> None:
    add(pipeline, WORD_KD + SMALL)
    read_pipeline(pipeline)
    edited(pipeline, text, f'{text}vocabulary = "tiny"\n')
    (line,) = problems(pipeline)
    assert line.startswith(expected)


def test_a_successor_with_another_vocabulary_does_not_teach_word_by_word(pipeline: Path) -> None:
    add(pipeline, WORD_KD + SMALL)
    edited(pipeline, 'name = "small"\n', 'name = "small"\nrounds = 2\nnext_teacher = "own"\n')
    found = [line.partition(", but")[0] for line in problems(pipeline)]
    assert "students.live.objective: takes the distributions of 'own', which has the vocabulary 'tiny'" in found


def test_settings_that_do_not_fit_the_vocabulary(pipeline: Path) -> None:
    add(pipeline, SMALL)
    edited(pipeline, "size = 300", "size = 300\njoint = false")
    places = [line.partition(":")[0] for line in problems(pipeline)]
    assert places == ["students.own.model.embeddings", "students.mixed.model.embeddings"]
    edited(pipeline, "joint = false", "")
    objective = 'objective = { type = "word_kd", top_k = 301 }'
    edited(pipeline, "[teacher.training]", '[teacher]\nvocabulary = "tiny"\n\n[teacher.training]')
    edited(pipeline, 'name = "own"', f'name = "own"\n{objective}')
    assert problems(pipeline) == [
        "students.own.objective.top_k: is 301, but the vocabulary has 300 pieces; give at most 300"
    ]


def test_a_brought_teacher_of_another_vocabulary_does_not_teach_word_by_word(pipeline: Path) -> None:
    brought("big")
    edited(pipeline, "[teacher.training]\nmax_updates = 10", '[teacher]\npath = "big"')
    add(pipeline, WORD_KD)
    read_pipeline(pipeline)
    edited(pipeline, "[data]", "[prepare.vocabulary]\nsize = 70\nbyte_fallback = false\n\n[data]")
    lines = problems(pipeline)
    assert [line.partition(":")[0] for line in lines] == ["students.live.objective", "students.written.objective"]
    assert "which has the vocabulary that 'teacher' brings along" in lines[0]

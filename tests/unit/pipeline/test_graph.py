"""The graph of a pipeline: names and references that cannot be, the order of stages, and what a new teacher remakes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.config.stages import DistillConfig, EvaluateConfig, PrepareConfig, ReportConfig, SelectConfig, TrainConfig
from seqkd.errors import ConfigError
from seqkd.pipeline.expansion import build_graph
from seqkd.pipeline.folders import Stage
from seqkd.pipeline.graph import Graph, Key, Node, Part
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.stages import plan_stages
from tests.unit.pipeline.pipeline_files import edited
from tests.unit.pipeline.test_plan import SHIPPED, FakeMake

RUN = Path("runs/small")
SEVERAL = """
name = "small"

[[data]]
name = "de"
train = { source = "a.src", target = "a.tgt" }
valid = { source = "b.src", target = "b.tgt" }
test = { source = "c.tsv" }

[[data]]
name = "fr"
train = { source = "b.src", target = "b.tgt" }
valid = { source = "b.src", target = "b.tgt" }
test = { source = "c.tsv" }

[[teachers]]
name = "en-de"
corpus = "de"
training = { max_updates = 10 }

[[teachers]]
name = "en-de-wide"
corpus = "de"
ensemble = 2
training = { max_updates = 10 }

[[teachers]]
name = "en-fr"
corpus = "fr"
training = { max_updates = 10 }

[[distill]]
name = "de-beam5"
teacher = "en-de-wide"
corpus = "de"

[[select]]
name = "de-seqkd"
kbest = "de-beam5"
rule = "seqkd"

[[distill]]
name = "de-again"
teacher = "assistant"
corpus = "de"

[[select]]
name = "de-small"
kbest = "de-again"
rule = "seqinter"

[student.training]
max_updates = 20

[[students]]
name = "small"
corpus = "de-small"

[[students]]
name = "assistant"
corpus = "de-seqkd"

[[students]]
name = "french"
corpus = "fr"
objective = { type = "word_kd" }
teacher = "en-fr"
"""


@pytest.fixture
def several(pipeline: Path) -> Path:
    """Two data sets, three teachers, one of them an ensemble, and a student that teaches another one."""
    pipeline.write_text(SEVERAL)
    return pipeline


def stages_of(file: Path) -> dict[str, Stage]:
    return {stage.name: stage for stage in plan_stages(read_pipeline(file), Path("runs"))}


def problems(file: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_pipeline(file)
    return [line.strip() for line in caught.value.what.splitlines()[1:]]


# --- several data sets and teachers -------------------------------------------------------------------------------


def test_each_data_set_and_each_teacher_has_a_folder(several: Path) -> None:
    stages = stages_of(several)
    folders = {name: stage.out.relative_to(RUN) for name, stage in stages.items()}
    assert {name: str(folder) for name, folder in folders.items() if not name.startswith(("student", "evaluate"))} == {
        "prepare.de": "data/de",
        "prepare.fr": "data/fr",
        "teacher.en-de": "teachers/en-de",
        "teacher.en-de-wide": "teachers/en-de-wide",
        "teacher.en-de-wide-2": "teachers/en-de-wide-2",
        "teacher.en-fr": "teachers/en-fr",
        "distill.de-beam5": "kbest/de-beam5",
        "select.de-seqkd": "corpora/de-seqkd",
        "distill.de-again": "kbest/de-again",
        "select.de-small": "corpora/de-small",
        "report.de": "report/de",
        "report.fr": "report/fr",
    }
    teachers = [stage.config for name, stage in stages.items() if name.startswith("teacher")]
    seeds = {config.training.seed for config in teachers if isinstance(config, TrainConfig)}
    assert len(seeds) == 4


def test_a_named_teacher_decodes_a_named_data_set(several: Path) -> None:
    stages = stages_of(several)
    decode, select = stages["distill.de-beam5"], stages["select.de-small"]
    assert isinstance(decode.config, DistillConfig)
    assert decode.config.models == (RUN / "teachers/en-de-wide", RUN / "teachers/en-de-wide-2")
    assert decode.config.corpus == RUN / "data/de/train"
    assert [str(path.parent.relative_to(RUN)) for path in decode.needs] == [
        "teachers/en-de-wide",
        "teachers/en-de-wide-2",
        "data/de",
    ]
    assert isinstance(select.config, SelectConfig)
    assert (select.config.gold, select.config.prepared) == (RUN / "data/de/train", RUN / "data/de")
    french = stages["student.french"].config
    assert isinstance(french, TrainConfig)
    assert (french.prepared, french.corpus) == (RUN / "data/fr", RUN / "data/fr/train")
    assert french.objective.teachers == (RUN / "teachers/en-fr",)


def test_a_student_may_teach(several: Path) -> None:
    stages = stages_of(several)
    decode = stages["distill.de-again"].config
    assert isinstance(decode, DistillConfig)
    assert decode.models == (RUN / "students/assistant",)
    names = list(stages)
    for earlier, later in (
        ("student.assistant", "distill.de-again"),
        ("distill.de-again", "select.de-small"),
        ("select.de-small", "student.small"),
    ):
        assert names.index(earlier) < names.index(later)


def test_a_model_is_compared_within_its_data_set(several: Path) -> None:
    stages = stages_of(several)
    timed = {}
    for name in ("small", "assistant", "french", "en-de", "en-de-wide-ensemble"):
        config = stages[f"evaluate.{name}"].config
        assert isinstance(config, EvaluateConfig)
        timed[name] = (str(config.corpus.relative_to(RUN)), config.speed_against)
    assert timed == {
        "small": ("data/de/test", RUN / "teachers/en-de-wide"),
        "assistant": ("data/de/test", RUN / "teachers/en-de-wide"),
        "french": ("data/fr/test", RUN / "teachers/en-fr"),
        "en-de": ("data/de/test", None),
        "en-de-wide-ensemble": ("data/de/test", RUN / "teachers/en-de-wide"),
    }
    report = stages["report.fr"]
    assert isinstance(report.config, ReportConfig)
    assert [model.name for model in report.config.evaluations] == ["en-fr", "french"]
    assert set(report.config.edges) == {
        ("gold", "teacher en-fr"),
        ("gold", "student french"),
        ("teacher en-fr", "student french"),
    }
    assert not [path for path in report.needs if "data/de" in str(path)]


def test_make_runs_several_data_sets(several: Path) -> None:
    make = FakeMake(several)
    done = make("report", "--jobs=3")
    assert len(done) == len(set(done)) == 23
    assert make("report") == []
    edited(several, 'name = "de-beam5"', 'name = "de-beam5"\nbatch_tokens = 77')
    assert make("students") == [
        "distill de-beam5",
        "select de-seqkd",
        "train assistant",
        "distill de-again",
        "select de-small",
        "train small",
    ]


def test_a_teacher_brings_the_vocabulary_of_its_data_set(several: Path) -> None:
    edited(
        several,
        'name = "en-fr"\ncorpus = "fr"\ntraining = { max_updates = 10 }',
        'name = "en-fr"\ncorpus = "fr"\npath = "big"',
    )
    stages = stages_of(several)
    german, french = stages["prepare.de"].config, stages["prepare.fr"].config
    assert isinstance(german, PrepareConfig)
    assert isinstance(french, PrepareConfig)
    assert (german.vocabulary_from, french.vocabulary_from) == (None, Path("big"))
    assert "teacher.en-fr" not in stages
    assert Path("big/model.safetensors") in stages["student.french"].needs
    edited(several, "[[data]]", "[prepare.vocabulary]\nsize = 300\n\n[[data]]")
    (line,) = problems(several)
    assert line.startswith("students.french.objective: takes the distributions of 'en-fr', which has the vocabulary")


def test_the_only_data_set_and_the_only_teacher_keep_their_folders(pipeline: Path) -> None:
    text = pipeline.read_text().replace("[data]", '[[data]]\nname = "de"').replace('corpus = "gold"', 'corpus = "de"')
    pipeline.write_text(text.replace("[teacher.training]\n", '[[teachers]]\nname = "big"\n[teachers.training]\n'))
    stages = stages_of(pipeline)
    assert (stages["prepare"].out, stages["teacher"].out) == (RUN / "gold", RUN / "teacher")
    config = stages["evaluate.kd"].config
    assert isinstance(config, EvaluateConfig)
    assert config.speed_against == RUN / "teacher"


def test_equal_stages_are_one(several: Path) -> None:
    alike = '[[distill]]\nname = "twin"\nteacher = "en-de-wide"\ncorpus = "de"\n\n'
    edited(
        several,
        "[student.training]",
        f'{alike}[[select]]\nname = "twin"\nkbest = "twin"\nrule = "seqkd"\n\n[student.training]',
    )
    edited(
        several,
        '[[students]]\nname = "small"',
        '[[students]]\nname = "other"\ncorpus = "twin"\n\n[[students]]\nname = "small"',
    )
    stages = stages_of(several)
    assert not {"distill.twin", "select.twin"} & set(stages)
    # The corpora are one, and so are the students; each is evaluated under its own name.
    trained = [name for name in ("student.other", "student.assistant") if name in stages]
    assert trained == ["student.other"]
    config = stages["evaluate.assistant"].config
    assert isinstance(config, EvaluateConfig)
    assert config.model == RUN / "students/other"
    decode = stages["distill.de-again"]
    assert isinstance(decode.config, DistillConfig)
    assert decode.config.models == (RUN / "students/other",)
    assert RUN / "students/other/manifest.json" in decode.needs


# --- what cannot be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            'teacher = "en-fr"',
            "",
            "students.french.teacher: missing: name one of [[teachers]]: en-de, en-de-wide, en-fr",
        ),
        (
            'teacher = "en-de-wide"\n',
            "",
            "distill.de-beam5.teacher: missing: name one of [[teachers]]: en-de, en-de-wide, en-fr",
        ),
        ('corpus = "fr"\ntraining', "training", "teachers.en-fr.corpus: missing: name one of [[data]]: de, fr"),
        (
            'kbest = "de-beam5"',
            'kbest = "en-de"',
            "select.de-seqkd.kbest: no [[distill]] is named 'en-de', which is a [[teachers]]; there is de-beam5, ",
        ),
        (
            'corpus = "de-small"',
            'corpus = "de-beam5"',
            "students.small.corpus: no [[select]] is named 'de-beam5', which is a [[distill]]; there is de, fr, de-seq",
        ),
        (
            'teacher = "assistant"',
            'teacher = "nobody"',
            "distill.de-again.teacher: no [[teachers]] is named 'nobody'; there is en-de, en-de-wide, en-de-wide-2, ",
        ),
        (
            'corpus = "de-seqkd"',
            'corpus = "de-small"',
            "distill.de-again.teacher: goes in a circle: distill.de-again <- students.assistant <- select.de-small <- "
            "distill.de-again",
        ),
        (
            'corpus = "de-small"',
            'corpus = [{ name = "de-small" }, { name = "fr" }]',
            "students.small: is made from the data sets de, fr, each of which has a vocabulary of its own; name parts",
        ),
        (
            'teacher = "en-de-wide"\ncorpus = "de"',
            'teacher = "en-de-wide"\ncorpus = "fr"',
            "distill.de-beam5: is made from the data sets de, fr, ",
        ),
        ('name = "en-fr"\n', 'name = "en-de-wide-2"\n', "teachers.en-de-wide-2: the name is taken by another of [[te"),
        ('name = "small"\ncorpus', 'name = "en-de"\ncorpus', "students.en-de: the name is taken by the teacher"),
        ('name = "fr"', 'name = "de"', "data.de: the name is taken by another of [[data]]"),
        ('name = "small"\n', 'name = "small"\nrounds = 2\nnext_teacher = "assistant"\n', "rounds: is 2, but there are"),
        (
            'corpus = "de-seqkd"',
            'corpus = "de-seqkd"\nmodel = { arch = "nat" }',
            "distill.de-again.teacher: 'assistant' is of arch 'nat', which beam search does not decode; name a student",
        ),
        (
            'corpus = "de-seqkd"',
            'corpus = "de-seqkd"\nteacher = "en-de"',
            "students.assistant.teacher: the objective does not ask",
        ),
        (
            'corpus = "de-seqkd"',
            'corpus = "de-seqkd"\nvocabulary = "tiny"',
            "students.assistant.vocabulary: no [[vocabularies]] is named 'tiny'; there is nothing",
        ),
    ],
)
def test_references_that_cannot_be(several: Path, old: str, new: str, problem: str) -> None:
    edited(several, old, new)
    found = problems(several)
    assert sum(line.startswith(problem) for line in found) == 1, found


def test_a_circle_is_the_only_problem_of_a_file(several: Path) -> None:
    edited(several, 'corpus = "de-seqkd"', 'corpus = "de-small"')
    assert len(problems(several)) == 1


def test_problems_of_a_vocabulary(several: Path) -> None:
    edited(
        several,
        "[student.training]",
        '[[vocabularies]]\nname = "tiny"\nsize = 300\ncorpus = "de"\n\n[student.training]',
    )
    assert problems(several) == [
        "vocabularies.tiny: no teacher or student has this vocabulary; name it in one of them, or leave it out"
    ]
    edited(several, 'corpus = "de-seqkd"', 'corpus = "de-seqkd"\nvocabulary = "tiny"')
    # The vocabulary, two corpora (one for each of the students), and a test set.
    assert len(stages_of(several)) == 23 + 3
    edited(several, 'size = 300\ncorpus = "de"', 'size = 300\ncorpus = "fr"')
    assert [line.partition(",")[0] for line in problems(several)] == [
        "students.assistant.vocabulary: 'tiny' is learnt from fr"
    ]
    edited(several, 'size = 300\ncorpus = "fr"', 'size = 300\ncorpus = "de"')
    edited(several, 'size = 300\ncorpus = "de"', 'size = 1\ncorpus = "german"')
    assert [line.split(":")[0] for line in problems(several)] == [
        "vocabularies.tiny.size",
        "vocabularies.tiny.corpus",
    ]


def test_rows_that_stand_several_times_are_not_decoded(several: Path) -> None:
    edited(several, 'kbest = "de-beam5"\nrule = "seqkd"', 'kbest = "de-beam5"\nrule = "all"')
    edited(several, 'teacher = "assistant"\ncorpus = "de"', 'teacher = "assistant"\ncorpus = "de-seqkd"')
    assert [
        line
        for line in problems(several)
        if line.startswith("distill.de-again.corpus: 'de-seqkd' holds each source several")
    ]


# --- order and what a new teacher remakes -------------------------------------------------------------------------


def _graph(links: list[list[int]]) -> Graph:
    part = Part(title="[[parts]]", help="x", stages=lambda _node, _plan: ())

    def key(number: int) -> Key:
        return "parts", str(number)

    return Graph(
        Node(
            key=key(number),
            part=part,
            settings=None,
            place="",
            links={"of": tuple(key(other) for other in others)},
            origin=key(number),
        )
        for number, others in enumerate(links)
    )


@st.composite
def acyclic(draw: st.DrawFn) -> list[list[int]]:
    """For each part the parts that it names, with the parts in any order."""
    count = draw(st.integers(1, 12))
    links = [
        draw(st.lists(st.integers(0, max(number - 1, 0)), max_size=3)) if number else [] for number in range(count)
    ]
    places = draw(st.permutations(range(count)))
    mixed: list[list[int]] = [[] for _ in range(count)]
    for number, others in enumerate(links):
        mixed[places[number]] = [places[other] for other in others]
    return mixed


@given(acyclic())
def test_the_order_respects_needs_and_otherwise_the_file(links: list[list[int]]) -> None:
    graph = _graph(links)
    assert not graph.find_circles()
    order = [int(node.name) for node in graph.sort()]
    assert sorted(order) == list(range(len(links)))
    for place, number in enumerate(order):
        assert set(links[number]) <= set(order[:place])
        # Each is the first in the file of those that could come.
        ready = [other for other in order[place:] if set(links[other]) <= set(order[:place])]
        assert number == min(ready)


@given(acyclic(), st.data())
def test_a_circle_is_found_wherever_it_is(links: list[list[int]], data: st.DataObject) -> None:
    graph = _graph(links)
    start = data.draw(st.sampled_from(list(graph)))
    end = data.draw(st.sampled_from([start, *graph.upstream(start)]))
    links[int(end.name)].append(int(start.name))  # a part that `start` is made from names `start`
    ways = _graph(links).find_circles()
    assert ways
    for way in ways:
        assert way[0] == way[-1] == min(way, key=lambda key: int(key[1]))
        for (_, name), (_, named) in pairwise(way):
            assert int(named) in links[int(name)]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_stages_of_shipped_pipelines_come_after_what_they_need(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parents[1])
    there: set[Path] = set()
    stages = plan_stages(read_pipeline(path), Path("runs"))
    made = {stage.target for stage in stages}
    for stage in stages:
        assert made & set(stage.needs) <= there
        there.add(stage.target)


def _remade(file: Path) -> set[str]:
    graph = build_graph(read_pipeline(file))
    return {".".join(key) for key in graph.find_remade(node.key for node in graph.of_kind("teachers"))}


def test_a_new_teacher_remakes_what_it_taught_and_nothing_else(pipeline: Path) -> None:
    evaluation = {"evaluate.gold", "report.gold"}
    always = evaluation | {"distill.beam5", "select.kd", "students.kd", "students.tuned"}
    assert _remade(pipeline) == always
    edited(pipeline, "[teacher.training]", "[teacher.model]\ndim = 32\nheads = 2\n\n[teacher.training]")
    edited(pipeline, 'corpus = "gold"', 'corpus = "gold"\ninit_from = "teacher"')  # the first one, in all rounds
    assert _remade(pipeline) == always
    Path("mono.tgt").write_text("x\n")
    pipeline.write_text(
        pipeline.read_text()
        + '\n[backtranslation]\ntext = ["mono.tgt"]\n'
        + '\n[[students]]\nname = "bt"\ncorpus = "backtranslation"\n'
        + '\n[[students]]\nname = "word"\ncorpus = "gold"\nobjective = { type = "word_kd" }\n'
    )
    assert _remade(pipeline) == always | {"students.word"}
    edited(pipeline, "[backtranslation]", '[backtranslation]\ncorpus = "kd"')
    assert _remade(pipeline) == always | {
        "students.word",
        "students.bt",
        "reverse.reverse",
        "distill.backtranslation",
        "backtranslation.backtranslation",
    }

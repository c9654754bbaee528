"""Pipeline files as they are read, stage files as they are written; what becomes of them is in test_plan.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.config.models import ModelConfig, ObjectiveConfig
from seqkd.config.report import NamedPath
from seqkd.config.stages import ReportConfig, TrainConfig
from seqkd.config.toml import load_stage, to_toml
from seqkd.errors import ConfigError
from seqkd.models.initialiser import Initialiser
from seqkd.pipeline.reading import read_pipeline
from tests.unit.pipeline.pipeline_files import edited

# The reader refuses files with null characters, and with what may be an escape of one.
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.text(characters, max_size=20).filter(lambda text: "u0000" not in text.lower())
paths = st.text(characters, min_size=1, max_size=20).filter(lambda text: "u0000" not in text.lower()).map(Path)


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_pipeline(path)
    assert caught.value.where == str(path)
    return [line.strip() for line in caught.value.what.splitlines()[1:]]


# --- reading ------------------------------------------------------------------------------------------------------


def test_a_student_of_another_architecture_takes_what_that_has_too(pipeline: Path) -> None:
    with pipeline.open("a") as file:
        file.write('\n[[students]]\nname = "rnn"\ncorpus = "gold"\nmodel = { arch = "lstm", dropout = 0.3 }\n')
    edited(pipeline, "[student.training]", "[student.objective]\nlabel_smoothing = 0.2\n\n[student.training]")
    rnn = read_pipeline(pipeline).students[-1]
    assert rnn.model == ModelConfig.model_validate(
        {"arch": "lstm", "dim": 32, "dropout": 0.3}
    )  # without the shared `heads`
    assert rnn.objective == ObjectiveConfig.model_validate({"type": "nll", "label_smoothing": 0.2})


def test_student_tables_are_laid_over_the_shared_one(pipeline: Path) -> None:
    gold, kd, tuned = read_pipeline(pipeline).students
    assert (gold.model.arch, kd.model.arch) == ("transformer", "transformer")
    assert (gold.model.settings.dim, gold.training.max_updates, gold.training.learning_rate) == (32, 20, 5e-4)
    assert (kd.model.settings.dim, kd.training.max_updates, kd.training.learning_rate) == (32, 20, 0.01)
    assert tuned.init_from == Initialiser(model="kd")
    assert tuned.model_dump(mode="json")["init_from"] == "kd"


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
    assert problems(pipeline) == ["student: there are no [[students]] that could share it"]


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


@pytest.mark.parametrize("name", ["kd.old", "kd.old2", "a.b.old17"])
def test_names_of_replaced_folders_are_reserved(pipeline: Path, name: str) -> None:
    edited(pipeline, 'name = "tuned"', f'name = "{name}"')
    (line,) = problems(pipeline)
    assert line.startswith(f"students.{name}.name: names that end in .old, .old2 and so on are reserved")
    assert line.endswith(f"got {name!r}")


def test_names_that_only_resemble_them_are_free(pipeline: Path) -> None:
    edited(pipeline, 'name = "tuned"', 'name = "tuned.older"')
    assert read_pipeline(pipeline).students[-1].name == "tuned.older"


def test_an_ensemble_of_teachers_takes_its_names(pipeline: Path) -> None:
    model = "model = { dim = 32, heads = 2 }"
    edited(pipeline, "[teacher.training]", f"[teacher]\nensemble = 2\n{model}\n\n[teacher.training]")
    edited(pipeline, 'init_from = "kd"', 'init_from = "teacher-2"')
    assert read_pipeline(pipeline).teachers[0].names == ("teacher", "teacher-2")
    edited(pipeline, 'name = "tuned"', 'name = "teacher-2"')
    assert problems(pipeline) == [
        "students.teacher-2: the name is taken by the teacher",
        "students.teacher-2.init_from: goes in a circle: teacher-2 <- teacher-2",
    ]
    edited(pipeline, 'name = "teacher-2"', 'name = "teacher-3"')
    assert read_pipeline(pipeline).students[-1].name == "teacher-3"


SOFT = '[[soft_targets]]\nname = "soft"\n\n'


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            'init_from = "kd"',
            'objective = { type = "word_kd", soft_targets = "none" }',
            "students.tuned.objective.soft_targets: no [[soft_targets]] is named 'none'; there is soft",
        ),
        (
            'init_from = "kd"',
            'objective = { type = "word_kd", soft_targets = "soft" }',
            "students.tuned.objective.soft_targets: 'soft' belongs to the corpus 'gold', but the student has 'kd'",
        ),
        (
            'init_from = "kd"',
            'objective = { type = "word_kd", teachers = ["m"] }',
            "students.tuned: objective.teachers: the students of a pipeline learn from its own teacher; leave it out",
        ),
        (
            'init_from = "kd"',
            'objective = { type = "word_kd", temperature = 0 }',
            "students.tuned.objective.temperature: Input should be greater than 0, got 0",
        ),
        (
            'init_from = "kd"',
            'model = { arch = "nat" }\nobjective = { type = "word_kd" }',
            "students.tuned: objective.type 'word_kd' does not fit model.arch 'nat', which takes nat",
        ),
        ('name = "soft"', 'name = "soft"\ncorpus = "lead"', "soft_targets.soft.corpus: no [[select]] is named 'lead'"),
        ('name = "soft"', 'name = "soft"\ntop_k = 3\nsamples = 3', "soft_targets.soft: give either top_k or samples"),
        (
            "[teacher.training]",
            '[teacher.objective]\ntype = "word_kd"\n\n[teacher.training]',
            "teacher: objective.type 'word_kd' is for students: it asks the teacher",
        ),
    ],
)
def test_word_level_distillation_that_does_not_fit(pipeline: Path, old: str, new: str, problem: str) -> None:
    edited(pipeline, "[[distill]]", f"{SOFT}[[distill]]")
    edited(pipeline, old, new)
    found = problems(pipeline)
    assert len(found) == 1
    assert found[0].startswith(problem)


@pytest.mark.parametrize(
    ("corpus", "problem"),
    [
        ('[{ name = "gold" }, { name = "lead" }]', "students.tuned.corpus: no [[select]] is named 'lead'; there is go"),
        ('[{ name = "gold" }, { name = "kd", weight = 0 }]', "students.tuned.corpus.1.weight: Input should be greater"),
        ('[{ name = "gold", weight = -1 }]', "students.tuned.corpus.0.weight: Input should be greater than 0, got -1"),
        ('[{ name = "gold", wieght = 2 }]', "students.tuned.corpus.0.wieght: unknown key"),
        ('[{ name = "kd" }, { name = "kd" }]', "students.tuned: corpus: kd is listed twice"),
        ("[]", "students.tuned.corpus: Tuple should have at least 1 item"),
        ("3", "students.tuned.corpus: Input should be a valid string, got 3"),
        (
            '{ name = "gold", noise = { drop = 1.0 } }',
            "students.tuned.corpus.0.noise.drop: Input should be less than 1",
        ),
        ('{ name = "gold", noise = { swap = 1 } }', "students.tuned.corpus.0.noise.swap: unknown key"),
        (
            '"gold"\nalternate = [{ corpus = "kd", updates = 3 }, { corpus = "gold", updates = 3 }]',
            "students.tuned: give either `corpus` or `alternate`",
        ),
        (
            '[{ name = "gold" }, { name = "kd" }]\nobjective = { type = "word_kd", soft_targets = "soft" }',
            "students.tuned: objective.soft_targets: hold each row of one corpus once",
        ),
    ],
)
def test_corpora_that_cannot_be_mixed(pipeline: Path, corpus: str, problem: str) -> None:
    edited(pipeline, "[[distill]]", f"{SOFT}[[distill]]")
    edited(pipeline, 'corpus = "kd"\ninit_from', f"corpus = {corpus}\ninit_from")
    found = problems(pipeline)
    assert len(found) == 1
    assert found[0].startswith(problem)


def test_what_students_share_is_one_table(pipeline: Path) -> None:
    edited(pipeline, "[student.model]\ndim = 32\nheads = 2\n\n[student.training]\nmax_updates = 20", "")
    edited(pipeline, "seed = 3", "student = 3")
    assert "student: the shared settings of the students must be one table, [student]" in problems(pipeline)


def test_a_circle_is_named_once_and_what_hangs_on_it_is_not_blamed(pipeline: Path) -> None:
    edited(pipeline, 'corpus = "gold"', 'corpus = "gold"\ninit_from = "kd"')
    edited(pipeline, 'corpus = "kd"\ntraining', 'corpus = "kd"\ninit_from = "tuned"\ntraining')
    assert problems(pipeline) == ["students.kd.init_from: goes in a circle: kd <- tuned <- kd"]


def test_a_decode_is_for_architectures_that_write_all_positions_at_once(pipeline: Path) -> None:
    edited(pipeline, 'init_from = "kd"', 'decode = [{ name = "fast" }]')
    assert problems(pipeline) == [
        "students.tuned: decode is for architectures that are not decoded by beam search (nat, cmlm, ctc, dag, "
        "fairseq:NAME); 'transformer' is decoded with evaluate.beams"
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


def test_a_brought_teacher_keeps_its_vocabulary(pipeline: Path) -> None:
    edited(pipeline, "[teacher.training]\nmax_updates = 10", '[teacher]\npath = "big"\nvocabulary = "tiny"')
    lines = problems(pipeline)
    assert "teacher: vocabulary: a teacher that is brought along keeps its own; leave it out" in lines


def test_weights_are_for_objectives_that_count_them(pipeline: Path) -> None:
    edited(pipeline, 'rule = "seqkd"', 'rule = "all"')
    assert read_pipeline(pipeline).select[0].rule == "all"
    edited(pipeline, 'init_from = "kd"', 'model = { arch = "nat" }')
    (line,) = problems(pipeline)
    assert line.startswith(
        '(file): students: rule "all" and `keep` give weights to rows, which tuned (nat) cannot use; take an '
    )
    assert "objective that can: nll, word_kd, ctc, dag" in line  # installed packages may add further ones
    edited(pipeline, 'rule = "all"', 'rule = "all"\nrejected = "next"')
    assert any("keeps every hypothesis" in line for line in problems(pipeline))


def test_objectives_that_read_rivals_have_a_corpus_with_rivals(pipeline: Path) -> None:
    terms = 'objective = { terms = [{ type = "nll" }, { type = "margin" }] }'
    edited(pipeline, 'init_from = "kd"', terms)
    (line,) = problems(pipeline)
    assert "tuned (nll + margin) reads rivals, and kd has none; give it the corpus of a [[select]] with rule" in line
    edited(pipeline, 'rule = "seqkd"', 'rule = "pair"')
    assert read_pipeline(pipeline).students[-1].objective.reads_rivals


def test_int8_is_for_models_with_kernels(pipeline: Path) -> None:
    edited(pipeline, "[data]", '[evaluate]\nprecision = "int8"\n\n[data]')
    assert read_pipeline(pipeline).evaluate.precision == "int8"
    edited(pipeline, 'init_from = "kd"', 'model = { arch = "lstm" }')
    assert read_pipeline(pipeline).students[-1].model.arch == "lstm"
    edited(pipeline, 'model = { arch = "lstm" }', 'model = { arch = "fairseq:lstm" }')
    assert problems(pipeline) == [
        '(file): evaluate.precision "int8" is for arch transformer, lstm, sru, nat, cmlm, ctc, dag, '
        "not for tuned (fairseq:lstm)"
    ]
    edited(pipeline, "[evaluate]\nprecision", "[evaluate]\n# precision")
    edited(pipeline, 'name = "beam5"', 'name = "beam5"\nprecision = "int8"')
    assert [part.precision for part in read_pipeline(pipeline).distill] == ["int8"]
    edited(pipeline, "[teacher.training]", '[teacher.model]\narch = "fairseq:lstm"\n\n[teacher.training]')
    assert problems(pipeline) == [
        '(file): distill.beam5.precision "int8" is for arch transformer, lstm, sru, nat, cmlm, ctc, dag, '
        "not for teacher (fairseq:lstm)"
    ]


# --- stage files --------------------------------------------------------------------------------------------------


@given(texts, st.lists(st.tuples(texts, texts), max_size=3), st.lists(paths, max_size=3), paths)
def test_toml_reads_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    title: str,
    edges: list[tuple[str, str]],
    folders: list[Path],
    prepared: Path,
) -> None:
    named = tuple(NamedPath(name=f"n{index}", path=folder) for index, folder in enumerate(folders))
    config = ReportConfig(pipeline=title, title=title, prepared=prepared, models=named, edges=tuple(edges))
    file = tmp_path_factory.mktemp("toml") / "report.toml"
    file.write_bytes(to_toml(config).encode())
    assert load_stage(ReportConfig, file) == config


@given(st.floats(1e-12, 1e6), st.tuples(st.floats(0, 1), st.floats(0, 1)), st.booleans(), st.integers(1, 10**9))
def test_numbers_read_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, rate: float, betas: tuple[float, float], flag: bool, updates: int
) -> None:
    values = {
        "prepared": "p",
        "corpus": "c",
        "training": {"max_updates": updates, "learning_rate": rate, "betas": betas, "valid_bleu": flag},
    }
    config = TrainConfig.model_validate(values)
    file = tmp_path_factory.mktemp("toml") / "train.toml"
    file.write_text(to_toml(config))
    assert load_stage(TrainConfig, file) == config

"""Pipelines of several rounds: what is made again, by what names, and what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqkd.config.models import ModelConfig
from seqkd.config.stages import (
    DistillConfig,
    EvaluateConfig,
    MonolingualConfig,
    PrepareConfig,
    ReportConfig,
    SelectConfig,
    SoftTargetsConfig,
    TrainConfig,
)
from seqkd.config.toml import load_stage, to_toml
from seqkd.errors import ConfigError
from seqkd.models.checkpoint import save_model
from seqkd.models.initialiser import Initialiser
from seqkd.models.registry import build
from seqkd.pipeline.folders import Stage
from seqkd.pipeline.make import write_plan
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.stages import plan_stages
from seqkd.text.vocabulary import Vocabulary
from tests.unit.pipeline.pipeline_files import edited
from tests.unit.pipeline.test_plan import FakeMake

RUN = Path("runs/small")
BACKTRANSLATION = """
[backtranslation]
text = ["mono.tgt"]
ratio = 0.5

[[students]]
name = "bt"
corpus = [{ name = "kd" }, { name = "backtranslation", weight = 2.0 }]
"""


@pytest.fixture
def rounds(pipeline: Path) -> Path:
    """The small pipeline with three rounds; `kd` teaches the next one."""
    edited(pipeline, "seed = 3", 'seed = 3\nrounds = 3\nnext_teacher = "kd"')
    Path("mono.tgt").write_text("x\n")
    return pipeline


def stages_of(pipeline: Path) -> dict[str, Stage]:
    return {stage.name: stage for stage in plan_stages(read_pipeline(pipeline), Path("runs"))}


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_pipeline(path)
    return [line.strip() for line in caught.value.what.splitlines()[1:]]


def needs(stage: Stage) -> set[str]:
    return {str(path.relative_to(RUN).parent) for path in stage.needs}


# --- what is made ------------------------------------------------------------------------------------------------


def test_what_depends_on_the_teacher_is_made_again_and_nothing_else(rounds: Path) -> None:
    once = rounds.read_text().replace("rounds = 3", "rounds = 1")
    stages = stages_of(rounds)
    rounds.write_text(once)
    alone = stages_of(rounds)
    again = ("distill.beam5", "select.kd", "student.kd", "student.tuned", "evaluate.kd", "evaluate.tuned")
    later = {f"{name}.round{number}" for name in again for number in (2, 3)}
    assert set(stages) - set(alone) == later
    assert {name: stages[name] for name in alone if name != "report"} == {
        name: stage for name, stage in alone.items() if name != "report"
    }


def test_a_student_is_the_teacher_of_the_next_round(rounds: Path) -> None:
    stages = stages_of(rounds)
    for number, teacher in ((2, "students/kd"), (3, "students/kd.round2")):
        distill, select = stages[f"distill.beam5.round{number}"], stages[f"select.kd.round{number}"]
        assert isinstance(distill.config, DistillConfig)
        assert distill.config.models == (RUN / teacher,)
        assert needs(distill) == {teacher, "gold"}
        assert isinstance(select.config, SelectConfig)
        assert select.config.kbest == RUN / f"kbest/beam5.round{number}"
        student, tuned = stages[f"student.kd.round{number}"], stages[f"student.tuned.round{number}"]
        assert isinstance(student.config, TrainConfig)
        assert isinstance(tuned.config, TrainConfig)
        assert student.config.corpus == RUN / f"corpora/kd.round{number}"
        assert tuned.config.init_from == Initialiser(model=str(RUN / f"students/kd.round{number}"))
        first = stages["student.kd"].config
        assert isinstance(first, TrainConfig)
        assert student.config.model_copy(update={"corpus": first.corpus}) == first
        evaluate = stages[f"evaluate.kd.round{number}"].config
        assert isinstance(evaluate, EvaluateConfig)
        assert (evaluate.speed_against, evaluate.trained_on) == (RUN / "teacher", f"kd.round{number}")


def test_word_level_students_ask_their_rounds_teacher(rounds: Path) -> None:
    rounds.write_text(
        rounds.read_text()
        + '\n[[soft_targets]]\nname = "top4"\ncorpus = "kd"\ntop_k = 4\n'
        + '\n[[students]]\nname = "live"\ncorpus = "gold"\nobjective = { type = "word_kd" }\n'
        + '\n[[students]]\nname = "soft"\ncorpus = "kd"\nobjective = { type = "word_kd", soft_targets = "top4" }\n'
    )
    stages = stages_of(rounds)
    live, soft, written = (
        stages[f"{name}.round2"].config for name in ("student.live", "student.soft", "soft_targets.top4")
    )
    assert isinstance(live, TrainConfig)
    assert (live.corpus, live.objective.teachers) == (RUN / "gold/train", (RUN / "students/kd",))
    assert isinstance(soft, TrainConfig)
    assert soft.corpus == RUN / "corpora/kd.round2"
    assert soft.objective.soft_targets == RUN / "soft_targets/top4.round2"
    assert isinstance(written, SoftTargetsConfig)
    assert (written.corpus, written.models) == (RUN / "corpora/kd.round2", (RUN / "students/kd",))


def test_the_rounds_own_teacher_rescores(rounds: Path) -> None:
    ways = 'decode = [{ name = "npd", candidates = 9, rescore = true }]'
    edited(rounds, 'init_from = "kd"', f'model = {{ arch = "nat" }}\n{ways}')
    for name, judge in (("tuned", "teacher"), ("tuned.round2", "students/kd"), ("tuned.round3", "students/kd.round2")):
        stage = stages_of(rounds)[f"evaluate.{name}"]
        assert isinstance(stage.config, EvaluateConfig)
        assert (stage.config.rescore_with, stage.config.speed_against) == (RUN / judge, RUN / "teacher")
        assert {judge, "teacher"} <= needs(stage)


def test_an_only_student_need_not_be_named(rounds: Path) -> None:
    text = rounds.read_text().replace('next_teacher = "kd"\n', "")
    rounds.write_text(text[: text.index("[[students]]")] + '[[students]]\nname = "one"\ncorpus = "kd"\n')
    report = stages_of(rounds)["report"].config
    assert isinstance(report, ReportConfig)
    assert report.teachers == ("teacher", "one", "one.round2")


def test_the_report_knows_the_rounds(rounds: Path) -> None:
    rounds.write_text(rounds.read_text() + BACKTRANSLATION)
    report = stages_of(rounds)["report"].config
    assert isinstance(report, ReportConfig)
    assert report.teachers == ("teacher", "kd", "kd.round2")
    assert {part.name: part.evaluations for part in report.rounds} == {
        name: (name, f"{name}.round2", f"{name}.round3") for name in ("kd", "tuned", "bt")
    }
    assert {"kd.round3", "tuned.round2"} <= {part.name for part in report.evaluations}
    assert [part.name for part in report.corpora] == ["kd", "kd.round2", "kd.round3"]
    assert [(part.name, part.model) for part in report.backtranslation] == [("backtranslation", RUN / "reverse")]
    assert {
        ("student kd", "k-best beam5.round2"),
        ("corpus backtranslation", "student bt.round3"),
        ("monolingual text", "k-best backtranslation"),
        ("gold", "reverse"),
    } <= set(report.edges)


# --- back-translation --------------------------------------------------------------------------------------------


def test_back_translation_is_made_once_of_gold_text(rounds: Path) -> None:
    rounds.write_text(rounds.read_text() + BACKTRANSLATION)
    stages = stages_of(rounds)
    prepare, text, reverse = stages["prepare"].config, stages["monolingual"].config, stages["reverse"].config
    assert isinstance(prepare, PrepareConfig)
    assert (prepare.vocabulary.symbols, prepare.vocabulary.tags) == ((), ("<bt>",))
    assert isinstance(text, MonolingualConfig)
    assert (text.text, text.ratio, text.prepared) == ((Path("mono.tgt"),), 0.5, RUN / "gold")
    assert Path("mono.tgt") in stages["monolingual"].needs
    assert isinstance(reverse, TrainConfig)
    teacher = stages["teacher"].config
    assert isinstance(teacher, TrainConfig)
    assert (reverse.reverse, reverse.corpus, reverse.model) == (True, RUN / "gold/train", teacher.model)
    assert reverse.training.model_copy(update={"seed": 0}) == teacher.training.model_copy(update={"seed": 0})
    decode, pairs = stages["distill.backtranslation"], stages["select.backtranslation"]
    assert isinstance(decode.config, DistillConfig)
    assert (decode.config.models, decode.config.corpus) == ((RUN / "reverse",), RUN / "monolingual")
    assert needs(decode) == {"reverse", "monolingual"}
    assert isinstance(pairs.config, SelectConfig)
    assert (pairs.config.reverse, pairs.config.tag, pairs.config.gold) == (True, "<bt>", RUN / "monolingual")
    for name in ("student.bt", "student.bt.round3"):
        student = stages[name].config
        assert isinstance(student, TrainConfig)
        assert (student.corpora[1].path, student.corpora[1].weight) == (RUN / "corpora/backtranslation", 2.0)
    assert not [name for name in stages if name.startswith(("reverse.", "distill.backtranslation."))]
    for stage in stages.values():
        file = Path(f"{stage.name}.toml")
        file.write_text(to_toml(stage.config))
        assert load_stage(type(stage.config), file) == stage.config


# --- self-training -----------------------------------------------------------------------------------------------

SELF_TRAINING = """
[selftraining]
text = ["mono.tgt"]
ratio = 0.5
search = { beam = 3, nbest = 3 }
rule = "mbr-bleu"
filters = { copies = true }

[[students]]
name = "pseudo"
corpus = { name = "selftraining", noise = { drop = 0.2 } }

[[students]]
name = "again"
corpus = "gold"
init_from = "pseudo"
"""


def test_the_student_of_a_round_labels_the_text_of_the_next(rounds: Path) -> None:
    edited(rounds, 'next_teacher = "kd"', 'next_teacher = "again"')
    rounds.write_text(rounds.read_text() + SELF_TRAINING)
    stages = stages_of(rounds)
    text = stages["monolingual-source"].config
    assert isinstance(text, MonolingualConfig)
    assert (text.text, text.side, text.ratio) == ((Path("mono.tgt"),), "source", 0.5)
    labellers = {"": "teacher", ".round2": "students/again", ".round3": "students/again.round2"}
    for end, model in labellers.items():
        decode, pairs = stages[f"distill.selftraining{end}"].config, stages[f"select.selftraining{end}"].config
        assert isinstance(decode, DistillConfig)
        assert (decode.models, decode.corpus) == ((RUN / model,), RUN / "monolingual-source")
        assert (decode.search.beam, decode.prepared) == (3, None)
        assert isinstance(pairs, SelectConfig)
        assert (pairs.rule, pairs.reverse, pairs.gold) == ("mbr-bleu", False, RUN / "monolingual-source")
        assert pairs.filters["copies"]
        first, second = stages[f"student.pseudo{end}"].config, stages[f"student.again{end}"].config
        assert isinstance(first, TrainConfig)
        assert first.corpora[0].path == RUN / f"corpora/selftraining{end}"
        assert first.corpora[0].noise is not None
        assert isinstance(second, TrainConfig)
        assert second.init_from is not None
        assert (second.corpus, second.init_from.model) == (RUN / "gold/train", str(RUN / f"students/pseudo{end}"))
    report = stages["report"].config
    assert isinstance(report, ReportConfig)
    assert [(part.name, part.model) for part in report.selftraining] == [
        (f"selftraining{end}", RUN / model) for end, model in labellers.items()
    ]
    assert {
        ("monolingual source text", "k-best selftraining"),
        ("student again", "k-best selftraining.round2"),
        ("corpus selftraining", "student pseudo"),
    } <= set(report.edges)
    assert not [edge for edge in report.edges if edge[1] == "corpus selftraining" and edge[0] == "gold"]
    for stage in stages.values():
        file = Path(f"{stage.name}.toml")
        file.write_text(to_toml(stage.config))
        assert load_stage(type(stage.config), file) == stage.config


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('rule = "mbr-bleu"', 'rule = "oracle"', "selftraining: the rule, a filter or the scorer reads references"),
        ('rule = "mbr-bleu"', 'rejected = "gold"', "selftraining: rejected: monolingual text has no gold targets"),
        ('text = ["mono.tgt"]', 'text = ["none"]', "selftraining.text: no such file in"),
        ('name = "selftraining", noise', 'name = "gold", noise', "selftraining: no student has the corpus"),
        ("ratio = 0.5", 'teacher = "nobody"', "selftraining.teacher: no [[teachers]] is named 'nobody'"),
        ("ratio = 0.5", "tag = '<x>'", "selftraining.tag: unknown key"),
        ('name = "again"', 'name = "tuned"', "students.tuned: the name is taken by another of [[students]]"),
    ],
)
def test_self_training_that_cannot_be(pipeline: Path, old: str, new: str, problem: str) -> None:
    Path("mono.tgt").write_text("x\n")
    pipeline.write_text(pipeline.read_text() + SELF_TRAINING)
    edited(pipeline, old, new)
    assert [line for line in problems(pipeline) if line.startswith(problem)], problems(pipeline)


def test_a_reverse_model_of_distilled_text_is_made_in_each_round(rounds: Path) -> None:
    mix = '[{ name = "gold" }, { name = "kd" }]'
    rounds.write_text(rounds.read_text() + BACKTRANSLATION.replace("ratio = 0.5", f"corpus = {mix}"))
    stages = stages_of(rounds)
    assert {"reverse", "reverse.round2", "reverse.round3"} <= set(stages)
    reverse, student = stages["reverse.round2"].config, stages["student.bt.round2"].config
    assert isinstance(reverse, TrainConfig)
    assert [part.path for part in reverse.corpora] == [RUN / "gold/train", RUN / "corpora/kd.round2"]
    assert isinstance(student, TrainConfig)
    assert student.corpora[1].path == RUN / "corpora/backtranslation.round2"
    assert needs(stages["select.backtranslation.round3"]) == {"kbest/backtranslation.round3", "monolingual"}
    assert "monolingual.round2" not in stages


def test_back_translation_needs_no_rounds_and_its_model_may_be_another(pipeline: Path) -> None:
    Path("mono.tgt").write_text("x\n")
    own = '[backtranslation.model]\narch = "lstm"\ndim = 16\n\n[backtranslation.training]\nmax_updates = 7\n'
    pipeline.write_text(pipeline.read_text() + BACKTRANSLATION + own)
    edited(pipeline, "max_updates = 10", "max_updates = 10\nlearning_rate = 0.5")
    reverse = stages_of(pipeline)["reverse"].config
    assert isinstance(reverse, TrainConfig)
    assert reverse.model == ModelConfig.model_validate({"arch": "lstm", "dim": 16})
    assert (reverse.training.max_updates, reverse.training.learning_rate) == (7, 0.5)
    edited(pipeline, "ratio = 0.5", 'tag = ""')
    prepare = stages_of(pipeline)["prepare"].config
    assert isinstance(prepare, PrepareConfig)
    assert prepare.vocabulary.tags == ()


def test_make_goes_round_by_round_and_more_rounds_remake_nothing(rounds: Path) -> None:
    rounds.write_text(rounds.read_text() + BACKTRANSLATION)
    edited(rounds, "rounds = 3", "rounds = 2")
    make = FakeMake(rounds)
    done = make("report", "--jobs=3")
    for earlier, later in (
        ("prepare gold", "prepare monolingual"),
        ("prepare monolingual", "distill backtranslation"),
        ("train reverse", "distill backtranslation"),
        ("select backtranslation", "train bt"),
        ("train kd", "distill beam5.round2"),
        ("select kd.round2", "train bt.round2"),
        ("evaluate bt.round2", "report report"),
    ):
        assert done.index(earlier) < done.index(later)
    edited(rounds, "rounds = 2", "rounds = 3")
    more = make("report")
    assert all(line.endswith(".round3") for line in more[:-1])
    assert more[-1] == "report report"
    rules = write_plan(rounds, Path("runs")).read_text()
    assert "prepare --config $(RUN)/config/monolingual.toml --out $(RUN)/monolingual --monolingual " in rules


# --- what cannot be ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("rounds = 3", "rounds = 0", "rounds: Input should be greater than or equal to 1, got 0"),
        (
            'next_teacher = "kd"',
            'next_teacher = "kid"',
            "next_teacher: no [[students]] is named 'kid'; there is gold, ",
        ),
        ('next_teacher = "kd"', "", "next_teacher: missing: the student that teaches the next of 3 rounds; there is g"),
        ('next_teacher = "kd"', 'next_teacher = "gold"', "next_teacher: 'gold' learns nothing from the teacher"),
        (
            'training = { learning_rate = 0.01 }\n\n[[students]]\nname = "tuned"\ncorpus = "kd"\ninit_from = "kd"',
            'model = { arch = "nat" }',
            "next_teacher: 'kd' is of arch 'nat', which beam search does not decode",
        ),
        (
            'name = "tuned"',
            'name = "x.round2"',
            "students.x.round2: names that end in .round and a number are reserved",
        ),
    ],
)
def test_rounds_that_cannot_be(rounds: Path, old: str, new: str, problem: str) -> None:
    edited(rounds, old, new)
    found = problems(rounds)
    assert len(found) == 1, found
    assert found[0].startswith(problem)


def test_int8_is_for_next_teachers_with_kernels(rounds: Path) -> None:
    edited(rounds, 'name = "beam5"', 'name = "beam5"\nprecision = "int8"')
    assert read_pipeline(rounds).rounds == 3
    edited(rounds, 'corpus = "kd"\ntraining', 'corpus = "kd"\nmodel = { arch = "fairseq:lstm" }\ntraining')
    assert problems(rounds) == [
        '(file): distill.beam5.precision "int8" is for arch transformer, lstm, sru, nat, cmlm, ctc, dag, '
        "not for kd (fairseq:lstm)"
    ]


def test_rounds_without_students(rounds: Path) -> None:
    text = rounds.read_text().replace('next_teacher = "kd"\n', "")
    rounds.write_text(text[: text.index("[student.model]")])
    assert problems(rounds) == ["rounds: is 3, but there are no [[students]] that could teach the next round"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('text = ["mono.tgt"]\n', "", "backtranslation.text: missing"),
        ('["mono.tgt"]', "[]", "backtranslation.text: Tuple should have at least 1 item"),
        ('["mono.tgt"]', '["mono.tgt", "nope"]', "backtranslation.text: no such file in "),
        ('["mono.tgt"]', '["a file"]', "backtranslation.text: 'a file' cannot be a Make target"),
        ("ratio = 0.5", "ratio = 0", "backtranslation.ratio: Input should be greater than 0, got 0"),
        ("ratio = 0.5", "ratio = 1000", "backtranslation.ratio: Input should be less than or equal to 100, got 1000"),
        ("ratio = 0.5", 'tag = "<b t>"', "backtranslation.tag: "),
        ("ratio = 0.5", 'corpus = "lead"', "backtranslation.corpus: no [[select]] is named 'lead'; there is gold, kd"),
        (
            "ratio = 0.5",
            'corpus = [{ name = "gold" }, { name = "gold" }]',
            "backtranslation: corpus: gold is listed",
        ),
        ("ratio = 0.5", 'model = { arch = "ctc" }', "backtranslation: model.arch 'ctc' is not decoded by beam search"),
        (
            "ratio = 0.5",
            'objective = { type = "word_kd" }',
            "backtranslation: objective.type 'word_kd' asks the teacher",
        ),
        (
            "ratio = 0.5",
            "filters = { max_ter = 80.0 }",
            "backtranslation: filters.max_ter: monolingual text has no ref",
        ),
        ("ratio = 0.5", "rati = 0.5", "backtranslation.rati: unknown key"),
        (', { name = "backtranslation", weight = 2.0 }', "", "backtranslation: no student has the corpus"),
        (
            'name = "beam5"',
            'name = "backtranslation"\n\n[[distill]]\nname = "beam5"',
            "distill.backtranslation: the name",
        ),
        ("max_updates = 10", "max_updates = 0", "teacher.training.max_updates: Input should be greater than or equal"),
    ],
)
def test_back_translation_that_cannot_be(rounds: Path, old: str, new: str, problem: str) -> None:
    rounds.write_text(rounds.read_text() + BACKTRANSLATION)
    edited(rounds, old, new)
    found = problems(rounds)
    assert sum(line.startswith(problem) for line in found) == 1, found
    assert len(found) == (2 if "a file" in new else 1), found


def test_a_student_of_back_translations_that_are_not_there(rounds: Path) -> None:
    rounds.write_text(rounds.read_text() + BACKTRANSLATION[BACKTRANSLATION.index("[[students]]") :])
    assert problems(rounds) == ["students.bt.corpus: no [[select]] is named 'backtranslation'; there is gold, kd"]


def test_a_tag_must_be_able_to_be_a_piece(rounds: Path) -> None:
    rounds.write_text(rounds.read_text() + BACKTRANSLATION)
    edited(rounds, "ratio = 0.5", 'tag = "<0x41>"')
    assert problems(rounds) == ["(file): backtranslation.tag: the tag '<0x41>' is one of the pieces of byte_fallback"]


def test_a_brought_teacher_must_know_the_tag_and_does_not_train_the_reverse_model(rounds: Path) -> None:
    sentences = [f"a{n} b{n % 7} c{n % 5}" for n in range(50)]
    settings = {"size": 60, "type": "bpe", "byte_fallback": False, "character_coverage": 1.0, "symbols": (), "seed": 1}
    vocabulary = Vocabulary.train(sentences, Path("vocab.model"), **settings)  # type: ignore[arg-type]
    shape = {"dim": 8, "heads": 1, "ffn_dim": 8, "encoder_layers": 1, "decoder_layers": 1}
    model = build("transformer", shape, source_vocab=vocabulary.size, target_vocab=vocabulary.size)
    Path("big").mkdir()
    save_model(Path("big"), model, arch="transformer", settings=shape, vocab=Path("vocab.model"))
    rounds.write_text(rounds.read_text() + BACKTRANSLATION)
    edited(rounds, "[teacher.training]\nmax_updates = 10", '[teacher]\npath = "big"')
    assert [line.split(":")[0] for line in problems(rounds)] == ["backtranslation.training", "backtranslation.tag"]
    edited(rounds, "ratio = 0.5", 'tag = ""\ntraining = { max_updates = 5 }')
    reverse = stages_of(rounds)["reverse"].config
    assert isinstance(reverse, TrainConfig)
    assert reverse.training.max_updates == 5

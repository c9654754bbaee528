"""Settings that contradict each other are found by the plan, not after a teacher was trained and a corpus decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seqkd.errors import ConfigError
from seqkd.models.checkpoint import save_model
from seqkd.models.registry import ARCHITECTURES, build
from seqkd.pipeline.reading import read_pipeline
from seqkd.text.vocabulary import Vocabulary
from tests.unit.pipeline.pipeline_files import WORD_KD, edited

SIZES = {"dim": 16, "heads": 2, "ffn_dim": 16, "encoder_layers": 1, "decoder_layers": 1}


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_pipeline(path)
    return [line.strip() for line in caught.value.what.splitlines()[1:]]


def brought(name: str, *, arch: str = "transformer", pieces: int = 60, **more: Any) -> None:
    """A model folder with fresh weights and a vocabulary of its own."""
    sentences = [f"a{n} b{n % 7} c{n % 5}" for n in range(50)]
    path = Path(f"{name}.vocab")
    vocabulary = Vocabulary.train(
        sentences,
        path,
        size=pieces,
        type="bpe",
        byte_fallback=False,
        character_coverage=1.0,
        symbols=(),
        seed=1,
    )
    model = build(arch, {**SIZES, **more}, source_vocab=vocabulary.size, target_vocab=vocabulary.size)
    Path(name).mkdir()
    save_model(Path(name), model, arch=arch, settings={**SIZES, **more}, vocab=path)


TERMS = """
[[students]]
name = "summed"
corpus = "kd"

[[students.objective.terms]]
type = "nll"

[[students.objective.terms]]
type = "word_kd"
soft_targets = "kd16"
temperature = 4.0
"""


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            'soft_targets = "kd16", temperature = 2.0',
            'soft_targets = "kd16"',
            "students.written.objective.temperature: is 1.0, but the soft targets 'kd16' are written at",
        ),
        (
            'soft_targets = "kd16", temperature = 2.0 }',
            f'soft_targets = "kd16", temperature = 2.0 }}\n{TERMS}',
            "students.summed.objective.terms.1.temperature: is 4.0, but the soft targets 'kd16' are written at",
        ),
        (
            'temperature = 2.0\n\n[[students]]\nname = "live"\ncorpus = "kd"\n'
            'objective = { type = "word_kd", alpha = 0.7 }\n\n[[students]]\nname = "written"\ncorpus = "kd"\n'
            "objective = { ",
            'temperature = 2.0\nsamples = 8\n\n[[students]]\nname = "written"\ncorpus = "kd"\n'
            'objective = { direction = "reverse", ',
            "students.written.objective.direction: is \"reverse\", but the soft targets 'kd16' are samples",
        ),
        (
            'name = "kd16"',
            'name = "kd16"\ntop_k = 9000',
            "soft_targets.kd16.top_k: is 9,000, but the vocabulary has 8,000 pieces",
        ),
        (
            "alpha = 0.7",
            "top_k = 8001",
            "students.live.objective.top_k: is 8,001, but the vocabulary has 8,000 pieces",
        ),
        (
            'init_from = "kd"',
            'init_from = "kd"\nmodel = { arch = "lstm" }',
            "students.tuned.init_from: its architecture is 'transformer'; expected: lstm",
        ),
        (
            'init_from = "kd"',
            'init_from = "kd"\nmodel = { dim = 64 }',
            "students.tuned.init_from: its weights have other sizes: dim is 32, here 64",
        ),
        ('init_from = "kd"', 'init_from = "teacher"', "students.tuned.init_from: its weights have other sizes: dim is"),
        (
            'init_from = "kd"',
            'init_from = "kd"\nmodel = { decoder_layers = 2 }',
            "students.tuned.init_from: kd has 3 decoder layers, but the model that starts from it has 2",
        ),
        (
            'init_from = "kd"',
            'init_from = "kd"\nmodel = { embeddings = "separate" }',
            "students.tuned.init_from: its weights have other sizes: embeddings is shared, here separate",
        ),
        (
            'init_from = "kd"',
            'init_from = { model = "kd", freeze = ["encoder", "decoder", "embeddings"] }',
            "students.tuned.init_from.freeze: nothing is left to train",
        ),
        (
            'rule = "seqkd"',
            'rule = "rerank"\nrerank = { reverse = "models/gone" }',
            "select.kd.rerank.reverse: no such model folder in ",
        ),
        (
            'init_from = "kd"',
            'training = { best_by = "bleu", valid_bleu = false }',
            "students.tuned.training: best_by is bleu, but valid_bleu is false",
        ),
        (
            "[data]",
            '[evaluate]\nmetrics = ["valid", "chrf"]\n\n[data]',
            "evaluate.metrics: valid needs accepted translations, but test of the data set gold has none",
        ),
        (
            "[data]",
            '[prepare.vocabulary]\njoint = false\n\n[teacher.model]\nembeddings = "decoder"\n\n[data]',
            'students.gold.model.embeddings: is "shared", but prepare.vocabulary.joint is false',
        ),
    ],
)
def test_a_contradiction_is_named_with_its_place(pipeline: Path, old: str, new: str, problem: str) -> None:
    pipeline.write_text(pipeline.read_text() + WORD_KD)
    read_pipeline(pipeline)
    edited(pipeline, old, new)
    assert problems(pipeline)[0].startswith(problem)


def test_a_start_that_differs_in_what_no_weight_depends_on(pipeline: Path) -> None:
    edited(pipeline, 'init_from = "kd"', 'init_from = "kd"\nmodel = { dropout = 0.3, heads = 4, max_positions = 64 }')
    assert read_pipeline(pipeline).students[-1].model.settings.dropout == 0.3


@pytest.mark.parametrize("arch", [record.name for record in ARCHITECTURES.all() if not record.name.endswith(":")])
def test_every_architecture_can_be_compared(arch: str, pipeline: Path) -> None:
    edited(pipeline, "dim = 32\nheads = 2", f'arch = "{arch}"\ndim = 32')
    edited(pipeline, 'init_from = "kd"', 'init_from = "kd"\nmodel = { dim = 64 }')
    assert problems(pipeline) == [
        "students.tuned.init_from: its weights have other sizes: dim is 32, here 64; expected: a model of the same "
        "sizes, except for the number of layers"
    ]


def test_teachers_that_are_brought_along_are_looked_at(pipeline: Path) -> None:
    pipeline.write_text(pipeline.read_text() + WORD_KD)
    brought("big")
    edited(pipeline, "[teacher.training]\nmax_updates = 10", '[teacher]\npath = "big"')
    read_pipeline(pipeline)
    edited(pipeline, 'name = "kd16"', 'name = "kd16"\ntop_k = 61')
    edited(pipeline, 'init_from = "kd"', 'init_from = "teacher"')
    assert [line.partition(",")[0] for line in problems(pipeline)] == [
        "soft_targets.kd16.top_k: is 61",
        "students.tuned.init_from: teacher has 1 encoder layers",
    ]


def test_a_teacher_of_another_toolkit_needs_its_format(pipeline: Path) -> None:
    Path("opus").mkdir()
    Path("opus/config.json").write_text('{"model_type": "marian"}')
    edited(pipeline, "[teacher.training]\nmax_updates = 10", '[teacher]\npath = "opus"')
    wanted = 'teacher.path: opus is a model of huggingface; add format = "huggingface", with which a stage imports it'
    assert wanted in problems(pipeline)


def test_a_brought_teacher_that_cannot_teach_and_one_of_another_vocabulary(pipeline: Path) -> None:
    brought("big")
    brought("parallel", arch="nat")
    brought("foreign", pieces=50)
    text = pipeline.read_text().replace("[teacher.training]\nmax_updates = 10", "")
    text = text.replace('name = "beam5"', 'name = "beam5"\nteacher = "a"')
    tables = [f'[[teachers]]\nname = "{name}"\npath = "{path}"\n\n' for name, path in (("a", "big"), ("b", "foreign"))]
    pipeline.write_text(text.replace("[[distill]]", f"{''.join(tables)}[[distill]]"))
    assert problems(pipeline) == [
        "teachers.b.path: the vocabulary of foreign differs from that of big, which the data set uses; add "
        "[prepare.vocabulary]: the data set then learns a vocabulary, and each teacher keeps its own"
    ]
    before = pipeline.read_text()
    pipeline.write_text(before.replace("[data]", "[prepare.vocabulary]\nsize = 70\nbyte_fallback = false\n\n[data]"))
    read_pipeline(pipeline)
    pipeline.write_text(before)
    pipeline.write_text(pipeline.read_text().replace('"foreign"', '"big"').replace('"big"', '"parallel"', 1))
    (line,) = problems(pipeline)  # installed packages may add further architectures
    wanted = "teachers.a.path: parallel is of arch 'nat', which cannot teach; give one of: transformer, lstm, sru"
    assert line.startswith(wanted)

"""Verify finds nothing wrong with what a stage wrote, whatever its options: one table, every option of every stage."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from seqkd.config.stages import (
    DistillConfig,
    EvaluateConfig,
    FurtherTestConfig,
    MonolingualConfig,
    PrepareConfig,
    ReportConfig,
    SampleConfig,
    SelectConfig,
    SoftTargetsConfig,
    TrainConfig,
)
from seqkd.config.toml import validate
from seqkd.config.written import find_neutral
from seqkd.interop.sources import SOURCES
from seqkd.report import stage as report
from seqkd.stages.distill import distill, soft_targets
from seqkd.stages.evaluate import evaluate
from seqkd.stages.prepare import further_test, monolingual, prepare, sample
from seqkd.stages.select import select
from seqkd.stages.train import train
from seqkd.tools.verify import verify
from tests.unit.stages.support import WORDS, prepare_config
from tests.unit.stages.teachers import MODEL, TRAINING
from tests.unit.stages.test_distill_source import ECHO

TAG = "<bt>"
QUICK = {**TRAINING, "max_updates": 2, "validate_every": 2}
STAGES: dict[str, tuple[type[Any], Callable[..., None]]] = {
    "prepare": (PrepareConfig, prepare.run),
    "monolingual": (MonolingualConfig, monolingual.run),
    "test": (FurtherTestConfig, further_test.run),
    "sample": (SampleConfig, sample.run),
    "train": (TrainConfig, train.run),
    "distill": (DistillConfig, distill.run),
    "soft_targets": (SoftTargetsConfig, soft_targets.run),
    "select": (SelectConfig, select.run),
    "evaluate": (EvaluateConfig, evaluate.run),
    "report": (ReportConfig, report.run),
}
SEARCHES = [
    {
        "beam": 4, "nbest": 2, "length_penalty": 0.8, "normalization": "gnmt", "max_length_ratio": 1.5,
        "max_length_extra": 5, "min_length": 2, "min_length_ratio": 0.1, "unk_penalty": 1.0, "no_repeat_ngram_size": 2,
        "temperature": 1.1, "diverse_groups": 2, "diverse_strength": 0.3,
    },
    {
        "beam": 2, "nbest": 2, "sampling": True, "top_k": 5, "top_p": 0.9, "epsilon": 0.01, "seed": 2,
        "max_length_extra": 5,
    },
    {"beam": 2, "nbest": 2, "stopping": "exact", "max_length_extra": 5},
]  # fmt: skip

# What every row of a stage has in common; a text that begins with "@" is a path below the run. Few rows start
# processes or time a model, which takes seconds.
COMMON: dict[str, dict[str, Any]] = {
    "prepare": {
        part: {"source": f"@text/{part}.de", "target": f"@text/{part}.en"} for part in ("train", "valid", "test")
    },
    "monolingual": {"text": ["@text/mono.en"], "prepared": "@gold"},
    "test": {"prepared": "@gold", "text": {"source": "@text/test.de", "target": "@text/test.en"}},
    "sample": {"corpus": "@several/train"},
    "train": {"prepared": "@gold", "corpus": "@gold/train", "model": MODEL, "training": QUICK},
    "distill": {"models": ["@teacher"], "corpus": "@gold/train", "search": SEARCHES[2], "workers": 1},
    "soft_targets": {"models": ["@teacher"], "corpus": "@gold/train", "workers": 1},
    "select": {"kbest": "@kbest", "gold": "@gold/train", "prepared": "@gold", "workers": 1},
    "evaluate": {
        "name": "m", "model": "@teacher", "role": "student", "corpus": "@gold/test", "beams": [1], "timed": False,
    },
    "report": {"pipeline": "p", "prepared": "@gold"},
}  # fmt: skip
# What the rows below are made from.
BASE: dict[str, tuple[str, dict[str, Any]]] = {
    "gold": (
        "prepare",
        {
            "vocabulary": {"size": 40, "byte_fallback": False, "symbols": [TAG]},
            "shard_rows": 80,
            "target_language": "en",
        },
    ),
    "several": (
        "prepare",
        {
            "train": {"source": "@text/train.de", "target": ["@text/train.en", "@text/train.de"]},
            "vocabulary": {"size": 40, "byte_fallback": False},
            "cleaning": {"drop_identical": False},
        },
    ),
    "sharing": ("prepare", {"vocabulary": {"size": 40, "byte_fallback": False}, "shares_sources": "@gold"}),
    "teacher": ("train", {"role": "teacher"}),
    "reverse": ("train", {"reverse": True}),
    "nat": ("train", {"model": {**MODEL, "arch": "nat"}, "objective": {"type": "nat"}}),
    "kbest": ("distill", {}),
    "distilled": ("select", {"rule": "seqkd"}),
    "pairs": ("select", {"rule": "pair", "weight": 2.0}),
    "soft": ("soft_targets", {"corpus": "@distilled"}),
    "mono": ("monolingual", {"ratio": 0.5, "shard_rows": 30}),
    "mono-kbest": ("distill", {"models": ["@reverse"], "corpus": "@mono"}),
    "back": ("select", {"rule": "seqkd", "kbest": "@mono-kbest", "gold": "@mono", "reverse": True, "tag": TAG}),
    "mono-source": ("monolingual", {"side": "source", "text": ["@text/mono.de"], "ratio": 0.4}),
    "source-kbest": ("distill", {"corpus": "@mono-source"}),
    "pseudo": ("select", {"rule": "seqkd", "kbest": "@source-kbest", "gold": "@mono-source"}),
    "evaluation": ("evaluate", {"name": "teacher", "role": "teacher"}),
    "more": ("test", {}),
    "evaluation-more": ("evaluate", {"name": "teacher", "role": "teacher", "corpus": "@more"}),
}
KBEST = {"precision": "float32", "batch_tokens": 300}
BACK = {"kbest": "@mono-kbest", "gold": "@mono", "reverse": True}
ROWS: list[tuple[str, dict[str, Any]]] = [
    (
        "prepare",
        {
            "vocabulary": {
                "size": 30, "type": "bpe", "joint": False, "byte_fallback": False, "character_coverage": 0.9999,
                "symbols": [TAG], "tags": ["<2en>"], "normalization": "nfc", "max_sentence_length": 9000,
            },
            "source_language": "de",
            "target_language": "en",
            "cleaning": {
                "max_length": 7, "max_ratio": 2.0, "drop_identical": False, "drop_duplicates": False, "language": True,
            },
            "shard_rows": 50,
            "seed": 2,
        },
    ),
    ("prepare", {"vocabulary_from": "@teacher", "test": {**COMMON["prepare"]["test"], "accepted": "@text/accepted"}}),
    (
        "prepare",
        {
            "vocabulary": {"size": 40, "byte_fallback": False, "symbols": ["<2en>"]},
            "tag": "<2en>",
            "shares_sources": "@gold",
        },
    ),
    ("monolingual", {"side": "source", "text": ["@text/mono.de"], "ratio": 0.4}),
    ("monolingual", {"ratio": 0.3, "max_length": 50, "drop_duplicates": False, "shard_rows": 20, "seed": 2}),
    (
        "test",
        {
            "text": {
                "source": "@text/test.de", "target": ["@text/test.en", "@text/test.de"], "accepted": "@text/accepted",
            },
            "shard_rows": 4,
        },
    ),
    (
        "train",
        {
            "role": "teacher",
            "model": {
                "dim": 32, "heads": 2, "ffn_dim": 48, "encoder_layers": 1, "decoder_layers": 2, "dropout": 0.2,
                "norm": "post", "positions": "learned", "activation": "gelu", "embeddings": "decoder",
                "max_positions": 48, "position_offset": 0, "norm_epsilon": 1e-6, "start": "zero", "output_bias": True,
                "embedding_norm": True, "scale_embeddings": False,
            },
            "objective": {"type": "nll", "label_smoothing": 0.2},
            "training": {
                "max_updates": 4, "batch_tokens": 200, "accumulate": 2, "optimizer": "adamw", "learning_rate": 0.01,
                "betas": [0.9, 0.99], "weight_decay": 0.1, "schedule": "cosine", "warmup_updates": 2, "clip_norm": 2.0,
                "precision": "float32", "validate_every": 2, "patience": 5, "average": 2, "window": 60, "seed": 2,
                "best_by": "bleu", "tokenizer": "intl", "keep": [0, 3], "keep_state": True,
            },
        },
    ),
    (
        "train",
        {
            "reverse": True, "training": {**QUICK, "valid_bleu": False},
            "model": {**COMMON["train"]["model"], "compatible_with": "marian"},
        },
    ),
    (
        "train",
        {
            "corpus": [
                {"path": "@gold/train", "noise": {"drop": 0.2, "blank": 0.2, "shuffle": 2}},
                {"path": "@distilled", "weight": 2.0},
                {"path": "@back"},
            ],
            "init_from": "@teacher",
        },
    ),
    (
        "train",
        {
            "corpus": None,
            "alternate": [{"corpus": "@gold/train", "updates": 1}, {"corpus": "@distilled", "updates": 2}],
        },
    ),
    ("train", {"reverse": True, "corpus": [{"path": "@distilled"}, {"path": "@gold/train", "weight": 0.5}]}),
    (
        "train",
        {
            "objective": {
                "type": "word_kd", "teachers": ["@teacher", "@teacher"], "temperature": 2.0, "alpha": 0.3, "top_k": 4,
                "renormalise": True,
                "label_smoothing": 0.1, "precision": "float32",
            }
        },
    ),
    ("train", {"objective": {"type": "word_kd", "teachers": ["@teacher"], "direction": "reverse"}}),
    (
        "train",
        {
            "objective": {"terms": [{"type": "nll"}, {"type": "word_kd", "teachers": ["@teacher"], "weight": 0.5}]},
            "init_from": {
                "model": "@teacher", "encoder_layers": [0], "decoder_layers": [0], "freeze": ["embeddings"],
            },
        },
    ),
    (
        "train",
        {
            "corpus": [{"path": "@pairs"}, {"path": "@gold/train"}],
            "objective": {"terms": [{"type": "nll"}, {"type": "margin", "kind": "hinge", "cost": 2.0}]},
        },
    ),
    ("train", {"corpus": "@pairs", "objective": {"terms": [{"type": "nll"}, {"type": "margin", "kind": "ramp"}]}}),
    ("train", {"corpus": "@distilled", "objective": {"type": "word_kd", "soft_targets": "@soft"}}),
    ("distill", {"models": ["@teacher", "@teacher"], "search": SEARCHES[0], **KBEST}),
    ("distill", {"search": SEARCHES[1], **KBEST}),
    ("distill", {"search": SEARCHES[2], "corpus": "@distilled", **KBEST}),
    (
        "distill",
        {
            "models": [],
            "source": {"type": "echo", "version": "2", "scores": True, "most": 3},
            "prepared": "@gold",
        },
    ),
    ("soft_targets", {"top_k": 4, "temperature": 2.0, "batch_tokens": 300, "precision": "float32"}),
    ("soft_targets", {"samples": 3, "seed": 2, "models": ["@teacher", "@teacher"]}),
    *(("select", {"rule": rule}) for rule in ("seqinter", "oracle", "chrf", "ter", "mbr-bleu", "mbr-chrf")),
    ("select", {"rule": "sample", "seed": 2, "tokenizer": "pieces", "smoothing": "floor", "workers": 2}),
    (
        "select",
        {
            "rule": "seqkd",
            "filters": {"unknown": False,
                "max_ratio": 3.0, "copies": True, "cut": True, "max_repeats": 3, "min_score": -9.0,
                "worst_percent": 5.0, "script": "Latin", "max_ter": 400.0, "duplicates": True,
                "language": True,
            },
        },
    ),
    ("select", {"rule": "seqkd", "rejected": "gold", "filters": {"cut": True, "max_ratio": 1.2}}),
    ("select", {"rule": "seqinter", "rejected": "next", "filters": {"max_repeats": 1}}),
    ("select", {"rule": "hope", "weight": 2.0, "safe": True}),
    ("select", {"rule": "fear", "weight": 2.0, "normalise": "z", "filters": {"cut": True}}),
    ("select", {"rule": "pair", "weight": 2.0, "rejected": "next", "filters": {"cut": True}}),
    ("select", {"rule": "all"}),
    ("select", {"rule": "all", "rejected": "gold", "filters": {"cut": True, "duplicates": True}}),
    (
        "select",
        {
            "rule": "rerank",
            "rerank": {"forward": "@teacher", "reverse": "@reverse", "channel_weight": 0.5, "batch_tokens": 300},
        },
    ),
    ("select", {"rule": "seqinter", "keep": 2}),
    (
        "select",
        {
            "rule": "score",
            "scorer": {"forward": "@teacher", "reverse": "@reverse", "channel_weight": 0.5, "batch_tokens": 300},
        },
    ),
    ("select", {"rule": "seqkd", "tag": TAG, **BACK}),
    ("select", {"rule": "all", **BACK}),
    (
        "evaluate",
        {
            "ensemble": ["@teacher"], "trained_on": "x", "beams": [2], "search": SEARCHES[0], "batch_tokens": 300,
            "precision": "float32", "speed_against": "@teacher", "tokenizer": "char", "threads": 0,
            "metrics": ["ter", "chrf"], "timed": True,
        },
    ),
    ("evaluate", {"search": SEARCHES[1], "baseline": "@evaluation"}),
    ("evaluate", {"search": SEARCHES[2]}),
    ("evaluate", {"corpus": "@more"}),
    ("evaluate", {"targets": [{"name": "distilled", "path": "@distilled"}], "target_rows": 9}),
    (
        "evaluate",
        {
            "model": "@nat",
            "rescore_with": "@teacher",
            "decode": [
                {
                    "name": "x", "iterations": 2, "candidates": 2, "strategy": "greedy", "rescore": True,
                    "drop_repeats": False,
                }
            ],
        },
    ),
    ("sample", {"seed": 2}),
    (
        "report",
        {
            "title": "t",
            "corpora": [{"name": "distilled", "path": "@distilled"}],
            "distill": [{"name": "kbest", "path": "@kbest"}],
            "soft_targets": [{"name": "soft", "path": "@soft"}],
            "models": [{"name": "teacher", "path": "@teacher"}],
            "evaluations": [{"name": "teacher", "path": "@evaluation"}],
            "tests": [
                {"name": "more", "path": "@more", "evaluations": [{"name": "teacher", "path": "@evaluation-more"}]}
            ],
            "backtranslation": [{"name": "back", "path": "@back", "model": "@reverse"}],
            "selftraining": [{"name": "pseudo", "path": "@pseudo", "model": "@teacher"}],
            "shared": [{"name": "sharing", "path": "@sharing/train"}],
            "agreement": {"name": "teacher", "path": "@evaluation", "corpus": "@gold/test"},
            "starts": [{"name": "teacher", "start": "teacher", "known": ["test"]}],
            "grids": [["teacher"]],
            "teachers": ["teacher"],
            "rounds": [{"name": "teacher", "evaluations": ["teacher"]}],
            "seeds": [{"name": "teacher", "evaluations": ["teacher", "teacher"]}],
            "languages": [
                {"name": "de", "text": "@text/train.de", "test": "@text/test.de"},
                {"name": "en", "text": "@text/train.en"},
            ],
            "baselines": [["teacher", "teacher"]],
            "edges": [["teacher", "kbest"]],
            "samples": 2,
        },
    ),
]  # fmt: skip


def placed(value: Any, root: Path) -> Any:
    """`value` with the paths that begin with "@" below `root`."""
    if isinstance(value, dict):
        return {name: placed(item, root) for name, item in value.items()}
    if isinstance(value, list):
        return [placed(item, root) for item in value]
    return str(root / value[1:]) if isinstance(value, str) and value.startswith("@") else value


def config_of(stage: str, values: dict[str, Any], root: Path) -> Any:
    return validate(STAGES[stage][0], placed({**COMMON[stage], **values}, root), stage)


@pytest.fixture(autouse=True)
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source of k-best lists besides models."""
    monkeypatch.setitem(SOURCES.own, "echo", ECHO)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    (root / "text").mkdir()
    prepare_config(root / "text")
    lines = [f"{one} {two}\n" for one, two in itertools.product(WORDS.values(), repeat=2)]
    (root / "text" / "mono.en").write_text("".join(lines))
    (root / "text" / "mono.de").write_text("".join(f"{one} {two}\n" for one, two in itertools.product(WORDS, repeat=2)))
    (root / "text" / "accepted").write_text('["the dog"]\n' * 10)
    for name, (stage, values) in BASE.items():
        STAGES[stage][1](config_of(stage, values, root), root / name, device="cpu")
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", range(len(ROWS)), ids=[f"{number}-{stage}" for number, (stage, _) in enumerate(ROWS)]
)
def test_what_a_stage_wrote_is_sound(number: int, base: Path) -> None:
    stage, values = ROWS[number]
    out = base / f"row{number}"
    STAGES[stage][1](config_of(stage, values, base), out, device="cpu")
    found = verify(out)
    assert found.problems == []
    assert found.notes == []
    inputs = {str(path.relative_to(base)) for path, _ in found.folders}
    # Of a prepared folder a stage records the corpora that it uses.
    followed = inputs | {str(Path(folder).parent) for folder in inputs}
    assert followed >= set(_inputs({**COMMON[stage], **values}))


def _inputs(value: Any) -> Iterator[str]:
    """The folders of stages among a row's values."""
    if isinstance(value, dict):
        for name, item in value.items():
            # The vocabulary is copied, or that of the corpus, and known by its own digest. A baseline is known by the
            # digest of its outputs.
            further = isinstance(value.get("text"), dict)
            if name not in ("vocabulary_from", "baseline") and not (
                name == "prepared" and ("source" in value or further)
            ):
                yield from _inputs(item)
    elif isinstance(value, list):
        for item in value:
            yield from _inputs(item)
    elif isinstance(value, str) and value.startswith("@") and not value.startswith("@text"):
        yield value[1:]


def test_the_table_has_every_option_of_every_stage(tmp_path: Path) -> None:
    """With another value than its default in at least one row; one without a default is in every row."""
    known: set[str] = set()
    tried: set[str] = set()
    for stage, values in ROWS:
        config = config_of(stage, values, tmp_path)
        plain = TypeAdapter(type(config)).dump_python(config, mode="json")
        for name, default in find_neutral(config).items():
            if default == {}:
                continue  # the table itself
            key = f"{stage}.{re.sub(r'[.][0-9]+[.]', '.*.', name)}".replace("objective.terms.*.", "objective.")
            known.add(key)
            if _at(plain, name) != default:
                tried.add(key)
    refused = {"prepare.train.accepted", "prepare.valid.accepted", "train.hooks"}  # seqkd itself has no hooks
    # They need a vocabulary of several data sets, whose models tests/unit/stages/test_groups.py has.
    refused |= {"train.corpus.*.group", "train.alternate.*.group", "train.corpus_temperature"}
    refused |= {"test.text.sacrebleu", "test.text.langpair"}  # not on every machine
    tables = {key for key in known if any(other.startswith(f"{key}.") for other in tried)}
    assert sorted(known - tried - refused - tables) == []
    assert {key.split(".")[0] for key in known} == set(STAGES)


def _at(value: Any, name: str) -> Any:
    for part in name.split("."):
        if isinstance(value, str):
            return ()  # a table of which a file gives the main value alone
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value

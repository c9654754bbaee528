"""Pipelines whose models have different vocabularies, from text to report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from seqkd.cli.main import main
from seqkd.corpus.reader import Corpus
from seqkd.metrics.results import read_result
from seqkd.models.checkpoint import read_config, save_model
from seqkd.models.registry import build
from seqkd.text.mapped import MAP, PieceMap
from seqkd.text.vocabularies import VOCABULARY, Vocabularies
from seqkd.text.vocabulary import Vocabulary
from seqkd.tools.verify import verify
from tests.integration.pipelines import ROOT, run_stages, shrunk, toy_text, write_pipeline
from tests.unit.stages.teachers import MODEL

pytestmark = pytest.mark.slow


def read(folder: Path) -> list[dict[str, Any]]:
    corpus = Corpus.open(folder)
    return [row for table in corpus.tables() for row in table.to_pylist()]


def test_a_student_with_a_vocabulary_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher that is brought along keeps its map of ids, the data set learns 200 pieces and one student 120."""
    monkeypatch.chdir(ROOT)
    values = shrunk(ROOT / "pipelines" / "toy.toml", toy_text(tmp_path / "text", rows=60, held_out=4))
    lines = (tmp_path / "text" / "train.src").read_text() + (tmp_path / "text" / "train.tgt").read_text()
    teacher = make_teacher(tmp_path / "teacher", lines.splitlines())
    values["teacher"] = {"path": str(teacher)}
    values["vocabularies"] = [{"name": "small", "size": 120, "byte_fallback": False}]
    gold = next(part for part in values["students"] if part["corpus"] == "gold")
    values["students"] = [
        gold | {"name": "small-gold", "vocabulary": "small"},
        gold | {"name": "small", "corpus": "seqkd", "vocabulary": "small"},
    ]
    for part in values["students"]:
        part["training"] = part["training"] | {
            "max_updates": 4,
            "validate_every": 2,
            "valid_bleu": False,
            "best_by": "nll",
        }
    values["evaluate"]["search"] = values["evaluate"].get("search", {}) | {"max_length_ratio": 0.5}
    for part in values["distill"]:
        part["search"] |= {"max_length_ratio": 0.5}
    values["select"] = [part for part in values["select"] if part["name"] == "seqkd"]
    values["distill"] = [part for part in values["distill"] if part["name"] == values["select"][0]["kbest"]]
    runs = tmp_path / "runs"
    run_stages(write_pipeline(values, tmp_path), runs)
    run = runs / "toy"

    small, default = Vocabularies.load(run / "vocabularies" / "small"), Vocabularies.load(run / "gold")
    assert (small.target.size, default.target.size) == (120, 200)
    assert read_config(run / "students" / "small")["vocabulary"] == small.target.digest
    # The teacher writes text; lists and distilled corpora have the pieces of the data set, or of the student.
    lists = Corpus.open(run / "kbest" / values["distill"][0]["name"])
    assert lists.manifest.vocabulary == default.target.digest
    assert lists.manifest.extra["model_vocabulary"] == Vocabularies.load(teacher).target.digest
    for table in lists.tables():
        for row in table.to_pylist():
            for one in row["hypotheses"]:
                assert one["ids"] == default.target.encode([one["text"]])[0]
    before, after = read(run / "corpora" / "seqkd"), read(run / "corpora" / "seqkd@small")
    assert [row["id"] for row in before] == [row["id"] for row in after]
    for ours, theirs in zip(before, after, strict=True):
        assert {**ours, "source_ids": None, "target_ids": None} == {**theirs, "source_ids": None, "target_ids": None}
        assert theirs["target_ids"] == small.target.encode([ours["target"]])[0]
        assert theirs["source_ids"] == small.source.encode([ours["source"]])[0]
    # All models are compared on one text, and per character.
    report = json.loads((run / "report" / "report.json").read_text())
    found = {model["name"]: model for model in report["models"]}
    assert {name: model["pieces"] for name, model in found.items()} == {
        "teacher": 204,
        "small-gold": 120,
        "small": 120,
    }
    for model in found.values():
        assert 1.0 < model["perplexity_per_character"] < model["perplexity"]
        assert model["valid"] is not None  # the accepted translations went along
        assert model["speedup"] is not None
    page = (run / "report" / "report.html").read_text()
    assert "per character" in page
    assert "<th" in page
    assert not re.search(r"<th[^>]*>(?:(?!</th>).)*per token", page, re.DOTALL)
    assert "vocabulary small" in page
    assert read_result(run / "evaluations" / "small").compared_with == "small-gold"
    assert verify(run / "report").problems == []
    assert main(["compare", str(run), "--models", "teacher", "small"]) == 0
    for folder in ("vocabularies/small", "corpora/seqkd@small", "tests/test@small", "students/small"):
        assert main(["inspect", str(run / folder)]) == 0


def make_teacher(folder: Path, lines: list[str]) -> Path:
    """Make a random Transformer with a map of ids."""
    folder.mkdir()
    plain = Vocabulary.train(
        iter(lines),
        folder / VOCABULARY,
        size=202,
        type="unigram",
        byte_fallback=False,
        character_coverage=1.0,
        symbols=(),
        seed=3,
    )
    pieces = plain.pieces()
    made = PieceMap(pieces=(*pieces[:4], "<src>", *pieces[:3:-1], "<mask>"), silent=("<src>", "<mask>"))
    (folder / MAP).write_bytes(made.to_bytes())
    settings = MODEL | {"dim": 32}
    torch.manual_seed(1)
    model = build("transformer", settings, source_vocab=len(made.pieces), target_vocab=len(made.pieces))
    with torch.no_grad():
        model.get_parameter("target_embedding").mul_(6.0)
    save_model(folder, model, arch="transformer", settings=settings, vocab=folder)
    return folder

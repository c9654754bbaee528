"""docs/languages.md: a corpus whose target has no blanks, through all stages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sacrebleu

from seqkd.config.stages import EvaluateConfig, ReportConfig
from seqkd.config.toml import validate
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.metrics.results import read_result
from seqkd.pipeline.file import PipelineConfig, put_in_lists
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.stages import plan_stages
from seqkd.report import stage as report
from seqkd.stages.distill import distill
from seqkd.stages.evaluate import evaluate
from seqkd.stages.prepare import prepare
from seqkd.stages.select import select
from seqkd.stages.train import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
RUN: dict[str, Callable[..., None]] = {
    "prepare": prepare.run,
    "train": train.run,
    "distill": distill.run,
    "select": select.run,
    "evaluate": evaluate.run,
    "report": report.run,
}
TINY = {"dim": 16, "heads": 2, "ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1}
BRIEF = {"max_updates": 20, "warmup_updates": 5, "validate_every": 10, "batch_tokens": 1024, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pipelines/toy-zh.toml, shrunk and run in this process."""
    folder = tmp_path_factory.mktemp("toy-zh")
    generator = ROOT / "data" / "toy" / "generate.py"
    command: list[str | Path] = [sys.executable, generator, "--out", folder / "text", "--rows", "300", "--unsegmented"]
    subprocess.run(command, check=True, capture_output=True)
    for name in ("valid.src", "valid.tgt", "test.src", "test.tgt", "test.accepted.jsonl"):
        lines = (folder / "text" / name).read_text().splitlines(keepends=True)
        (folder / "text" / name).write_text("".join(lines[:30]))
    values: dict[str, Any] = read_pipeline(ROOT / "pipelines" / "toy-zh.toml").model_dump(
        mode="json", exclude_none=True, exclude_unset=True
    )
    (values["data"],), (values["teacher"],) = values["data"], values.pop("teachers")  # as the file has them
    del values["data"]["fetch"]
    for part in ("train", "valid", "test"):
        text = values["data"][part]
        values["data"][part] = {side: str(folder / "text" / name) for side, name in text.items()}
    values["students"] = [part for part in values["students"] if part["name"] == "seqinter"]
    values["prepare"]["vocabulary"]["size"] = 260
    values["distill"][0] |= {"workers": 1, "search": {"beam": 2, "nbest": 2, "min_length": 4, "max_length_extra": 4}}
    values["evaluate"] = {"beams": [1]}
    for part in (values["teacher"], *values["students"]):
        part["model"] |= TINY
        part["training"] |= BRIEF
    for stage in plan_stages(validate(PipelineConfig, put_in_lists(values), "file"), folder):
        config = stage.config
        if isinstance(config, EvaluateConfig):
            if config.name != "seqinter":
                continue  # timing takes seconds, and one evaluation shows what is tested here
            config = config.model_copy(update={"speed_against": None})
        if isinstance(config, ReportConfig):
            evaluations = tuple(named for named in config.evaluations if named.name == "seqinter")
            config = config.model_copy(update={"evaluations": evaluations})
        RUN[stage.words[0]](config, stage.out, device="cpu")
    return folder / "toy-zh"


def test_cleaning_counts_characters(run: Path) -> None:
    manifest = read_manifest(run / "gold")
    assert manifest.rows == 300
    assert (manifest.extra["source_language"], manifest.extra["target_language"]) == ("en", "zh")
    assert (manifest.extra["lengths"]["source"], manifest.extra["lengths"]["target"]) == ("words", "characters")


def test_bleu_is_that_of_chinese_everywhere(run: Path) -> None:
    for model in ("teacher", "students/seqinter"):
        assert read_manifest(run / model).extra["valid_tokenizer"] == "zh"
    references = (run.parent / "text" / "test.tgt").read_text().splitlines()
    (model,) = json.loads((run / "report" / "report.json").read_text())["models"]
    assert "|tok:zh|" in model["signature"]
    outputs = (run / "evaluations" / "seqinter" / "hypotheses.beam1.txt").read_text().splitlines()
    assert model["bleu"]["1"] == sacrebleu.corpus_bleu(outputs, [references], tokenize="zh").score
    assert "asian:yes" in read_result(run / "evaluations" / "seqinter").signatures["ter"]


def test_targets_are_selected_by_bleu_of_characters(run: Path) -> None:
    chosen = Corpus.open(run / "corpora" / "seqinter", "corpus")
    kbest = Corpus.open(run / "kbest" / "beam5", "kbest")
    assert chosen.manifest.extra["target_language"] == "zh"
    gold = {row["id"]: row for table in Corpus.open(run / "gold" / "train").tables() for row in table.to_pylist()}
    picked = {row["id"]: row["target"] for table in chosen.tables() for row in table.to_pylist()}
    bleu = sacrebleu.BLEU(tokenize="zh", effective_order=True)
    rows = [row for table in kbest.tables() for row in table.to_pylist() if row["id"] in picked]
    assert len(rows) > 100
    for row in rows:
        scores = [bleu.sentence_score(h["text"], [gold[row["id"]]["target"]]).score for h in row["hypotheses"]]
        best = bleu.sentence_score(picked[row["id"]], [gold[row["id"]]["target"]]).score
        assert best == pytest.approx(max(scores))

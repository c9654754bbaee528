"""Recurrent students from training to evaluation, through the stages that everybody uses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from seqkd.config.stages import EvaluateConfig, TrainConfig
from seqkd.config.toml import validate
from seqkd.corpus.manifest import read_manifest
from seqkd.errors import WorkError
from seqkd.models.checkpoint import model_digest
from seqkd.stages.evaluate import evaluate
from seqkd.stages.train import train
from tests.unit.stages.interrupted import stop_at
from tests.unit.stages.support import knows_by_heart

MODELS: dict[str, dict[str, Any]] = {
    "lstm": {"arch": "lstm", "dim": 16, "encoder_layers": 1, "decoder_layers": 2},
    "ssru": {"arch": "sru", "dim": 16, "heads": 2, "ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1},
}
MODELS["sru"] = {**MODELS["ssru"], "cell": "sru"}
TRAINING = {"max_updates": 12, "batch_tokens": 200, "learning_rate": 0.01, "warmup_updates": 4, "validate_every": 4}
each = pytest.mark.parametrize("name", list(MODELS))


def config(prepared: Path, name: str, *, size: Mapping[str, Any] | None = None, **training: Any) -> TrainConfig:
    model = {**MODELS[name], "max_positions": 64, **(size or {})}
    values = {"prepared": prepared, "corpus": prepared / "train", "model": model}
    return validate(TrainConfig, {**values, "training": {**TRAINING, **training}}, "test")


@each
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_an_interrupted_run_ends_with_the_same_model(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch, name: str, precision: str
) -> None:
    settings = config(prepared, name, precision=precision, valid_bleu=False)
    train.run(settings, tmp_path / "whole", device="cpu")
    with monkeypatch.context() as patch:
        stop_at(patch, 10)
        with pytest.raises(WorkError, match="stopped at update 10 of 12"):
            train.run(settings, tmp_path / "stopped", device="cpu")
    train.run(settings, tmp_path / "stopped", device="cpu")
    assert model_digest(tmp_path / "whole") == model_digest(tmp_path / "stopped")


@pytest.mark.slow
@each
def test_learns_and_is_evaluated(tmp_path: Path, few: Path, name: str) -> None:
    training = {"max_updates": 150, "batch_tokens": 600, "warmup_updates": 20, "validate_every": 50}
    settings = config(few, name, size={"dim": 32, "dropout": 0.0}, **training)
    train.run(settings, tmp_path / "model", device="cpu")
    assert read_manifest(tmp_path / "model").extra["arch"] == MODELS[name]["arch"]
    assert knows_by_heart(tmp_path / "model" / "history.json")
    values = {"name": name, "model": tmp_path / "model", "role": "student", "corpus": few / "test", "timed": False}
    evaluate.run(validate(EvaluateConfig, values, "test"), tmp_path / "evaluation", device="cpu")
    result = json.loads((tmp_path / "evaluation" / "result.json").read_text())
    assert result["arch"] == MODELS[name]["arch"]
    assert result["precision"] == "float32"
    assert read_manifest(tmp_path / "evaluation").extra["precision"] == "float32"
    assert set(result["decodes"]) == {"1", "5"}
    assert all(decode["bleu"] > 90 for decode in result["decodes"].values())

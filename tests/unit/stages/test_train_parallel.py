"""Training models that write all positions at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqkd.config.stages import TrainConfig
from seqkd.config.toml import validate
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import WorkError
from seqkd.models.checkpoint import load_model, model_digest
from seqkd.models.protocol import ParallelModel, ParallelSettings
from seqkd.stages.train import train
from tests.unit.stages.interrupted import stop_at

SIZES = {"dim": 16, "heads": 2, "ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1, "max_positions": 64}
TRAINING = {
    "max_updates": 24,
    "batch_tokens": 200,
    "learning_rate": 0.01,
    "warmup_updates": 4,
    "validate_every": 8,
    "precision": "float32",
}
KINDS: dict[str, dict[str, Any]] = {
    "nat": {"model": {"arch": "nat"}},
    "glancing": {"model": {"arch": "nat"}, "objective": {"glancing": [0.5, 0.3]}},
    "fertility": {"model": {"arch": "nat", "copy_from": "fertility"}},
    "cmlm": {"model": {"arch": "cmlm"}},
}


def config(prepared: Path, kind: str) -> TrainConfig:
    values = {"prepared": prepared, "corpus": prepared / "train", "training": TRAINING, **KINDS[kind]}
    return validate(TrainConfig, {**values, "model": {**SIZES, **KINDS[kind]["model"]}}, "test")


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_run_ends_with_the_same_model(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    settings = config(prepared, kind)
    train.run(settings, tmp_path / "whole", device="cpu")
    lines = json.loads((tmp_path / "whole" / "history.json").read_text())
    assert lines[-1]["valid_nll"] < lines[0]["valid_nll"]
    assert all(0 <= line["valid_bleu"] <= 100 for line in lines)
    assert read_manifest(tmp_path / "whole").extra["arch"] == KINDS[kind]["model"]["arch"]
    loaded = load_model(tmp_path / "whole")
    assert isinstance(loaded.model, ParallelModel)
    row = Corpus.open(prepared / "test").take(np.array([0]), ["source_ids"]).column("source_ids")[0].as_py()
    source = torch.tensor([[*row, 2]])
    with torch.inference_mode():
        assert loaded.model.translate(source, ParallelSettings(candidates=2))[0][0].ids
    with monkeypatch.context() as patch:
        stop_at(patch, 10)
        with pytest.raises(WorkError, match="stopped at update 10 of 24"):
            train.run(settings, tmp_path / "stopped", device="cpu")
    train.run(settings, tmp_path / "stopped", device="cpu")
    assert model_digest(tmp_path / "whole") == model_digest(tmp_path / "stopped")

"""Corpora, teachers and stage files for the tests of word-level distillation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from seqkd.config.stages import SoftTargetsConfig, TrainConfig
from seqkd.config.toml import validate
from seqkd.models.checkpoint import save_model
from seqkd.models.registry import build
from seqkd.text.vocabulary import Vocabulary

MODEL = {"dim": 16, "heads": 2, "ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1, "max_positions": 64}
TRAINING = {
    "max_updates": 8,
    "batch_tokens": 200,
    "learning_rate": 0.01,
    "warmup_updates": 4,
    "validate_every": 4,
    "valid_bleu": False,
    "precision": "float32",
}


def make_teacher(
    folder: Path, vocabulary: Path, *, seed: int = 1, arch: str = "transformer", nan: bool = False, **more: Any
) -> Path:
    """A model folder with random weights, large enough that its distributions are not flat."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {**MODEL, "dim": 32, **more}
    if arch == "lstm":
        settings = {name: value for name, value in settings.items() if name not in ("heads", "ffn_dim")}
    size = Vocabulary.load(vocabulary).size
    model = build(arch, settings, source_vocab=size, target_vocab=size)
    with torch.no_grad():
        if arch != "nat":
            model.get_parameter("target_embedding").mul_(6.0)
        if nan:
            model.get_parameter("target_embedding")[9] = float("nan")
    folder.mkdir()
    save_model(folder, model, arch=arch, settings=settings, vocab=vocabulary)
    return folder


def soft_config(prepared: Path, *teachers: Path, corpus: Path | None = None, **more: Any) -> SoftTargetsConfig:
    values = {
        "models": teachers,
        "corpus": corpus or prepared / "train",
        "batch_tokens": 150,
        "precision": "float32",
        "workers": 1,
    }
    return validate(SoftTargetsConfig, {**values, **more}, "test")


def student_config(prepared: Path, objective: dict[str, Any], **more: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "prepared": prepared,
        "corpus": prepared / "train",
        "model": {**MODEL, "dropout": 0.0},
        "training": {**TRAINING, **more.pop("training", {})},
        "objective": {"type": "word_kd", **objective},
    }
    return validate(TrainConfig, {**values, **more}, "test")

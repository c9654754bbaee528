"""Weights, settings, trainer state, and fairseq's checkpoints and dictionaries."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from seqkd.interop.fairseq import build_model, export_checkpoint
from seqkd.interop.fairseq_checkpoint import read_checkpoint
from seqkd.interop.fairseq_dictionary import read_dictionary, word_vocabulary
from seqkd.models.checkpoint import load_model, save_model
from seqkd.models.registry import build
from seqkd.training.state import TrainState, load_state, save_state

Reader = Callable[[bytes], None]

SYMBOLS = [f"s{number}" for number in range(20)]
SETTINGS: dict[str, dict[str, Any]] = {
    "transformer": {
        **{"dim": 16, "heads": 2, "ffn_dim": 24, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.1},
        **{"norm": "post", "positions": "sinusoidal", "activation": "relu", "embeddings": "shared"},
        "max_positions": 12,
    },
    "lstm": {"dim": 16, "encoder_layers": 1, "decoder_layers": 1, "max_positions": 12},
    "ctc": {"dim": 16, "heads": 2, "ffn_dim": 24, "encoder_layers": 1, "decoder_layers": 1, "max_positions": 12},
}


def _models(folder: Path) -> None:
    (folder / "words.model").write_bytes(word_vocabulary(SYMBOLS).model)
    size = len(SYMBOLS) + 4
    for arch, settings in SETTINGS.items():
        torch.manual_seed(1)
        model = build(arch, settings, source_vocab=size, target_vocab=size)
        (folder / arch).mkdir()
        save_model(folder / arch, model, arch=arch, settings=settings, vocab=folder / "words.model")


def _load(folder: Path) -> None:
    loaded = load_model(folder)
    assert loaded.arch in SETTINGS


def safetensors(folder: Path) -> tuple[list[bytes], Reader]:
    """model.safetensors of a folder without a manifest."""
    _models(folder)
    files = {arch: (folder / arch / "model.safetensors").read_bytes() for arch in SETTINGS}

    def read(data: bytes) -> None:
        for arch, whole in files.items():
            if data in files.values() and data != whole:
                continue
            (folder / arch / "model.safetensors").write_bytes(data)
            _load(folder / arch)
            return

    return list(files.values()), read


def model_config(folder: Path) -> tuple[list[bytes], Reader]:
    """config.json."""
    _models(folder)
    files = [(folder / arch / "config.json").read_bytes() for arch in SETTINGS]

    def read(data: bytes) -> None:
        for arch, whole in zip(SETTINGS, files, strict=True):
            if f'"{arch}"'.encode() in data or whole is files[-1]:
                (folder / arch / "config.json").write_bytes(data)
                _load(folder / arch)
                return

    return files, read


def state(folder: Path) -> tuple[list[bytes], Reader]:
    """last.pt, from which training goes on."""
    tensors = {"model": {"a": torch.arange(30.0)}, "optimizer": {"state": {0: {"step": 3}}}, "scaler": {}}
    save_state(folder, TrainState(world=1, precision="float32", update=7), tensors)
    path = folder / "last.pt"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        found = load_state(folder, world=1, precision="float32")
        assert found is not None

    return [path.read_bytes()], read


def fairseq(folder: Path) -> tuple[list[bytes], Reader]:
    """checkpoint.pt in torch's format and in that from before 1.6."""
    _models(folder)
    export_checkpoint(folder / "transformer", folder / "exported")
    path = folder / "exported" / "checkpoint.pt"
    torch.save(read_checkpoint(path), folder / "old.pt", _use_new_zipfile_serialization=False)
    files = [path.read_bytes(), (folder / "old.pt").read_bytes()]

    def read(data: bytes) -> None:
        path.write_bytes(data)
        size = len(SYMBOLS) + 4
        model, _ = build_model(read_checkpoint(path), path, source_pieces=size, target_pieces=size)
        assert model.target_vocab == size

    return files, read


def dictionary(folder: Path) -> tuple[list[bytes], Reader]:
    """dict.txt."""
    draw = random.Random(1)
    files = ["".join(f"{symbol} {draw.randrange(1000)}\n" for symbol in SYMBOLS).encode()]
    files.append("▁ä 3 #fairseq:overwrite\n\u00a0 1\n漢字 12\n".encode())

    def read(data: bytes) -> None:
        (folder / "dict.txt").write_bytes(data)
        assert json.dumps(read_dictionary(folder / "dict.txt"))

    return files, read

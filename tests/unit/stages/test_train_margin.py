"""`seqkd train` on a corpus of pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from seqkd.config.stages import TrainConfig
from seqkd.config.toml import validate
from seqkd.corpus.manifest import read_manifest, write_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.writer import write_shard
from seqkd.errors import ConfigError
from seqkd.models.checkpoint import model_digest
from seqkd.stages.train import train
from tests.unit.stages.test_train_seams import MODEL, TRAINING

TERMS = {"terms": [{"type": "nll", "weight": 0.5}, {"type": "margin", "kind": "hinge", "cost": 2.0}]}


def config(prepared: Path, corpus: Path, **more: Any) -> TrainConfig:
    values = {"prepared": prepared, "corpus": corpus, "model": MODEL, "training": TRAINING, "objective": TERMS}
    return validate(TrainConfig, {**values, **more}, "test")


@pytest.fixture(scope="module")
def pairs(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gold corpus with the targets of other rows as rivals; one of them is longer than any model."""
    folder = tmp_path_factory.mktemp("pairs")
    gold = Corpus.open(prepared / "train")
    shards = []
    for index, table in enumerate(gold.tables()):
        ids = table.column("target_ids").to_pylist()
        rivals = [*ids[1:], ids[0]]
        if not index:
            rivals[0] = [4] * 200
        table = table.append_column("rival", pa.array(["x"] * len(ids)))
        table = table.append_column("rival_ids", pa.array(rivals, pa.list_(pa.int32())))
        table = table.append_column("rival_margin", pa.array([0.5] * len(ids), pa.float32()))
        shards.append(write_shard(folder, index, table))
    manifest = read_manifest(prepared / "train")
    manifest.shards[:] = shards
    write_manifest(folder, manifest)
    return folder


@pytest.mark.parametrize("model", [MODEL, {"arch": "lstm", "dim": 16, "encoder_layers": 1, "decoder_layers": 1}])
def test_a_student_learns_the_margin_beside_the_likelihood(
    tmp_path: Path, prepared: Path, pairs: Path, model: dict[str, Any]
) -> None:
    train.run(config(prepared, pairs, model=model), tmp_path / "out", device="cpu")
    manifest = read_manifest(tmp_path / "out")
    rows = Corpus.open(pairs).rows
    limited = "max_positions" in model
    assert manifest.rows == rows - limited  # a rival that is too long makes its row unusable
    lines = json.loads((tmp_path / "out" / "history.json").read_text())
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    assert lines[-1]["valid_nll"] < lines[0]["valid_nll"]
    assert manifest.fingerprint["config"]["objective"]["terms"][1] == {"type": "margin", "cost": 2.0}


def test_other_objectives_ignore_rivals(tmp_path: Path, prepared: Path, pairs: Path) -> None:
    for name, corpus in (("gold", prepared / "train"), ("pairs", pairs)):
        train.run(config(prepared, corpus, objective={"type": "nll"}), tmp_path / name, device="cpu")
    assert model_digest(tmp_path / "gold") == model_digest(tmp_path / "pairs")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"objective": {"type": "margin"}}, "margin: stands beside another term"),
        ({"objective": {"terms": [{"type": "margin"}]}}, "margin: stands beside another term"),
        (
            {"model": {"arch": "ctc"}, "objective": {"terms": [{"type": "ctc"}, {"type": "margin"}]}},
            "'margin' does not",
        ),
        ({"reverse": True}, "reads rivals, which only targets have"),
        ({}, "reads rivals, and .*train has none"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, prepared: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train.run(config(prepared, prepared / "train", **more), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()

"""Students that sum over alignments or paths, through the training stage."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqkd.cli.main import main
from seqkd.config.stages import TrainConfig
from seqkd.config.toml import validate
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import WorkError
from seqkd.models.checkpoint import load_model, model_digest
from seqkd.models.nat import ctc, dag
from seqkd.models.protocol import ParallelModel
from seqkd.stages.train import train
from tests.unit.stages.interrupted import stop_at
from tests.unit.stages.support import knows_by_heart

MODEL = {"dim": 16, "heads": 2, "ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1, "max_positions": 64}
TRAINING = {"max_updates": 12, "batch_tokens": 200, "learning_rate": 0.01, "warmup_updates": 4, "validate_every": 4}
BOTH = pytest.mark.parametrize("arch", ["ctc", "dag"])


def config(
    prepared: Path, arch: str, *, upsample: int = 3, model: Mapping[str, Any] = MODEL, **training: Any
) -> TrainConfig:
    values: dict[str, Any] = {
        "prepared": prepared,
        "corpus": prepared / "train",
        "model": {**model, "arch": arch, "upsample": upsample},
        "objective": {"glancing": [0.5, 0.1]},
        "training": {**TRAINING, **training},
    }
    return validate(TrainConfig, values, "test")


@BOTH
def test_writes_a_model_folder(tmp_path: Path, prepared: Path, arch: str) -> None:
    train.run(config(prepared, arch), tmp_path, device="cpu")
    loaded = load_model(tmp_path)
    assert isinstance(loaded.model, ParallelModel)
    assert loaded.arch == arch
    assert loaded.settings["upsample"] == 3
    lines = json.loads((tmp_path / "history.json").read_text())
    assert [line["update"] for line in lines] == [4, 8, 12]
    assert lines[-1]["valid_nll"] < lines[0]["valid_nll"]
    assert all(0 <= line["valid_bleu"] <= 100 for line in lines)


@BOTH
def test_an_interrupted_run_ends_with_the_same_model(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch, arch: str
) -> None:
    settings = config(prepared, arch, precision="float32", max_updates=16, validate_every=8, valid_bleu=False)
    train.run(settings, tmp_path / "whole", device="cpu")
    with monkeypatch.context() as patch:
        stop_at(patch, 10)
        with pytest.raises(WorkError, match="stopped at update 10 of 16"):
            train.run(settings, tmp_path / "stopped", device="cpu")
    train.run(settings, tmp_path / "stopped", device="cpu")
    assert model_digest(tmp_path / "whole") == model_digest(tmp_path / "stopped")


@BOTH
def test_targets_that_do_not_fit_are_left_out_and_counted(
    tmp_path: Path, prepared: Path, capfd: pytest.CaptureFixture[str], arch: str
) -> None:
    stage, out = tmp_path / "stage.toml", tmp_path / "out"
    stage.write_text(
        f"prepared = '{prepared}'\ncorpus = '{prepared}/train'\n"
        "model = { dim = 16, heads = 2, ffn_dim = 32, encoder_layers = 1, decoder_layers = 1, max_positions = 64, "
        f"arch = '{arch}', upsample = 1 }}\n"
        "training = { max_updates = 2, batch_tokens = 200, learning_rate = 0.01 }\n"
    )
    assert main(["train", "--config", str(stage), "--out", str(out), "--device", "cpu"]) == 0
    told = capfd.readouterr().err
    for part, file in (("train", "rejected.tsv"), ("valid", "rejected.valid.tsv")):
        expected = {}
        corpus = Corpus.open(prepared / part)
        for row in corpus.take(np.arange(corpus.rows)).to_pylist():
            target, frames = row["target_ids"], len(row["source_ids"]) + 1
            if arch == "dag" and len(target) + 2 > frames:
                expected[row["id"]] = dag.TOO_MANY
            elif arch == "ctc" and len(target) > frames:
                expected[row["id"]] = ctc.TOO_MANY
            elif arch == "ctc" and len(target) + sum(a == b for a, b in itertools.pairwise(target)) > frames:
                expected[row["id"]] = ctc.NO_BLANKS
        assert (out / file).read_text().splitlines() == ["id\treason", *(f"{i}\t{why}" for i, why in expected.items())]
        counts = Counter(expected.values())
        assert len(counts) == (2 if arch == "ctc" else 1)
        assert all(f"{count} {reason}" in told for reason, count in counts.items())
        if part == "train":
            assert read_manifest(out).counts == counts
    assert all(weight.isfinite().all() for weight in load_model(out).model.parameters())


@pytest.mark.slow
@BOTH
def test_learns_to_translate(tmp_path: Path, few: Path, arch: str) -> None:
    training = {"max_updates": 150, "batch_tokens": 600, "warmup_updates": 20, "validate_every": 50}
    model = {**MODEL, "dim": 32, "ffn_dim": 64, "dropout": 0.0}
    train.run(config(few, arch, model=model, **training), tmp_path, device="cpu")
    assert knows_by_heart(tmp_path / "history.json")

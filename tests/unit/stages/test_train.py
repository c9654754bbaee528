from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from seqkd.config.stages import TrainConfig
from seqkd.config.toml import validate
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import ConfigError, ConflictError, CorpusError, ModelError, WorkError
from seqkd.models.checkpoint import load_model, model_digest, read_weights
from seqkd.stages.prepare import prepare
from seqkd.stages.train import train
from seqkd.training.precision import slow_precision
from tests.unit.stages.interrupted import stop_at
from tests.unit.stages.support import prepare_config

MODEL = {"dim": 16, "heads": 2, "ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1, "max_positions": 64}
TRAINING = {"max_updates": 12, "batch_tokens": 200, "learning_rate": 0.01, "warmup_updates": 4, "validate_every": 4}


def config(prepared: Path, **more: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "prepared": prepared,
        "corpus": prepared / "train",
        "model": MODEL,
        "training": {**TRAINING, **more.pop("training", {})},
    }
    return validate(TrainConfig, {**values, **more}, "test")


def test_writes_a_model_folder(tmp_path: Path, prepared: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model"
    train.run(config(prepared, training={"average": 2, "keep_state": True}), out, device="cpu")
    loaded = load_model(out)
    assert loaded.vocabularies.target.digest == read_manifest(prepared).vocabulary
    manifest = read_manifest(out)
    assert manifest.kind == "model"
    assert manifest.vocabulary == loaded.vocabularies.target.digest
    assert manifest.extra["role"] == "student"
    assert manifest.extra["arch"] == "transformer"
    assert manifest.extra["updates"] == 12
    assert manifest.extra["parameters"] == sum(weight.numel() for weight in loaded.model.parameters())
    lines = json.loads((out / "history.json").read_text())
    assert [line["update"] for line in lines] == [4, 8, 12]
    assert set(lines[0]) == {
        "update",
        "epoch",
        "train_loss",
        "valid_nll",
        "valid_bleu",
        "tokens_per_second",
        "learning_rate",
    }
    assert lines[-1]["valid_nll"] < lines[0]["valid_nll"]
    assert 0 <= lines[0]["valid_bleu"] <= 100
    assert list((out / "tensorboard").iterdir())
    best = [out / "state" / f"update-{update:08d}.safetensors" for update in manifest.extra["averaged_updates"]]
    expected = torch.stack([read_weights(path)["encoder_norm.weight"] for path in best]).mean(0)
    torch.testing.assert_close(loaded.model.state_dict()["encoder_norm.weight"], expected)
    digest = model_digest(out)
    capfd.readouterr()
    train.run(config(prepared, training={"average": 2}), out, device="cpu")
    assert "up to date" in capfd.readouterr().err
    assert model_digest(out) == digest
    with pytest.raises(ConflictError, match=r"config\.training\.max_updates: 12 -> 13"):
        train.run(config(prepared, training={"max_updates": 13, "average": 2}), out, device="cpu")


def test_a_finished_model_keeps_the_weights_that_are_asked_for_and_no_state(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"precision": "float32", "max_updates": 16, "validate_every": 8}
    train.run(config(prepared, training=more), tmp_path / "plain", device="cpu")
    assert not (tmp_path / "plain" / "state").exists()
    assert not list((tmp_path / "plain").glob("update-*"))
    kept = config(prepared, training={**more, "keep": [0, 3, 12, 16]})
    with monkeypatch.context() as patch:
        stop_at(patch, 10)
        with pytest.raises(WorkError, match="stopped at update 10 of 16"):
            train.run(kept, tmp_path / "kept", device="cpu")
    assert (tmp_path / "kept" / "state" / "last.pt").exists()
    train.run(kept, tmp_path / "kept", device="cpu")
    assert not (tmp_path / "kept" / "state").exists()
    assert read_manifest(tmp_path / "kept").extra["kept"] == [0, 3, 12, 16]
    assert model_digest(tmp_path / "kept") == model_digest(tmp_path / "plain")
    found = {path.name: read_weights(path) for path in (tmp_path / "kept").glob("update-*")}
    assert found.keys() == {f"update-{update:08d}.safetensors" for update in (0, 3, 12, 16)}
    # The schedule does not depend on the number of updates: the weights are those of a run that ends there.
    short = config(prepared, training={**more, "max_updates": 3})
    train.run(short, tmp_path / "short", device="cpu")
    for name, weight in read_weights(tmp_path / "short" / "model.safetensors").items():
        assert torch.equal(found["update-00000003.safetensors"][name], weight)
        assert found["update-00000000.safetensors"][name].shape == weight.shape
    assert not torch.equal(
        found["update-00000000.safetensors"]["encoder.0.ffn.inner.weight"],
        found["update-00000003.safetensors"]["encoder.0.ffn.inner.weight"],
    )


def test_an_update_to_keep_that_is_never_reached(prepared: Path) -> None:
    with pytest.raises(ConfigError, match="keep names update 13, but max_updates is 12"):
        config(prepared, training={"max_updates": 12, "keep": [13]})


def test_an_interrupted_run_ends_with_the_same_model(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(prepared, training={"precision": "float32", "max_updates": 24, "validate_every": 8})
    train.run(settings, tmp_path / "whole", device="cpu")
    with monkeypatch.context() as patch:
        stop_at(patch, 10)
        with pytest.raises(WorkError, match="stopped at update 10 of 24"):
            train.run(settings, tmp_path / "stopped", device="cpu")
    assert not (tmp_path / "stopped" / "manifest.json").exists()
    train.run(settings, tmp_path / "stopped", device="cpu")
    assert model_digest(tmp_path / "whole") == model_digest(tmp_path / "stopped")


def test_starts_from_another_model(tmp_path: Path, prepared: Path) -> None:
    train.run(config(prepared), tmp_path / "first", device="cpu")
    tiny_step = {"max_updates": 1, "learning_rate": 1e-9, "valid_bleu": False}
    train.run(config(prepared, init_from=tmp_path / "first", training=tiny_step), tmp_path / "second", device="cpu")
    first, second = load_model(tmp_path / "first").model, load_model(tmp_path / "second").model
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    other = {**MODEL, "dim": 32}
    with pytest.raises(ModelError, match="its weights have other sizes: dim is 16, here 32"):
        train.run(config(prepared, init_from=tmp_path / "first", model=other), tmp_path / "third", device="cpu")
    assert not (tmp_path / "third").exists()


def test_rows_too_long_are_left_out_and_counted(
    tmp_path: Path, prepared: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ids, sources, targets = Corpus.open(prepared / "train").lengths()
    limit = int(max(sources.max(), targets.max()))
    expected = [int(row) for row in ids[(sources >= limit) | (targets >= limit)]]
    training = {"max_updates": 1, "valid_bleu": False}
    train.run(config(prepared, model={**MODEL, "max_positions": limit}, training=training), tmp_path, device="cpu")
    assert expected
    assert f"{len(expected)} longer than max_positions" in capfd.readouterr().err
    assert read_manifest(tmp_path).counts == {"longer than max_positions": len(expected)}
    lines = (tmp_path / "rejected.tsv").read_text().splitlines()
    assert lines == ["id\treason", *(f"{row}\tlonger than max_positions" for row in expected)]


def test_no_row_fits(tmp_path: Path, prepared: Path) -> None:
    with pytest.raises(CorpusError, match="no row that the model can be trained on"):
        train.run(config(prepared, model={**MODEL, "max_positions": 4}), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_corpus_of_another_vocabulary(tmp_path: Path, prepared: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    prepare.run(prepare_config(other, size=38), other / "prepared")
    with pytest.raises(CorpusError, match="a target vocabulary other than"):
        train.run(config(prepared, corpus=other / "prepared" / "train"), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_shared_embeddings_need_one_vocabulary(tmp_path: Path) -> None:
    prepare.run(prepare_config(tmp_path, joint=False, size=30), tmp_path / "prepared")
    settings = config(tmp_path / "prepared")
    with pytest.raises(ConfigError, match="embeddings are shared"):
        train.run(settings, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()
    apart = config(tmp_path / "prepared", model={**MODEL, "embeddings": "decoder"}, training={"max_updates": 2})
    train.run(apart, tmp_path / "apart", device="cpu")
    assert not load_model(tmp_path / "apart").vocabularies.joint


def test_any_metric_of_validation_outputs_chooses_the_checkpoint(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(prepared, training={"best_by": "ter", "valid_bleu": False, "max_updates": 24})
    train.run(settings, tmp_path / "whole", device="cpu")
    history = json.loads((tmp_path / "whole" / "history.json").read_text())
    values = [line["metrics"]["ter"] for line in history]
    assert [line["valid_bleu"] for line in history] == [None] * 6
    assert len(set(values)) > 1
    best = history[values.index(min(values))]["update"]
    assert read_manifest(tmp_path / "whole").extra["best_update"] == best
    with monkeypatch.context() as patch:
        stop_at(patch, 10)
        with pytest.raises(WorkError, match="stopped at update 10 of 24"):
            train.run(settings, tmp_path / "stopped", device="cpu")
    train.run(settings, tmp_path / "stopped", device="cpu")
    assert model_digest(tmp_path / "whole") == model_digest(tmp_path / "stopped")
    again = json.loads((tmp_path / "stopped" / "history.json").read_text())
    assert [line["metrics"] for line in again] == [line["metrics"] for line in history]


def test_best_by_bleu_without_bleu(prepared: Path) -> None:
    with pytest.raises(ConfigError, match="best_by is bleu, but valid_bleu is false"):
        config(prepared, training={"best_by": "bleu", "valid_bleu": False})


def test_says_where_bf16_is_emulated(tmp_path: Path, prepared: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = {"precision": "bf16", "max_updates": 1, "validate_every": 1}
    train.run(config(prepared, training=settings), tmp_path / "model", device="cpu")
    slow = slow_precision("bf16", torch.device("cpu"))
    said = capfd.readouterr().err
    assert (f"train: {slow}\n" in said) == (slow is not None)
    assert ("does not multiply bf16" in said) == (slow is not None)

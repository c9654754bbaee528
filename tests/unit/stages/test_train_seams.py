"""`seqkd train` with sums of terms, hooks and chosen layers to start from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from seqkd.config.stages import TrainConfig
from seqkd.config.toml import to_toml, validate
from seqkd.corpus.manifest import read_manifest
from seqkd.errors import ConfigError, ConflictError, ModelError
from seqkd.models.checkpoint import load_model, model_digest, read_weights
from seqkd.stages.train import train
from tests.unit.stages import plugin
from tests.unit.stages.teachers import make_teacher

ROOT = Path(__file__).parents[3]
MODEL = {"dim": 16, "heads": 2, "ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1, "max_positions": 64}
TRAINING = {
    "max_updates": 12,
    "batch_tokens": 200,
    "learning_rate": 0.01,
    "warmup_updates": 4,
    "validate_every": 4,
    "precision": "float32",
    "valid_bleu": False,
}


def config(prepared: Path, **more: Any) -> TrainConfig:
    values: dict[str, Any] = {"prepared": prepared, "corpus": prepared / "train", "model": MODEL, "training": TRAINING}
    return validate(TrainConfig, {**values, **more}, "test")


@pytest.fixture(scope="module")
def teacher(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(tmp_path_factory.mktemp("teacher") / "model", prepared / "vocab.model", seed=1)


def test_a_list_of_one_term_trains_the_same_model_as_the_term_alone(tmp_path: Path, prepared: Path) -> None:
    alone = {"type": "nll", "label_smoothing": 0.2}
    train.run(config(prepared, objective=alone), tmp_path / "alone", device="cpu")
    train.run(config(prepared, objective={"terms": [alone]}), tmp_path / "listed", device="cpu")
    assert model_digest(tmp_path / "alone") == model_digest(tmp_path / "listed")
    assert read_manifest(tmp_path / "alone").fingerprint["config"]["objective"] == alone
    assert read_manifest(tmp_path / "listed").fingerprint["config"]["objective"] == {"terms": [alone]}


def test_the_parts_of_word_kd_as_two_terms_give_its_losses(tmp_path: Path, prepared: Path, teacher: Path) -> None:
    both = {"type": "word_kd", "teachers": [teacher], "alpha": 0.3, "label_smoothing": 0.1}
    parts = [
        {"type": "word_kd", "teachers": [teacher], "alpha": 1.0, "weight": 0.3},
        {"type": "nll", "label_smoothing": 0.1, "weight": 0.7},
    ]
    train.run(config(prepared, objective=both), tmp_path / "both", device="cpu")
    train.run(config(prepared, objective={"terms": parts}), tmp_path / "parts", device="cpu")
    one, other = (json.loads((tmp_path / name / "history.json").read_text()) for name in ("both", "parts"))
    for got, want in zip(other, one, strict=True):
        assert got["train_loss"] == pytest.approx(want["train_loss"], rel=1e-4)
        assert got["valid_nll"] == pytest.approx(want["valid_nll"], rel=1e-4)
    written = read_manifest(tmp_path / "parts").fingerprint
    assert [term.get("weight") for term in written["config"]["objective"]["terms"]] == [0.3, 0.7]
    assert set(written["inputs"]) == set(read_manifest(tmp_path / "both").fingerprint["inputs"])


def test_the_layers_to_start_from_and_the_frozen_parts_are_part_of_the_fingerprint(
    tmp_path: Path, prepared: Path
) -> None:
    deep = {**MODEL, "encoder_layers": 3}
    train.run(config(prepared, model=deep), tmp_path / "deep", device="cpu")
    wanted = {"model": str(tmp_path / "deep"), "encoder_layers": [2], "freeze": ["embeddings"]}
    train.run(config(prepared, init_from=wanted), tmp_path / "small", device="cpu")
    first, small = (load_model(tmp_path / name).model for name in ("deep", "small"))
    assert torch.equal(first.get_parameter("target_embedding"), small.get_parameter("target_embedding"))
    assert not torch.equal(
        first.get_parameter("decoder.0.ffn.inner.weight"), small.get_parameter("decoder.0.ffn.inner.weight")
    )
    with pytest.raises(ConflictError, match=r"config\.init_from"):
        train.run(config(prepared, init_from={**wanted, "encoder_layers": [1]}), tmp_path / "small", device="cpu")
    with pytest.raises(ModelError, match=r"names layer 3, .*deep has layers 0 to 2"):
        train.run(config(prepared, init_from={**wanted, "encoder_layers": [3]}), tmp_path / "other", device="cpu")
    assert not (tmp_path / "other").exists()  # nothing is begun


def test_a_bare_name_leaves_no_mark_beside_the_models_digest(tmp_path: Path, prepared: Path) -> None:
    train.run(config(prepared), tmp_path / "first", device="cpu")
    train.run(config(prepared, init_from=tmp_path / "first"), tmp_path / "second", device="cpu")
    assert "init_from" not in read_manifest(tmp_path / "second").fingerprint["config"]
    train.run(config(prepared, init_from={"model": str(tmp_path / "first")}), tmp_path / "second", device="cpu")
    assert to_toml(config(prepared, init_from={"model": "m"})) == to_toml(config(prepared, init_from="m"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"objective": {"terms": []}}, r"objective\.terms: Tuple should have at least 1 item"),
        (
            {"objective": {"terms": [{"type": "mse"}]}},
            r"objective\.terms\.0: unknown objective 'mse', expected one of: nll",
        ),
        (
            {"objective": {"terms": [{"type": "nll", "weight": 0}]}},
            r"objective\.terms\.0\.weight: Input should be greater",
        ),
        ({"objective": {"terms": [{"type": "nll", "alpha": 1}]}}, r"objective\.terms\.0\.alpha: unknown key"),
        ({"objective": {"type": "nll", "weight": 2.0}}, r"objective\.weight: unknown key"),
        ({"objective": {"terms": [{"type": "nll"}], "alpha": 1}}, "alpha: belongs to a term"),
        ({"objective": {"terms": [{"type": "nll"}, {"type": "ctc"}]}}, "'ctc' does not fit model.arch 'transformer'"),
        ({"objective": {"terms": [{"type": "word_kd"}]}}, "word_kd needs `teachers` or `soft_targets`"),
        (
            {"objective": {"terms": [{"type": "word_kd", "teachers": [name]} for name in "ab"]}},
            "terms: different teachers, precisions or soft targets",
        ),
        ({"hooks": [{"type": "pruning"}]}, r"hooks\.0: unknown hook 'pruning', expected one of: "),
        ({"hooks": []}, "hooks: Tuple should have at least 1 item"),
        (
            {"init_from": {"model": "m", "encoder_layers": [-1]}},
            r"init_from\.encoder_layers\.0: Input should be greater",
        ),
        (
            {"init_from": {"model": "m", "freeze": ["heads"]}},
            r"init_from\.freeze\.0: Input should be 'embeddings', 'enc",
        ),
        ({"init_from": {"model": "m", "layers": [1]}}, r"init_from\.layers: unknown key"),
        ({"init_from": {"freeze": ["encoder"]}}, r"init_from\.model: missing"),
    ],
)
def test_mistakes_are_named_with_their_place(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(Path("p"), **more)


class Cli:
    """seqkd in a process of its own, where the plugin is installed."""

    def __init__(self, folder: Path, settings: dict[str, Any], lines: str) -> None:
        self.stage = folder / "train.toml"
        self.stage.write_text(to_toml(validate(TrainConfig, settings, "test")) + lines)
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{plugin.installed(folder / 'site')}",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, out: Path) -> subprocess.Popen[str]:
        words = ["train", "--config", str(self.stage), "--out", str(out), "--device", "cpu"]
        return subprocess.Popen(
            [sys.executable, "-m", "seqkd", *words], env=self.environment, stderr=subprocess.PIPE, text=True
        )

    def run(self, out: Path) -> str:
        process = self.start(out)
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        return said


@pytest.mark.slow
def test_a_hook_and_a_term_that_learns_survive_a_kill(tmp_path: Path, prepared: Path, teacher: Path) -> None:
    settings = {
        "prepared": prepared,
        "corpus": prepared / "train",
        "model": MODEL,
        "training": {**TRAINING, "max_updates": 24, "validate_every": 5, "accumulate": 2},
    }
    lines = f"""
[[hooks]]
type = "swaps"
updates = 3

[[hooks]]
type = "swaps"

[[objective.terms]]
type = "nll"

[[objective.terms]]
type = "states"
weight = 0.5
teachers = ["{teacher}"]
"""
    plain = to_toml(validate(TrainConfig, settings, "test"))
    cli = Cli(tmp_path, settings, "")
    start = plain.index("[objective]")
    stop = plain.find("\n[", start) + 1
    cli.stage.write_text(plain[:start] + (plain[stop:] if stop else "") + lines)
    cli.run(tmp_path / "whole")
    process = cli.start(tmp_path / "killed")
    while not (tmp_path / "killed" / "state" / "last.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed" / "manifest.json").exists()
    state = torch.load(tmp_path / "killed" / "state" / "last.pt", weights_only=True)
    assert len(state["hooks"][0]["states"]) == 2
    assert set(state["objective"]) == {"learned.states.projection.weight", "learned.states.projection.bias"}
    assert "continuing after update" in cli.run(tmp_path / "killed")
    assert model_digest(tmp_path / "killed") == model_digest(tmp_path / "whole")
    made_by = read_manifest(tmp_path / "whole").fingerprint
    assert made_by["config"]["hooks"] == [{"type": "swaps", "updates": 3}, {"type": "swaps"}]  # 2 is its default
    assert [term["type"] for term in made_by["config"]["objective"]["terms"]] == ["nll", "states"]
    assert not any("projection" in name for name in read_weights(tmp_path / "whole" / "model.safetensors"))

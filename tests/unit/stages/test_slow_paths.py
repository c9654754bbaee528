"""Stages say which path they took: the CPU kernels, or plain torch and NumPy, with the reason."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from seqkd.config.stages import DistillConfig, EvaluateConfig, SelectConfig
from seqkd.config.toml import to_toml, validate
from seqkd.corpus.manifest import read_manifest
from seqkd.kernels import bleu, decoding
from seqkd.metrics.results import read_result
from seqkd.stages.distill import distill
from seqkd.stages.evaluate import evaluate
from seqkd.stages.select import select
from seqkd.stages.train import train
from seqkd.tools.inspect import inspect
from tests.unit.stages.teachers import make_teacher, soft_config, student_config

ROOT = Path(__file__).parents[3]
UNFIT = "the CPU kernels do not support dim 32 with heads 4 (8 a head); nearest: dim 64 or heads 2"
NO_COMPILER = "no C++ compiler found"


def shown(folder: Path) -> str:
    text = io.StringIO()
    inspect(folder, console=Console(file=text, width=250))
    return text.getvalue()


def distill_config(prepared: Path, teacher: Path) -> DistillConfig:
    values: dict[str, Any] = {"models": [teacher], "corpus": prepared / "valid", "workers": 1}
    return validate(DistillConfig, {**values, "search": {"beam": 2, "nbest": 2}}, "test")


def evaluate_config(prepared: Path, model: Path) -> EvaluateConfig:
    values = {"name": "small", "model": model, "corpus": prepared / "test", "beams": [1, 2]}
    return validate(EvaluateConfig, {**values, "role": "teacher"}, "test")


def select_config(folders: Path, rule: str) -> SelectConfig:
    values = {"kbest": folders / "kbest", "gold": folders / "prepared" / "train", "prepared": folders / "prepared"}
    return validate(SelectConfig, {**values, "rule": rule}, "test")


def without_compiler(command: str, config: Any, folder: Path, *options: str) -> str:
    """Run a stage as on a machine that has no compiler, into `folder`; gives what it said."""
    file = folder.with_suffix(".toml")
    file.write_text(to_toml(config))
    words = [
        sys.executable,
        "-m",
        "seqkd",
        command,
        "--config",
        str(file),
        "--out",
        str(folder),
        "--device",
        "cpu",
        *options,
    ]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, "CXX": "/nonexistent"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_widths_that_the_kernels_do_not_fit_are_told_by_every_stage(
    tmp_path: Path, prepared: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = {"dim": 32, "heads": 4, "ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1, "max_positions": 64}
    train.run(student_config(prepared, {"type": "nll"}, model=model), tmp_path / "model", device="cpu")
    assert f"train: {UNFIT}; it trains and decodes in plain torch, more slowly\n" in capfd.readouterr().err
    assert read_manifest(tmp_path / "model").extra["slow_path"].startswith(UNFIT)
    text = shown(tmp_path / "model")
    assert "CPU kernels" in text
    assert text.count(UNFIT) == 2  # of the model, and of the path that its training took
    distill.run(distill_config(prepared, tmp_path / "model"), tmp_path / "kbest", device="cpu")
    assert read_manifest(tmp_path / "kbest").extra["slow_path"] == f"plain torch: {UNFIT}"
    assert f"plain torch: {UNFIT}" in shown(tmp_path / "kbest")
    evaluate.run(evaluate_config(prepared, tmp_path / "model"), tmp_path / "evaluation", device="cpu")
    assert read_manifest(tmp_path / "evaluation").extra["slow_path"] == f"plain torch: {UNFIT}"
    result = read_result(tmp_path / "evaluation")
    assert [one.engine for one in result.decodes.values()] == ["plain", "plain"]
    assert result.baseline is not None
    assert result.baseline.engine == "plain"
    assert "by the plain engine on" in capfd.readouterr().err


@pytest.mark.skipif(decoding.kernels() is None, reason="no C++ compiler here")
def test_nothing_is_noted_of_models_that_the_kernels_drive(tmp_path: Path, prepared: Path) -> None:
    teacher = make_teacher(tmp_path / "teacher", prepared / "vocab.model")
    distill.run(distill_config(prepared, teacher), tmp_path / "kbest", device="cpu")
    assert "slow_path" not in read_manifest(tmp_path / "kbest").extra
    evaluate.run(evaluate_config(prepared, teacher), tmp_path / "evaluation", device="cpu")
    assert "slow_path" not in read_manifest(tmp_path / "evaluation").extra
    result = read_result(tmp_path / "evaluation")
    assert [one.engine for one in result.decodes.values()] == ["cpu", "cpu"]
    assert "CPU kernels" not in shown(teacher)


@pytest.mark.slow
def test_a_machine_without_a_compiler_is_told_by_distill(tmp_path: Path, prepared: Path) -> None:
    teacher = make_teacher(tmp_path / "teacher", prepared / "vocab.model")
    said = without_compiler("distill", distill_config(prepared, teacher), tmp_path / "kbest")
    assert f"search: {NO_COMPILER}: '/nonexistent' (CXX) is not a program; decoding runs in plain torch" in said
    noted = read_manifest(tmp_path / "kbest").extra["slow_path"]
    assert noted == f"decoding runs in plain torch, several times slower: {NO_COMPILER}"
    assert noted in shown(tmp_path / "kbest")


@pytest.mark.slow
def test_a_machine_without_a_compiler_is_told_by_soft_targets(tmp_path: Path, prepared: Path) -> None:
    teacher = make_teacher(tmp_path / "teacher", prepared / "vocab.model")
    config = soft_config(prepared, teacher, corpus=prepared / "valid", precision="bf16", top_k=4)
    without_compiler("distill", config, tmp_path / "soft", "--soft-targets")
    noted = read_manifest(tmp_path / "soft").extra["slow_path"]
    assert noted.split("; ") == [
        f"attention runs in plain torch, more slowly: {NO_COMPILER}",
        f"bf16 training runs in plain torch, more slowly: {NO_COMPILER}",
    ]


@pytest.mark.slow
@pytest.mark.skipif(bleu.kernels() is None, reason="no C++ compiler here")
def test_a_slower_path_to_the_same_corpus_is_noted_and_leaves_its_digest(folders: Path) -> None:
    select.run(select_config(folders, "seqinter"), folders / "kernels", device="cpu")
    without_compiler("select", select_config(folders, "seqinter"), folders / "plain")
    fast, slow = read_manifest(folders / "kernels"), read_manifest(folders / "plain")
    reason = f"sentence BLEU runs in NumPy, more slowly: {NO_COMPILER}"
    assert slow.extra == {**fast.extra, "slow_path": reason}
    assert slow.digest() == fast.digest()
    without_compiler("select", select_config(folders, "seqkd"), folders / "none")
    assert "slow_path" not in read_manifest(folders / "none").extra

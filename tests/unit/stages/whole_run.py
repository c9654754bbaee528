"""A small run of every stage, with a model taken to fairseq and back, and each stage by its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from seqkd.config.select import FilterConfig
from seqkd.config.stages import DistillConfig, EvaluateConfig, PrepareConfig, ReportConfig, SearchConfig, SelectConfig
from seqkd.interop.fairseq import export_checkpoint, import_checkpoint
from seqkd.models.checkpoint import WEIGHTS, read_weights, write_weights
from seqkd.report import stage as report
from seqkd.stages.distill import distill, soft_targets
from seqkd.stages.evaluate import evaluate
from seqkd.stages.prepare import prepare
from seqkd.stages.select import select
from seqkd.stages.train import train
from tests.manifests import comparable
from tests.unit.stages.support import prepare_config
from tests.unit.stages.teachers import soft_config, student_config


def decode_config(root: Path, *, seed: int = 1) -> DistillConfig:
    search = SearchConfig(beam=2, nbest=2, sampling=seed != 1, seed=seed, max_length_extra=5)
    return DistillConfig(
        models=(root / "teacher",), corpus=root / "gold" / "train", search=search, workers=1, precision="float32"
    )


@cache
def _text(root: Path) -> PrepareConfig:
    (root / "text").mkdir()
    return prepare_config(root / "text")


def _prepare(root: Path, out: Path) -> None:
    prepare.run(_text(root), out)


def _train(root: Path, out: Path) -> None:
    config = student_config(
        root / "gold", {"type": "nll"}, training={"max_updates": 2, "validate_every": 2, "keep_state": True}
    )
    train.run(config, out, device="cpu")


def _distill(root: Path, out: Path) -> None:
    distill.run(decode_config(root), out, device="cpu")


def _select(root: Path, out: Path) -> None:
    config = SelectConfig(
        kbest=root / "kbest", gold=root / "gold" / "train", prepared=root / "gold", rule="seqkd",
        filters=FilterConfig.model_validate({"duplicates": True}),
    )  # fmt: skip
    select.run(config, out)


def _soft_targets(root: Path, out: Path) -> None:
    config = soft_config(root / "gold", root / "teacher", corpus=root / "distilled", top_k=4)
    soft_targets.run(config, out, device="cpu")


def _evaluate(root: Path, out: Path) -> None:
    config = EvaluateConfig(
        name="teacher", model=root / "teacher", role="student", corpus=root / "gold" / "test", trained_on="gold",
        beams=(1,), search=SearchConfig(max_length_ratio=0.5, max_length_extra=2), batch_tokens=200,
        precision="float32",
    )  # fmt: skip
    evaluate.run(config, out, device="cpu")


def _report(root: Path, out: Path) -> None:
    found = {
        "corpora": [{"name": "distilled", "path": root / "distilled"}],
        "distill": [{"name": "kbest", "path": root / "kbest"}],
        "models": [{"name": "teacher", "path": root / "teacher"}],
        "evaluations": [{"name": "teacher", "path": root / "evaluation"}],
    }
    report.run(ReportConfig.model_validate({"pipeline": "whole", "prepared": root / "gold", **found}), out)


def _export(root: Path, out: Path) -> None:
    export_checkpoint(root / "teacher", out)


def _import(root: Path, out: Path) -> None:
    theirs = root / "exported"
    import_checkpoint(
        theirs / "checkpoint.pt",
        out,
        dictionary=theirs / "dict.tgt.txt",
        sentencepiece=root / "gold" / "vocab.model",
    )


# In the order of a pipeline: the folder that each makes, and how.
STAGES: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "prepare": ("gold", _prepare),
    "train": ("teacher", _train),
    "distill": ("kbest", _distill),
    "select": ("distilled", _select),
    "soft_targets": ("soft", _soft_targets),
    "evaluate": ("evaluation", _evaluate),
    "report": ("report", _report),
    "export": ("exported", _export),
    "import": ("imported", _import),
}


def make_run(root: Path) -> Path:
    """Run them all."""
    for name, run in STAGES.values():
        run(root, root / name)
    return root


def result(folder: Path) -> dict[str, bytes]:
    """What a stage made that is the same in every run: shards, weights, vocabularies, manifests, lists, pages."""
    kinds = {".arrow", ".safetensors", ".model", ".tsv", ".txt", ".html", ".pt"}
    files = {
        str(path.relative_to(folder)): comparable(path)
        for path in sorted(folder.rglob("*"))
        if (path.suffix in kinds or path.name == "manifest.json") and "state" not in path.parts
    }
    assert "manifest.json" in files
    return files


def beyond_bf16(model: Path) -> None:
    """Give weights values that float32 holds and bf16 rounds to infinity; what they are multiplied with is tiny.

    In int8 products are exact, but keys are kept in bf16.
    """
    weights = read_weights(model / WEIGHTS)
    for norm in ("encoder.0.attention_norm", "encoder.0.ffn_norm"):
        weights[f"{norm}.weight"][0], weights[f"{norm}.bias"][0] = 0.0, 1e-30
    weights["encoder.0.ffn.inner.weight"][0, 0] = 3.4e38
    cross = "decoder.0.cross"
    weights[f"{cross}.query.weight"][0], weights[f"{cross}.query.bias"][0] = 0.0, 0.0
    weights[f"{cross}.key_value.bias"][0] = 3.4e38
    assert torch.isfinite(weights["encoder.0.ffn.inner.weight"]).all()
    write_weights(model / WEIGHTS, weights)

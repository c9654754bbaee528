"""A pipeline's folders with made-up results, as the report reads them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from seqkd.config.stages import ReportConfig
from seqkd.corpus.manifest import Manifest, build_fingerprint, write_manifest
from seqkd.corpus.writer import write_shard
from seqkd.metrics.results import Baseline, DecodeResult, EvaluationResult
from seqkd.metrics.significance import Significance
from seqkd.metrics.speed import Speed
from seqkd.report import stage as report

ROWS = 60
EVIL = "<script>alert('x')</script> & <img src=http://example.org/x>"
SIGNATURES = {"bleu": "nrefs:1|v", "chrf": "nrefs:1|c", "ter": "nrefs:1|t"}

# --- a pipeline's folders ------------------------------------------------------------------------------------------


def write_corpus(folder: Path, *, targets: list[str], rule: str = "", size: int = 25) -> None:
    folder.mkdir(parents=True)
    shards = []
    for index, start in enumerate(range(0, len(targets), size)):
        rows = range(start, min(start + size, len(targets)))
        columns = {
            "id": list(rows),
            "source": [f"Satz {row}" if row != 7 else EVIL for row in rows],
            "target": [targets[row] for row in rows],
            "source_ids": [[10 + row % 5, 20] for row in rows],
            "target_ids": [[30 + row % 5, 40, *range(50, 50 + len(targets[row].split()))] for row in rows],
        }
        shards.append(write_shard(folder, index, pa.table(columns)))
    extra = {"rule": rule, "share_equal_to_reference": 0.25} if rule else {}
    manifest = Manifest(kind="corpus", fingerprint=made_by(folder), rows=len(targets), shards=shards, extra=extra)
    write_manifest(folder, manifest)


def made_by(folder: Path) -> dict[str, Any]:
    return build_fingerprint("test", {"name": folder.name}, {})


def speed(rate: float, batch1: float) -> Speed:
    return Speed(
        sentences_per_second=rate,
        batch_tokens=4000,
        sentences=100,
        latency_ms=1000 / batch1,
        sentences_per_second_batch1=batch1,
        latency_sentences=50,
        deviation=0.02,
        agreed=True,
    )


BASELINE = Baseline(decode="5", speed=speed(30.0, 10.0))


def decode(bleu: float, rate: float, batch1: float = 50.0, **changes: Any) -> DecodeResult:
    result = DecodeResult(
        bleu=bleu,
        chrf=50.0,
        ter=40.0,
        bleu_accepted=None,
        valid=None,
        length_ratio=1.0,
        cut=0,
        speed=speed(rate, batch1),
        speedup=rate / 30.0,
        speedup_batch1=batch1 / 10.0,
    )
    return dataclasses.replace(result, **changes)


def evaluation(name: str, **changes: Any) -> EvaluationResult:
    result = EvaluationResult(
        name=name,
        role="student",
        arch="transformer",
        trained_on="gold",
        objective="nll",
        recipe="",
        parameters=1_000_000,
        rows=100,
        decodes={"1": decode(20.0, 100.0), "5": decode(21.5, 30.0)},
        quality="5",
        quick="1",
        parallel=False,
        perplexity=4.0,
        mode_probability=0.1,
        baseline=BASELINE,
        signatures=SIGNATURES,
        device="Abacus 3000, 1 thread",
        precision="float32",
    )
    return dataclasses.replace(result, **changes)


def parallel(name: str, value: float, **changes: Any) -> EvaluationResult:
    """A model that writes all positions at once."""
    result = evaluation(
        name,
        arch="nat",
        objective="nat",
        decodes={"nat": decode(value, 600.0, 120.0)},
        quality="nat",
        quick="nat",
        parallel=True,
        perplexity=None,
        mode_probability=None,
    )
    return dataclasses.replace(result, **changes)


def bleu(result: EvaluationResult, greedy: float) -> EvaluationResult:
    first = dataclasses.replace(result.decodes["1"], bleu=greedy)
    return dataclasses.replace(result, decodes=result.decodes | {"1": first})


def compared(result: EvaluationResult, p_value: float, baseline: str = "gold") -> EvaluationResult:
    """Compared with a baseline by BLEU, in all decodes."""
    found = Significance(
        difference=3.25,
        low=1.0,
        high=5.0,
        p_values={"bootstrap": 0.5, "randomization": p_value},
        samples={"bootstrap": 1000, "randomization": 10_000},
        seed=1,
    )
    decodes = {name: dataclasses.replace(one, significance={"bleu": found}) for name, one in result.decodes.items()}
    return dataclasses.replace(result, decodes=decodes, compared_with=baseline)


MODELS = (
    evaluation("teacher", role="teacher", parameters=4_000_000),
    evaluation("gold"),
    bleu(evaluation("small", trained_on="seqkd"), 23.25),
)
# Two kinds of student, each on gold and on distilled text.
FAMILIES = (
    *MODELS,
    parallel("nat-gold", 5.5),
    parallel("nat-seqkd", 17.75, trained_on="seqkd"),
)


def write_evaluation(folder: Path, result: EvaluationResult) -> None:
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(result.to_json())
    write_manifest(folder, Manifest(kind="evaluation", fingerprint=made_by(folder), rows=result.rows))


def write_root(tmp_path: Path) -> Path:
    gold = [f"sentence number {row}" for row in range(ROWS)]
    seqkd = [text if row % 2 else f"row {row}" for row, text in enumerate(gold)]
    seqkd[7] = EVIL
    write_corpus(tmp_path / "gold" / "train", targets=gold)
    write_corpus(tmp_path / "gold" / "test", targets=gold[:5])
    write_manifest(tmp_path / "gold", Manifest(kind="prepared", fingerprint=made_by(tmp_path)))
    write_corpus(tmp_path / "seqkd", targets=seqkd, rule="seqkd")
    (tmp_path / "kbest").mkdir()
    speed = {"sentences_per_second": 189.5, "seconds": 3.0, "device": "cpu"}
    (tmp_path / "kbest" / "speed.json").write_text(json.dumps(speed))
    extra = {"beam": 5, "nbest": 4, "device": "cpu", "precision": "float32"}
    counts = {"source longer than max_positions": 12}
    kbest = Manifest(kind="kbest", fingerprint=made_by(tmp_path / "kbest"), counts=counts, extra=extra)
    write_manifest(tmp_path / "kbest", kbest)
    for model in MODELS:
        write_evaluation(tmp_path / "evaluations" / model.name, model)
        (tmp_path / "models" / model.name).mkdir(parents=True)
    history = [{"update": 100 * n, "valid_nll": 5.0 / n, "valid_bleu": None, "train_loss": 4.0} for n in (1, 2, 3)]
    (tmp_path / "models" / "small" / "history.json").write_text(json.dumps(history))
    return tmp_path


def named(root: Path, *names: str) -> list[dict[str, Any]]:
    return [{"name": Path(name).name, "path": root / name} for name in names]


def full(root: Path) -> ReportConfig:
    names = [model.name for model in MODELS]
    return ReportConfig.model_validate(
        {
            "pipeline": "toy",
            "title": "A <b>bold</b> title",
            "prepared": root / "gold",
            "corpora": named(root, "seqkd"),
            "distill": named(root, "kbest"),
            "models": named(root, *(f"models/{name}" for name in names)),
            "evaluations": named(root, *(f"evaluations/{name}" for name in names)),
            "baselines": [("small", "gold")],
            "edges": [("gold", "teacher"), ("teacher", "k-best kbest"), ("k-best kbest", "corpus seqkd")],
            "samples": 4,
        }
    )


def everything(root: Path) -> ReportConfig:
    return full(root).model_copy(update={"samples": ROWS})


def bare(root: Path) -> ReportConfig:
    return ReportConfig.model_validate({"pipeline": "toy", "prepared": root / "gold"})


def make(config: ReportConfig, out: Path) -> tuple[str, dict[str, Any]]:
    report.run(config, out)
    return (out / "report.html").read_text(), json.loads((out / "report.json").read_text())

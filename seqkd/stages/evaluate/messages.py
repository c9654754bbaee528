"""What `evaluate` says about its results."""

from __future__ import annotations

from pathlib import Path

from seqkd.config.stages import EvaluateConfig
from seqkd.corpus.manifest import read_manifest
from seqkd.metrics.registry import METRICS
from seqkd.metrics.results import DecodeResult, EvaluationResult
from seqkd.metrics.speed import TOLERANCE
from seqkd.models.protocol import SOURCE_TOO_LONG
from seqkd.progress import say
from seqkd.stages.evaluate.comparing import BaselineOutputs
from seqkd.stages.evaluate.provenance import OUTPUTS
from seqkd.stages.evaluate.references import format_model


def say_results(config: EvaluateConfig, result: EvaluationResult, rival: BaselineOutputs | None) -> None:
    """Say the quality and the speed of each decode, and the parts of the evaluation that are missing or unreliable."""
    for name, found in result.decodes.items():
        say(
            f"evaluate: {format_model(config)}, {'beam ' * (not result.parallel)}{name}: "
            f"{_summarize(found)} on {result.device}"
        )
    _say_unsettled(result)
    if rival is not None and result.rows < 2:
        say(
            f"evaluate: {format_model(config)} is not compared with {rival.name}: the test text "
            "has one row, and significance "
            "needs at least two"
        )
    if result.too_long:
        say(
            f"evaluate: {format_model(config)} left {result.too_long:,} of {result.rows:,} "
            f"outputs empty: {SOURCE_TOO_LONG}"
        )


def describe_uncompared(out: Path, rival: BaselineOutputs | None) -> str:
    """Return a note that a finished folder, made before there was a baseline, has no comparison with it."""
    if rival is None or OUTPUTS in read_manifest(out).fingerprint["inputs"]:
        return ""
    return f", without a comparison with {rival.name}; --overwrite makes one"


def _say_unsettled(result: EvaluationResult) -> None:
    """Say which decodes have no reliable speed, and the load of the machine."""
    speeds = {name: found.speed for name, found in result.decodes.items() if found.speed is not None}
    if result.baseline is not None:
        speeds["the baseline"] = result.baseline.speed
    unsettled = [name for name, speed in speeds.items() if not speed.agreed]
    if unsettled:
        named = ", ".join(unsettled)
        say(
            f"evaluate: repeated timings of {result.name} differ by more than {TOLERANCE:.0%} ({named}), with "
            f"{result.load}; evaluate again on an idle machine before you use the speeds"
        )


def _summarize(found: DecodeResult) -> str:
    values = {name: found.get_value(name) for name in ("bleu", "chrf", "ter", *found.further)}
    parts = [f"{METRICS.get(name).label} {value:.2f}" for name, value in values.items() if value is not None]
    parts += [] if found.valid is None else [f"{found.valid:.1%} valid"]
    faster = "" if found.speedup is None else f" ({found.speedup:.2f} times the baseline)"
    parts += [] if found.speed is None else [f"{found.speed.sentences_per_second:,.1f} sentences/s{faster}"]
    return f"{', '.join(parts)} by the {found.engine} engine"

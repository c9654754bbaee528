"""The quality of a decode: its scores, and whether they differ from the baseline's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from seqkd.errors import InputError
from seqkd.metrics.registry import METRICS, Metric, Outputs
from seqkd.metrics.significance import Significance, run_both_tests


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """The metrics of a decode, by name.

    Attributes:
        values: The scores.
        signatures: The signatures of metrics that have one.
        significance: Differences from the baseline for metrics that can be tested; empty without baseline.
    """

    values: dict[str, float]
    signatures: dict[str, str]
    significance: dict[str, Significance]


def check_accepted(names: Sequence[str], accepted: Path) -> None:
    """Refuse metrics that need accepted translations if there are none.

    Args:
        names: Metrics that the stage file asks for.
        accepted: The file of accepted translations, which may not exist.

    Raises:
        InputError: Such a metric is among them.
    """
    needing = [name for name in names if "accepted" in METRICS.get(name).needs]
    if needing and not accepted.is_file():
        raise InputError(
            f"{', '.join(needing)}: needs accepted translations, and the test text has none",
            where="metrics",
            expected=str(accepted),
            hint="prepare the test text with `accepted`, or leave the metric out",
        )


def measure_quality(outputs: Outputs, metrics: Sequence[Metric], baseline: Sequence[str] | None) -> Quality:
    """Measure outputs.

    Args:
        outputs: The outputs of the model.
        metrics: The metrics; those that do not fit the outputs are left out.
        baseline: The outputs of the baseline, at least two; None for no comparison.
    """
    fitting = [metric for metric in metrics if metric.fits(outputs)]
    statistics = {
        metric.name: metric.compute_statistics(outputs) for metric in fitting if metric.statistics is not None
    }
    scores = {metric.name: metric.score(outputs) for metric in fitting if metric.name not in statistics}
    scores |= {name: found.score for name, found in statistics.items()}
    significance = {}
    if baseline is not None:
        theirs = replace(outputs, hypotheses=baseline)
        significance = {
            metric.name: run_both_tests(metric.compute_statistics(theirs), statistics[metric.name])
            for metric in fitting
            if metric.name in statistics
        }
    return Quality(
        values={metric.name: scores[metric.name].value for metric in fitting},
        signatures={metric.name: scores[metric.name].signature for metric in fitting if scores[metric.name].signature},
        significance=significance,
    )

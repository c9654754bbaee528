"""A metric: the share of outputs that equal their reference."""

from __future__ import annotations

from seqkd.metrics.corpus import MetricScore
from seqkd.metrics.registry import Metric, Outputs


def exact(outputs: Outputs) -> MetricScore:
    """Count the outputs that equal their reference; the value is a share, 0 to 1."""
    equal = sum(map(str.__eq__, outputs.hypotheses, outputs.references))
    return MetricScore(value=equal / len(outputs.hypotheses), signature="exact|version:1")


RECORD = Metric(
    name="exact",
    help="The share of outputs that equal their reference",
    label="Exact matches",
    unit="%",
    direction="higher",
    measure="seqkd_plugins.metric:exact",
    digits=1,
    percent=True,
)

"""Names of metrics in stage and pipeline files."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from seqkd.metrics.registry import METRICS, NLL, list_validating, main_metric


def _check_validating(name: str) -> str:
    record = METRICS.find(name)
    if name != NLL and (record is None or not record.validates):
        raise ValueError(
            f"training cannot measure {name!r} at validations, expected one of: {', '.join(list_validating())}"
        )
    return name


def _check_output_metric(name: str) -> str:
    record = METRICS.find(name)
    if record is None or not record.measures_outputs:
        known = ", ".join(record.name for record in METRICS.all() if record.measures_outputs)
        raise ValueError(f"no metric of outputs is called {name!r}, expected one of: {known}")
    return name


ValidatingMetric = Annotated[str, AfterValidator(_check_validating)]


def _check_comparable(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if names is not None and main_metric(names) is None:
        raise ValueError(
            f"higher is better for none of {', '.join(names)}; add a metric by which the report can compare models"
        )
    return names


EvaluationMetrics = Annotated[
    tuple[Annotated[str, AfterValidator(_check_output_metric)], ...] | None,
    Field(min_length=1, description="metrics of outputs to measure; if left out, all of seqkd's own"),
    AfterValidator(_check_comparable),
]

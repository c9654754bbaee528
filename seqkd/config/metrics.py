"""Names of metrics in stage and pipeline files."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from seqkd.metrics.registry import METRICS, NLL, validating


def _validating(name: str) -> str:
    record = METRICS.find(name)
    if name != NLL and (record is None or not record.validates):
        raise ValueError(f"training cannot measure {name!r} at validations, expected one of: {', '.join(validating())}")
    return name


def _further(name: str) -> str:
    record = METRICS.find(name)
    if record is None or not record.of_outputs:
        known = ", ".join(record.name for record in METRICS.all() if record.of_outputs)
        raise ValueError(f"no metric of outputs is called {name!r}, expected one of: {known}")
    return name


ValidatingMetric = Annotated[str, AfterValidator(_validating)]
FurtherMetrics = Annotated[
    tuple[Annotated[str, AfterValidator(_further)], ...] | None,
    Field(min_length=1, description="metrics of outputs to measure besides seqkd's own, e.g. one of another package"),
]

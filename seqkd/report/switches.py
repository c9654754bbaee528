"""The table of selective distillation in the report."""

from __future__ import annotations

from collections.abc import Sequence

from seqkd.metrics.registry import METRICS
from seqkd.report.tables import Cell, Head, Table, format_number, format_text
from seqkd.report.timelines import Timeline


def switches_table(timelines: Sequence[Timeline]) -> Table:
    """Make a table with a row for each group of each model."""
    rows = []
    for line in timelines:
        metric = METRICS.find(line.metric)
        on = [
            f"{period.first + 1:,}\N{EN DASH}{period.last:,}" + (f" ({period.share:.2g})" if period.share < 1 else "")
            for period in line.periods
            if period.share > 0
        ]
        rows.append(
            (
                Cell(text=line.model, sort=line.model),
                format_text(line.group),
                format_text(line.metric if metric is None else metric.label),
                format_number(line.teacher, 2),
                format_text(", ".join(on)),
                format_number(100.0 * line.mean, 0),
            )
        )
    heads = (
        Head(name="Model", number=False),
        Head(name="Data set", number=False),
        Head(name="Metric", number=False),
        Head(name="Teacher", unit="on the validation text"),
        Head(name="Distilled", unit="updates, with a share below 1 in brackets", number=False),
        Head(name="Mean share", unit="% of the updates"),
    )
    return Table(heads=heads, rows=tuple(rows))

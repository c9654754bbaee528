"""The report's table of several test sets."""

from __future__ import annotations

from collections.abc import Sequence

from seqkd.config.prepare import OWN_TEST
from seqkd.metrics.registry import METRICS
from seqkd.report.plots import colour
from seqkd.report.pooling import Pooled
from seqkd.report.tables import Cell, Head, Table, highest, role_of, with_spreads

SHOWN = ("bleu", "chrf")  # of each test set


def tests_table(pooled: Pooled) -> Table:
    """A row for each model, and columns for each test set: quality at the largest beam or last decode."""
    contents = pooled.contents
    models = contents.models
    spreads = {OWN_TEST: pooled.deviations, **pooled.tests}
    heads = [Head(name="Model", number=False)]
    columns: list[Sequence[Cell]] = [
        [
            Cell(
                text=model.name,
                sort=model.name,
                series=colour(index),
                note=role_of(model, pooled.runs.get(model.name, ())),
            )
            for index, model in enumerate(models)
        ]
    ]
    for metric in (METRICS.own[name] for name in SHOWN):
        for test in (OWN_TEST, *contents.tests):
            found = [contents.results(model).get(test) for model in models]
            values = [None if one is None else one.decodes[one.quality].measured(metric.name) for one in found]
            beside = [spreads.get(test, {}).get(model.name) for model in models]
            deviations = [None if one is None else one.decodes[one.quality].measured(metric.name) for one in beside]
            column = Head(name=metric.label, unit=test), highest(values, metric.digits)
            head, cells = with_spreads(column, metric.name, deviations)
            heads.append(head)
            columns.append(cells)
    return Table(heads=tuple(heads), rows=tuple(zip(*columns, strict=True)))

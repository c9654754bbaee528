"""The report's table of several test sets."""

from __future__ import annotations

from seqkd.config.prepare import OWN_TEST
from seqkd.metrics.registry import METRICS
from seqkd.report.contents import Contents
from seqkd.report.plots import colour
from seqkd.report.tables import Cell, Head, Table, highest

SHOWN = ("bleu", "chrf")  # of each test set


def tests_table(contents: Contents) -> Table:
    """A row for each model, and columns for each test set: quality at the largest beam or last decode."""
    models = contents.models
    heads = [Head(name="Model", number=False)]
    columns = [
        [
            Cell(text=model.name, sort=model.name, series=colour(index), note=model.role)
            for index, model in enumerate(models)
        ]
    ]
    for metric in (METRICS.own[name] for name in SHOWN):
        for test in (OWN_TEST, *contents.tests):
            found = [contents.results(model).get(test) for model in models]
            values = [None if one is None else one.decodes[one.quality].measured(metric.name) for one in found]
            heads.append(Head(name=metric.label, unit=test))
            columns.append(highest(values, metric.digits))
    return Table(heads=tuple(heads), rows=tuple(zip(*columns, strict=True)))

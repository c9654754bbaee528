"""The table of several test sets in the report."""

from __future__ import annotations

from collections.abc import Sequence

from seqkd.config.prepare import OWN_TEST
from seqkd.metrics.registry import METRICS
from seqkd.metrics.results import EvaluationResult
from seqkd.report.contents import Contents
from seqkd.report.plots import pick_colour
from seqkd.report.pooling import PooledReport
from seqkd.report.tables import Cell, Head, Table, add_spreads, describe_role, mark_highest

SHOWN = ("bleu", "chrf")  # the metrics that the table shows for each test set


def tests_table(pooled: PooledReport) -> Table:
    """Make a table with a row for each model and columns for each test set, at the largest beam or last decode.

    Models of other data sets, which have been evaluated on one of the further test sets alone, are the last rows.
    """
    contents = pooled.contents
    models = [*contents.models, *_list_others(contents)]
    own = {model.name for model in contents.models}
    spreads = {OWN_TEST: pooled.deviations, **pooled.tests}
    heads = [Head(name="Model", number=False)]
    columns: list[Sequence[Cell]] = [
        [
            Cell(
                text=model.name,
                sort=model.name,
                series=pick_colour(index) if model.name in own else "",
                note=describe_role(model, pooled.runs.get(model.name, ())),
            )
            for index, model in enumerate(models)
        ]
    ]
    for metric in (METRICS.own[name] for name in SHOWN):
        for test in (OWN_TEST, *contents.tests):
            found = [_find_result(contents, model, test) for model in models]
            values = [None if one is None else one.decodes[one.quality].get_value(metric.name) for one in found]
            beside = [spreads.get(test, {}).get(model.name) for model in models]
            deviations = [None if one is None else one.decodes[one.quality].get_value(metric.name) for one in beside]
            column = Head(name=metric.label, unit=test), mark_highest(values, metric.digits)
            head, cells = add_spreads(column, metric.name, deviations)
            heads.append(head)
            columns.append(cells)
    return Table(heads=tuple(heads), rows=tuple(zip(*columns, strict=True)))


def _list_others(contents: Contents) -> list[EvaluationResult]:
    """List the models that are evaluated on further test sets alone, which are those of other data sets."""
    own = {model.name for model in contents.models}
    others = {name: result for found in contents.tests.values() for name, result in found.items() if name not in own}
    return list(others.values())


def _find_result(contents: Contents, model: EvaluationResult, test: str) -> EvaluationResult | None:
    """Find the evaluation of a model on a test set."""
    if test == OWN_TEST:
        return next((own for own in contents.models if own.name == model.name), None)
    return contents.tests[test].get(model.name)

"""A comparison as text, and as a page like that of the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console
from rich.table import Table as TextTable
from rich.text import Text

from seqkd.config.prepare import OWN_TEST
from seqkd.metrics.registry import METRICS
from seqkd.metrics.significance import Test
from seqkd.report import plots
from seqkd.report.contents import CurvePoint, SampleText
from seqkd.report.findings import MINUS
from seqkd.report.gather import mark_differences as mark_differences
from seqkd.report.tables import Cell, Head, Table, format_number, format_text
from seqkd.tools.compare import Measurement, Pair, RowChange, RunComparison

_NAMES = {
    "sentences_per_second": ("sentences/s, batches", 1),
    "latency_ms": ("ms, sentence alone", 1),
    "speedup": ("speed-up, batches", 2),
    "speedup_batch1": ("speed-up, alone", 2),
    "parameters": ("parameters, millions", 3),
}
CAPTION = (
    "Differences are B minus A. The interval is the 95 % confidence interval of the difference by bootstrap resampling "
    "of the test rows. The p-values are those of paired bootstrap resampling (one-sided, as sacrebleu computes it) and "
    "of paired approximate randomisation (two-sided). For models with several seeds, the mean is that of the "
    "differences seed by seed, with their standard deviation."
)


def show(compared: RunComparison, console: Console) -> None:
    """Print the comparison as text."""
    console.print(Text(f"A: {compared.a}\nB: {compared.b}"))
    console.print()
    settings, scores = settings_table(compared), scores_table(compared)
    if settings.rows:
        _print(console, settings, "Settings that differ")
    _print(console, scores, "Scores")
    for pair in compared.pairs if compared.chosen else ():
        if any(pair.curves):
            _print(console, curves_table(pair), "Validation")
        for format_title, rows in (("Largest gains", pair.gains), ("Largest losses", pair.losses)):
            if rows:
                console.print(Text(f"{format_title} of B, by chrF of the row, {pair.decode}"))
                for row in rows:
                    console.print(Text(_format_row(row)))
                console.print()
    for run, names in compared.left.items():
        if names:
            console.print(Text(f"only in {run}: {', '.join(names)}"))


def render(compared: RunComparison) -> str:
    """Render the page. All text is escaped; equal comparisons give equal pages."""
    environment = Environment(
        loader=PackageLoader("seqkd.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    pair = compared.pairs[0] if compared.chosen else None
    settings = settings_table(compared)
    return environment.get_template("compare.html").render(
        compared=compared,
        pair=pair,
        title=format_title(compared),
        settings=settings if settings.rows else None,
        scores=scores_table(compared),
        caption=CAPTION,
        curves=[] if pair is None else _draw_curves(pair),
        legends=[(name, plots.pick_colour(index)) for index, name in enumerate(_list_names(pair))] if pair else [],
        changed=[
            (f"Largest {what} of B", [(_format_head(row), *_mark_texts(row)) for row in rows])
            for what, rows in (("gains", pair.gains), ("losses", pair.losses))
            if rows
        ]
        if pair
        else [],
    )


def format_title(compared: RunComparison) -> str:
    """Return the names of the models or runs in one line."""
    if compared.chosen:
        (pair,) = compared.pairs
        return ", ".join(_list_names(pair))
    return f"{compared.a} and {compared.b}"


# --- tables -------------------------------------------------------------------------------------------------------


def settings_table(compared: RunComparison) -> Table:
    """Make a table with a row for each setting that differs."""
    rows = [(pair, setting) for pair in compared.pairs for setting in pair.settings]
    columns: list[tuple[Head, Sequence[Cell]]] = []
    if not compared.chosen:
        columns.append((Head(name="Model", number=False), [format_text(pair.a) for pair, _ in rows]))
    columns += [
        (Head(name="Setting", number=False), [format_text(setting.name) for _, setting in rows]),
        (Head(name="A", number=False), [format_text(_format_value(setting.a)) for _, setting in rows]),
        (Head(name="B", number=False), [format_text(_format_value(setting.b)) for _, setting in rows]),
    ]
    return _make_table(columns)


def scores_table(compared: RunComparison) -> Table:
    """Make a table with a row for each number of two models."""
    rows = [(pair, line) for pair in compared.pairs for line in pair.measured]
    lines = [line for _, line in rows]
    columns: list[tuple[Head, Sequence[Cell]]] = []
    if not compared.chosen:
        columns.append((Head(name="Model", number=False), [format_text(pair.a) for pair, _ in rows]))
    if any(line.test != OWN_TEST for line in lines):
        columns.append((Head(name="Test set", number=False), [format_text(line.test) for line in lines]))
    columns += [
        (Head(name="Decode", number=False), [format_text(line.decode) for line in lines]),
        (Head(name="Measure", number=False), [format_text(_format_name(line)) for line in lines]),
    ]
    if any(line.seed for line in lines):
        columns.append((Head(name="Seed", number=False), [format_text(line.seed) for line in lines]))
    columns += [
        (Head(name="A"), [_format_number(line, line.a) for line in lines]),
        (Head(name="B"), [_format_number(line, line.b) for line in lines]),
        (Head(name="Difference"), [_format_difference(line) for line in lines]),
    ]
    if any(line.deviation is not None for line in lines):
        columns.append(
            (Head(name="Deviation", unit="over seeds"), [_format_number(line, line.deviation) for line in lines])
        )
    columns += [
        (Head(name="Interval", unit="95 %", number=False), [_format_interval(line) for line in lines]),
        (Head(name="p", unit="bootstrap"), [_format_p_value(line, "bootstrap") for line in lines]),
        (Head(name="p", unit="randomisation"), [_format_p_value(line, "randomization") for line in lines]),
    ]
    return _make_table(columns)


def curves_table(pair: Pair) -> Table:
    """Make a table of the validations of both models by update."""
    sides = [{point.update: point for point in points} for points in pair.curves]
    updates = sorted({update for side in sides for update in side})
    heads = [Head(name="Update")]
    columns: list[list[Cell]] = [[format_number(update, 0) for update in updates]]
    for what, label, digits in (("valid_nll", "NLL", 4), ("valid_bleu", "BLEU", 2)):
        for side, name in zip(sides, "AB", strict=True):
            heads.append(Head(name=f"{label} {name}"))
            columns.append([format_number(_get_value(side, update, what), digits) for update in updates])
    return _make_table(list(zip(heads, columns, strict=True)))


def _make_table(columns: Sequence[tuple[Head, Sequence[Cell]]]) -> Table:
    rows = tuple(zip(*(cells for _, cells in columns), strict=True))
    return Table(heads=tuple(head for head, _ in columns), rows=rows)


def _get_value(points: dict[int, CurvePoint], update: int, what: str) -> float | None:
    value: float | None = getattr(points.get(update), what, None)
    return value


def _format_value(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _format_name(line: Measurement) -> str:
    if line.metric in _NAMES:
        return _NAMES[line.metric][0]
    metric = METRICS.find(line.metric)
    return line.metric if metric is None else metric.label + (", %" if metric.percent else "")


def _scaled(line: Measurement, value: float) -> tuple[float, int]:
    """A value as it is shown, and its digits."""
    if line.metric in _NAMES:
        return value / 1e6 if line.metric == "parameters" else value, _NAMES[line.metric][1]
    metric = METRICS.find(line.metric)
    if metric is None:
        return value, 2
    return value * (100.0 if metric.percent else 1.0), metric.digits


def _format_number(line: Measurement, value: float | None) -> Cell:
    return format_number(None, 0) if value is None else format_number(*_scaled(line, value))


def _format_signed(line: Measurement, value: float) -> str:
    scaled, digits = _scaled(line, value)
    return f"{round(scaled, digits) + 0.0:+,.{digits}f}".replace("-", MINUS)


def _format_difference(line: Measurement) -> Cell:
    if line.difference is None:
        return format_number(None, 0)
    best = line.significance is not None and line.significance.significant
    return Cell(text=_format_signed(line, line.difference), sort=repr(line.difference), best=best)


def _format_p_value(line: Measurement, test: Test) -> Cell:
    return format_number(None if line.significance is None else line.significance.p_values[test], 4)


def _format_interval(line: Measurement) -> Cell:
    found = line.significance
    if found is None:
        return format_text("")
    return Cell(text=f"{_format_signed(line, found.low)} to {_format_signed(line, found.high)}", sort="")


# --- text and page ------------------------------------------------------------------------------------------------


def _print(console: Console, table: Table, format_title: str) -> None:
    shown = TextTable(title=format_title, title_justify="left")
    for head in table.heads:
        shown.add_column(
            f"{head.name}, {head.unit}" if head.unit else head.name,
            justify="right" if head.number else "left",
            overflow="fold",
        )
    for row in table.rows:
        shown.add_row(*(Text(cell.text + "*" * cell.best) for cell in row))
    console.print(shown)
    if any(cell.best for row in table.rows for cell in row):
        console.print("* p < 0.05 by paired approximate randomisation")
    console.print()


def _format_head(row: RowChange) -> str:
    change = f"{round(row.difference, 1) + 0.0:+.1f}".replace("-", MINUS)
    return f"row {row.id:,}: {row.score_a:.1f} to {row.score_b:.1f} chrF, {change}"


def _format_row(row: RowChange) -> str:
    lines = [("source", row.source), ("reference", row.reference), ("A", row.a), ("B", row.b)]
    return "\n".join([f"  {_format_head(row)}", *(f"    {name:9} {value}" for name, value in lines)])


def _mark_texts(row: RowChange) -> tuple[Any, ...]:
    """Return source, reference and both outputs, with runs of words marked that differ from the reference."""
    return (
        row.source,
        row.reference,
        [
            SampleText(name=name, words=mark_differences(row.reference, text))
            for name, text in (("A", row.a), ("B", row.b))
        ],
    )


def _list_names(pair: Pair) -> list[str]:
    return [f"A: {pair.a}", f"B: {pair.b}"]


def _draw_curves(pair: Pair) -> list[tuple[str, object, str]]:
    names = _list_names(pair)
    series = dict(zip(names, pair.curves, strict=True))
    drawn = [
        ("Validation loss", plots.plot_curves(series, names, {}, what="nll"), "Nats per token; lower is better."),
        (
            "Validation BLEU",
            plots.plot_curves(series, names, {}, what="bleu"),
            "Greedy outputs on the validation text.",
        ),
    ]
    return [plot for plot in drawn if plot[1]]

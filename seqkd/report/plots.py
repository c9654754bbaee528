"""The report's plots, as SVG to be set into the page.

Colours are CSS variables and letters are the page's own, so that a plot follows the page from light to dark. Series are
named in the page's legend; `colour` gives both the same.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from seqkd.metrics.lengths import LengthHistogram
from seqkd.metrics.results import DecodeResult, EvaluationResult
from seqkd.report.contents import CurvePoint
from seqkd.report.twins import GOLD, Measure, Twins, find_twins, find_unit

Deviations: TypeAlias = Mapping[
    str, EvaluationResult
]  # evaluations that hold standard deviations in place of values, by name
NONE: Deviations = {}

COLOURS = 8  # --series-0 to --series-7 in page.css
DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)))  # for series whose colour is used again

STEPS = (1, 2, 5, 10)  # round numbers on the axes
LABEL_SIZE = 9.0  # size of the name of a point; letters are about LETTER times as wide
LETTER = 0.56

# Matplotlib needs real colours. These stand for the CSS variables of the page, which replace them in the SVG.
INK, MUTED, LINE, _PAPER = "#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04"
_SERIES = [f"#0b0b0{index}" for index in range(COLOURS)]
_VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", _PAPER: "--card"} | {
    colour: f"--series-{index}" for index, colour in enumerate(_SERIES)
}
_SIZE = (4.4, 3.1)  # inches of 72 units, about the width of a phone, so that letters keep their size there


def pick_colour(index: int) -> str:
    """Return the CSS variable of the colour of a series. The first colour (teacher, gold corpus) is not used again."""
    return f"--series-{_find_colour(index)}"


def _find_colour(index: int) -> int:
    return index if index == 0 else 1 + (index - 1) % (COLOURS - 1)


def find_shade(index: int) -> str:
    """Return the colour of a series for Matplotlib."""
    return _SERIES[_find_colour(index)]


def find_turn(index: int) -> int:
    """Return how often the colours have been used before."""
    return max(index - 1, 0) // (COLOURS - 1)


def plot_quality_by_size(models: Sequence[EvaluationResult], deviations: Deviations = NONE) -> Markup:
    """Plot quality by parameters, hollow at the smallest beam or first decode and full at the largest or last.

    Args:
        models: A model's place gives its colour.
        deviations: For models that are the mean of several seeds their standard deviations, drawn as error bars.
    """
    figure, axes = make_figure("parameters (millions)", find_unit(models))
    for index, model in enumerate(models):
        x = model.parameters / 1e6
        low, high = (model.decodes[name].score for name in (model.quick, model.quality))
        axes.plot([x, x], [low, high], color=find_shade(index), linewidth=1.2)
        for name, bleu, full in ((model.quick, low, False), (model.quality, high, True)):
            _draw_point(axes, x, bleu, find_shade(index), marker="oDsv"[find_turn(index) % 4], full=full)
            if model.name in deviations:
                _draw_error_bar(axes, x, bleu, deviations[model.name].decodes[name].score, find_shade(index))
    _set_logarithmic(axes, [model.parameters / 1e6 for model in models])
    return write_svg(figure, axes, "size")


def plot_quality_by_speedup(
    models: Sequence[EvaluationResult], deviations: Deviations = NONE, *, batch1: bool
) -> Markup:
    """Plot quality over speed-up; empty if no model was timed in turn with a teacher.

    Circles go left to right, diamonds write all positions at once; students of gold text are hollow. A thin line joins
    a model's decodes. Twins share a label, which stands at the best of them.

    Args:
        models: A model's place gives its colour.
        deviations: As for `quality_by_size`.
        batch1: Speed-ups where sentences are decoded one at a time, not those in batches.
    """
    what = "one sentence at a time" if batch1 else "in batches"
    figure, axes = make_figure(f"times the teacher's speed, {what}", find_unit(models))
    labels: dict[str, tuple[float, float]] = {}
    points: list[tuple[float, float]] = []
    twins = {model.name: group.label for group in find_twins(models) for model in group.members}
    for index, model in enumerate(models):
        way = [
            (speedup, result.score)
            for result in model.decodes.values()
            if (speedup := _get_speedup(result, batch1=batch1)) is not None
        ]
        if not way:
            continue
        shade, marker = find_shade(index), "D" if model.parallel else "o"
        axes.plot(*zip(*way, strict=True), color=shade, linewidth=0.9, zorder=2)
        for x, y in way:
            _draw_point(axes, x, y, shade, marker=marker, full=model.role == "teacher" or model.trained_on != GOLD)
        if model.name in deviations:
            timed = [name for name, result in model.decodes.items() if _get_speedup(result, batch1=batch1) is not None]
            for name, (x, y) in zip(timed, way, strict=True):
                _draw_error_bar(axes, x, y, deviations[model.name].decodes[name].score, shade)
        points += way
        label, best = twins.get(model.name, model.name), max(way, key=lambda point: point[1])
        labels[label] = max(labels.get(label, best), best, key=lambda point: point[1])
    if not points:
        return Markup("")
    _set_logarithmic(axes, [x for x, _ in points])
    _place_labels(figure, axes, labels, points)
    return write_svg(figure, axes, "speedup-batch1" if batch1 else "speedup")


def plot_scores(
    points: Mapping[str, tuple[float, float]],
    places: Mapping[str, int],
    *,
    hollow: Collection[str],
    lines: Sequence[Sequence[str]],
    x: str,
    y: str,
) -> Markup:
    """Plot a labelled point for each model; empty without points.

    Args:
        points: Both scores of each model, by name.
        places: The place of each model among all of them, which gives its colour.
        hollow: The names of models with a hollow mark.
        lines: Models that a line joins, in order.
        x: The label of the first score.
        y: The label of the second score.
    """
    if not points:
        return Markup("")
    figure, axes = make_figure(x, y)
    for line in lines:
        if len(line) > 1:
            axes.plot(*zip(*(points[name] for name in line), strict=True), color=MUTED, linewidth=0.9, zorder=2)
    for name, point in points.items():
        _draw_point(axes, *point, find_shade(places[name]), marker="o", full=name not in hollow)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    _place_labels(figure, axes, points, list(points.values()))
    return write_svg(figure, axes, "adaptation")


def plot_gold_and_distilled(
    twins: Sequence[Twins], measure: Measure, corpora: Sequence[str], deviations: Deviations = NONE
) -> Markup:
    """Plot bars for each group of twins, hollow for the student of gold text and full for students of other text.

    Long names are shortened, so that they leave room for the bars; the page's tables and legends have them in full.

    Args:
        twins: Top to bottom.
        measure: What the bars' lengths are.
        corpora: A corpus's place gives its colour.
        deviations: As for `quality_by_size`.
    """
    bars = sum(len(group.members) for group in twins)
    figure, axes = make_figure(measure.name, "", height=0.62 + 0.21 * bars + 0.16 * len(twins))
    top, ticks = 0.0, []
    # The axis also exists if all bars have length zero.
    longest = max(1.0, *(measure(model) for group in twins for model in group.members))
    for group in twins:
        for place, model in enumerate(group.members):
            shade = find_shade(corpora.index(model.trained_on) if model.trained_on in corpora else 0)
            hollow, y, value = model is group.gold, top - place, measure(model)
            axes.barh(y, value, height=0.72, color="none" if hollow else shade, edgecolor=shade, linewidth=1.4)
            text = f"{value:.1f}  {_shorten(model.trained_on, 16)}"
            beside = measure(deviations[model.name]) if model.name in deviations else 0.0
            if model.name in deviations:
                axes.errorbar([value], [y], xerr=[beside], fmt="none", ecolor=INK, elinewidth=1.0, capsize=3)
            axes.text(value + beside + 0.015 * longest, y, text, color=INK, va="center", fontsize=9)
        ticks.append((top - (len(group.members) - 1) / 2, _shorten(group.label, 24)))
        top -= len(group.members) + 0.75
    axes.set_yticks([y for y, _ in ticks], [label for _, label in ticks])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(visible=False)
    axes.set_xlim(0.0, 1.3 * longest)
    axes.set_ylim(top + 0.75 + 0.4, 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    return write_svg(figure, axes, "twins", numbers=False)


def plot_rounds(teacher: EvaluationResult, students: Mapping[str, Sequence[EvaluationResult]]) -> Markup:
    """Plot quality over rounds, at the largest beam or last decode, with the teacher in round 0 and a line per student.

    Args:
        teacher: The first round's.
        students: Each student's models, the first round's first; the teacher has the first colour, they those after it.
    """
    figure, axes = make_figure("round", find_unit([teacher]))
    start = teacher.decodes[teacher.quality].score
    for index, members in enumerate(students.values(), start=1):
        found = [start, *(model.decodes[model.quality].score for model in members)]
        style = DASHES[find_turn(index) % 3]
        axes.plot(range(len(found)), found, color=find_shade(index), linewidth=1.6, linestyle=style)
        for number, bleu in enumerate(found[1:], start=1):
            _draw_point(axes, number, bleu, find_shade(index), marker="o", full=True)
    _draw_point(axes, 0, start, _SERIES[0], marker="o", full=True)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS, integer=True))
    return write_svg(figure, axes, "rounds")


def plot_curves(
    series: Mapping[str, Sequence[CurvePoint]],
    order: Sequence[str],
    deviations: Mapping[str, Sequence[CurvePoint]],
    *,
    what: str,
) -> Markup:
    """Plot validations over updates, one line per model; empty if nothing was measured.

    Args:
        series: Validations by model.
        order: All models; a model's place gives its colour.
        deviations: For models that are the mean of several seeds their standard deviations, drawn as error bars.
        what: "nll" or "bleu".
    """
    labels = {"nll": "validation NLL (nats per token)", "bleu": "validation BLEU, greedy"}
    figure, axes = make_figure("updates", labels[what])
    drawn = False
    for index, name in enumerate(order):
        measured = [
            (point.update, value) for point in series.get(name, ()) if (value := _get_value(point, what)) is not None
        ]
        if measured:
            x, y = zip(*measured, strict=True)
            style = DASHES[find_turn(index) % 3]
            marker = "o" if len(measured) == 1 else ""
            axes.plot(x, y, color=find_shade(index), linewidth=1.6, linestyle=style, marker=marker, markersize=4)
            if deviations.get(name):
                beside = {point.update: _get_value(point, what) or 0.0 for point in deviations[name]}
                errors = [beside.get(update, 0.0) for update in x]
                axes.errorbar(x, y, yerr=errors, fmt="none", ecolor=find_shade(index), elinewidth=0.9, capsize=2)
            drawn = True
    axes.xaxis.set_major_formatter(FuncFormatter(_format_thousands))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS, integer=True))
    return write_svg(figure, axes, f"curve-{what}") if drawn else Markup("")


def plot_lengths(histograms: Sequence[LengthHistogram]) -> Markup:
    """Plot target lengths: the outline of the histogram of each corpus, and its mean as a tick on the axis."""
    figure, axes = make_figure("target length (subwords)", "share of rows (%)")
    right = max(histogram.edges[-1] for histogram in histograms)
    for index, histogram in enumerate(histograms):
        shade, style = find_shade(index), DASHES[find_turn(index) % 3]
        shares = [100.0 * share for share in histogram.shares]
        if index == 0:  # gold is filled, as the background of the others
            axes.stairs(shares, list(histogram.edges), color=shade, fill=True, alpha=0.16)
        axes.stairs(shares, list(histogram.edges), color=shade, linewidth=1.6, linestyle=style)
        mean = min(histogram.mean, right)  # a few very long rows can move it beyond the last bin
        axes.plot([mean], [0.0], marker="^", markersize=7, color=shade, clip_on=False, zorder=5)
    axes.set_ylim(bottom=0.0)
    axes.set_xlim(left=0.0, right=right)
    return write_svg(figure, axes, "lengths")


def _get_value(point: CurvePoint, what: str) -> float | None:
    return point.valid_nll if what == "nll" else point.valid_bleu


def _get_speedup(result: DecodeResult, *, batch1: bool) -> float | None:
    return result.speedup_batch1 if batch1 else result.speedup


def _draw_error_bar(axes: Axes, x: float, y: float, deviation: float, shade: str) -> None:
    """Draw an error bar of one standard deviation up and down."""
    axes.errorbar([x], [y], yerr=[deviation], fmt="none", ecolor=shade, elinewidth=1.1, capsize=3, zorder=2)


def _shorten(name: str, most: int) -> str:
    """Shorten a name to at most `most` letters, keeping its start and its end."""
    if len(name) <= most:
        return name
    return f"{name[: (most - 1) // 2]}…{name[len(name) - most // 2 :]}"


def _draw_point(axes: Axes, x: float, y: float, shade: str, *, marker: str, full: bool) -> None:
    face = shade if full else _PAPER
    axes.plot([x], [y], marker=marker, markersize=6.5, color=shade, markerfacecolor=face, zorder=3)


def _place_labels(
    figure: Figure, axes: Axes, labels: Mapping[str, tuple[float, float]], points: Sequence[tuple[float, float]]
) -> None:
    """Write each label beside its point so that it covers as little as possible of points and other labels."""
    figure.draw_without_rendering()  # the layout determines the positions of points
    scale = 72.0 / figure.dpi
    dots = [axes.transData.transform(point) * scale for point in points]
    taken = [(x - 4.0, y - 4.0, x + 4.0, y + 4.0) for x, y in dots]
    inside = [edge * scale for edge in axes.get_window_extent().extents]
    for label, point in sorted(labels.items(), key=lambda item: -item[1][1]):
        x, y = axes.transData.transform(point) * scale
        width, height = LETTER * LABEL_SIZE * len(label), 1.15 * LABEL_SIZE
        boxes = [
            (x + dx - (width if dx < 0 else width / 2 if dx == 0 else 0.0), y + dy - height / 2)
            for dx, dy in ((7, 0), (0, 10), (0, -10), (-7, 0), (6, 9), (6, -9), (-6, 9), (-6, -9), (0, 20), (0, -20))
        ]

        def cost(
            place: int, boxes: list[tuple[float, float]] = boxes, size: tuple[float, float] = (width, height)
        ) -> float:
            left, low = boxes[place]
            box = (left, low, left + size[0], low + size[1])
            covered = sum(_compute_overlap(box, other) for other in taken)
            return covered + 3.0 * (size[0] * size[1] - _compute_overlap(box, inside)) + 0.01 * place

        left, low = boxes[min(range(len(boxes)), key=cost)]
        taken.append((left, low, left + width, low + height))
        axes.annotate(
            label,
            (left, low + height / 2),
            xycoords="figure points",
            va="center",
            fontsize=LABEL_SIZE,
            color=INK,
            zorder=4,
        ).set_in_layout(False)


def _compute_overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Compute the area that two boxes (left, low, right, high) have in common."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, wide) * max(0.0, high)


def make_figure(x: str, y: str, *, height: float = _SIZE[1]) -> tuple[Figure, Axes]:
    """Make a figure with one pair of axes, as wide as the others, with these labels."""
    figure = Figure(figsize=(_SIZE[0], height), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.set_xlabel(x, color=MUTED, fontsize=10)
    axes.set_ylabel(y, color=MUTED, fontsize=10)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.tick_params(colors=MUTED, labelsize=10, length=0, pad=5)
    axes.tick_params(axis="x", which="both", color=LINE, length=3)
    axes.margins(0.09, 0.12)
    return figure, axes


def _set_logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """Use a logarithmic axis, because models differ by factors, unless all values are about equal."""
    if min(values, default=0.0) > 0.0 and max(values) > 3 * min(values):
        axes.set_xscale("log")
        low, high = min(values), max(values)
        axes.set_xlim(low / (high / low) ** 0.15, high * (high / low) ** 0.15)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    axes.xaxis.set_major_formatter(FuncFormatter(_format_thousands))


def _format_thousands(value: float, _: int) -> str:
    return f"{value:,.10g}"


def write_svg(figure: Figure, axes: Axes, name: str, *, numbers: bool = True) -> Markup:
    """Write a figure as SVG for the page.

    Args:
        figure: The figure.
        axes: Its axes.
        name: A name that no other figure of the page has.
        numbers: Whether the vertical axis has round numbers.
    """
    if numbers:
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    sink = io.StringIO()
    # With a fixed salt and no date, the same numbers give the same bytes.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Markup(_adapt_svg(sink.getvalue(), name))


def _adapt_svg(svg: str, name: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    viewbox = re.search(r'viewBox="[^"]*"', svg)
    svg = re.sub(
        r"<svg[^>]*>", f'<svg class="plot" {viewbox.group(0) if viewbox else ""} aria-hidden="true">', svg, count=1
    )
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    svg = re.sub(r"#0[ab]0[ab]0\d", lambda found: f"var({_VARIABLES[found.group(0)]})", svg)
    return re.sub(r"\n\s*", "\n", svg)

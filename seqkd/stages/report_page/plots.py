"""The report's plots, as SVG to be set into the page.

Colours are CSS variables and letters are the page's own, so that a plot follows the page from light to dark. Series are
named in the page's legend; `colour` gives both the same.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from seqkd.metrics.lengths import LengthHistogram
from seqkd.metrics.results import EvaluationResult
from seqkd.stages.report_page.contents import CurvePoint

COLOURS = 8  # --series-0 to --series-7 in page.css
DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)))  # after COLOURS series the colours come again, dashed

STEPS = (1, 2, 5, 10)  # round numbers on the axes

# Matplotlib wants colours that it knows; these stand for the page's variables and are replaced in the SVG.
_INK, _MUTED, _LINE, _PAPER = "#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04"
_SERIES = [f"#0b0b0{index}" for index in range(COLOURS)]
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _LINE: "--line", _PAPER: "--card"} | {
    colour: f"--series-{index}" for index, colour in enumerate(_SERIES)
}
_SIZE = (4.4, 3.1)  # inches of 72 units: about the width of a phone, so that letters keep their size there


def colour(index: int) -> str:
    """The CSS variable of a series' colour."""
    return f"--series-{index % COLOURS}"


def quality_by_size(models: Sequence[EvaluationResult]) -> Markup:
    """BLEU over parameters: a hollow point at the smallest beam, a full one at the largest."""
    figure, axes = _figure("parameters (millions)", "BLEU")
    for index, model in enumerate(models):
        x = model.parameters / 1e6
        low, high = (model.beams[pick(model.beams)].bleu for pick in (min, max))
        axes.plot([x, x], [low, high], color=_SERIES[index % COLOURS], linewidth=1.2)
        _points(axes, index, [x, x], [low, high])
    _logarithmic(axes, [model.parameters / 1e6 for model in models])
    return _svg(figure, axes, "size")


def quality_by_speed(models: Sequence[EvaluationResult]) -> Markup:
    """BLEU over sentences per second, a line from beam to beam; points as in `quality_by_size`."""
    figure, axes = _figure("sentences per second", "BLEU")
    speeds = []
    for index, model in enumerate(models):
        beams = [model.beams[beam] for beam in sorted(model.beams)]
        x, y = [beam.sentences_per_second for beam in beams], [beam.bleu for beam in beams]
        axes.plot(x, y, color=_SERIES[index % COLOURS], linewidth=1.2, linestyle=DASHES[index // COLOURS % 3])
        _points(axes, index, x, y)
        speeds += x
    _logarithmic(axes, speeds)
    return _svg(figure, axes, "speed")


def curves(series: Mapping[str, Sequence[CurvePoint]], order: Sequence[str], *, what: str) -> Markup:
    """Validation over updates, a line a model; empty where nothing was measured.

    Args:
        series: Validations by model.
        order: All models; a model's place gives its colour.
        what: "nll" or "bleu".
    """
    labels = {"nll": "validation NLL (nats per token)", "bleu": "validation BLEU, greedy"}
    figure, axes = _figure("updates", labels[what])
    drawn = False
    for index, name in enumerate(order):
        measured = [
            (point.update, value)
            for point in series.get(name, ())
            if (value := point.valid_nll if what == "nll" else point.valid_bleu) is not None
        ]
        if measured:
            x, y = zip(*measured, strict=True)
            style = DASHES[index // COLOURS % 3]
            marker = "o" if len(measured) == 1 else ""
            axes.plot(x, y, color=_SERIES[index % COLOURS], linewidth=1.6, linestyle=style, marker=marker, markersize=4)
            drawn = True
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS, integer=True))
    return _svg(figure, axes, f"curve-{what}") if drawn else Markup("")


def lengths(histograms: Sequence[LengthHistogram]) -> Markup:
    """Target lengths: the outline of each corpus's histogram, and its mean as a tick on the axis."""
    figure, axes = _figure("target length (subwords)", "share of rows (%)")
    for index, histogram in enumerate(histograms):
        shade, style = _SERIES[index % COLOURS], DASHES[index // COLOURS % 3]
        shares = [100.0 * share for share in histogram.shares]
        if index == 0:  # gold, as the ground that the others stand out from
            axes.stairs(shares, list(histogram.edges), color=shade, fill=True, alpha=0.16)
        axes.stairs(shares, list(histogram.edges), color=shade, linewidth=1.6, linestyle=style)
        axes.plot([histogram.mean], [0.0], marker="^", markersize=7, color=shade, clip_on=False, zorder=5)
    axes.set_ylim(bottom=0.0)
    axes.set_xlim(left=0.0, right=max(histogram.edges[-1] for histogram in histograms))
    return _svg(figure, axes, "lengths")


def _points(axes: Axes, index: int, x: Sequence[float], y: Sequence[float]) -> None:
    shade = _SERIES[index % COLOURS]
    marker = "oDsv"[index // COLOURS % 4]
    for place, (left, up) in enumerate(zip(x, y, strict=True)):
        full = place == len(x) - 1
        axes.plot(
            [left],
            [up],
            marker=marker,
            markersize=6.5,
            color=shade,
            markerfacecolor=shade if full else _PAPER,
            zorder=3,
        )


def _figure(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.set_xlabel(x, color=_MUTED, fontsize=10)
    axes.set_ylabel(y, color=_MUTED, fontsize=10)
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    axes.tick_params(colors=_MUTED, labelsize=10, length=0, pad=5)
    axes.tick_params(axis="x", which="both", color=_LINE, length=3)
    axes.margins(0.09, 0.12)
    return figure, axes


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """Models differ by factors; where all are alike a linear axis says as much."""
    if min(values, default=0.0) > 0.0 and max(values) > 3 * min(values):
        axes.set_xscale("log")
        low, high = min(values), max(values)
        axes.set_xlim(low / (high / low) ** 0.15, high * (high / low) ** 0.15)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))


def _thousands(value: float, _: int) -> str:
    return f"{value:,.10g}"


def _svg(figure: Figure, axes: Axes, name: str) -> Markup:
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    sink = io.StringIO()
    # A fixed salt and no date: the same numbers give the same bytes.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Markup(_for_the_page(sink.getvalue(), name))


def _for_the_page(svg: str, name: str) -> str:
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

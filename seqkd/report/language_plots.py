"""Plots of the languages of texts: sentences between the languages, and profiles by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, sqrt

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from seqkd.metrics.languages import BINS
from seqkd.report.languages import LanguageEntry
from seqkd.report.plots import DASHES, INK, LINE, MUTED, find_shade, find_turn, make_figure, write_svg

MOST_PANELS = 18
COLUMNS = 3
LABELS = 6  # the most letters of a language at a corner
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, sqrt(3.0) / 2.0]])
_PROFILES: Mapping[str, str] = {
    "majority": "p(sentence's own language | word), %",
    "entropy": "entropy of p(language | word), nats",
}


def plot_sentences(entries: Sequence[LanguageEntry]) -> Markup:
    """Plot p(language | sentence) of sentences, a panel for each text; empty unless there are two or three languages.

    Three languages are the corners of a triangle. Two are the ends of a line, over which a histogram stands.

    Args:
        entries: The texts; a text's place gives its colour.
    """
    drawn = [entry for entry in entries if entry.mix.points][:MOST_PANELS]
    names = list(drawn[0].mix.shares) if drawn else []
    if len(names) not in (2, 3):
        return Markup("")
    rows = ceil(len(drawn) / COLUMNS)
    figure = Figure(figsize=(4.4, 1.6 * rows), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    panels = np.atleast_1d(figure.subplots(rows, COLUMNS)).ravel()
    for axes in panels:
        axes.set_axis_off()
    for index, (axes, entry) in enumerate(zip(panels, drawn, strict=False)):
        axes.set_title(_shorten(entry.name), color=INK, fontsize=8)
        (_draw_triangle if len(names) == 3 else _draw_line)(axes, entry, names, find_shade(index))
    return write_svg(figure, panels[0], "sentences", numbers=False)


def _draw_triangle(axes: Axes, entry: LanguageEntry, names: Sequence[str], shade: str) -> None:
    edge = np.vstack([_CORNERS, _CORNERS[:1]])
    axes.plot(edge[:, 0], edge[:, 1], color=LINE, linewidth=1.0)
    points = np.array(entry.mix.points) @ _CORNERS
    axes.plot(points[:, 0], points[:, 1], "o", color=shade, markersize=2.6, markeredgewidth=0.0, alpha=0.45)
    for name, (x, y), place in zip(names, _CORNERS, ("top", "top", "bottom"), strict=True):
        away = 0.05 if place == "bottom" else -0.05
        axes.text(x, y + away, name[:LABELS], color=MUTED, fontsize=7, ha="center", va=place)
    axes.set_xlim(-0.15, 1.15)
    axes.set_ylim(-0.2, 1.05)
    axes.set_aspect("equal")


def _draw_line(axes: Axes, entry: LanguageEntry, names: Sequence[str], shade: str) -> None:
    shares = np.array(entry.mix.points)[:, 1]
    counts, edges = np.histogram(shares, bins=20, range=(0.0, 1.0))
    axes.stairs(counts / counts.sum(), edges, color=shade, fill=True, alpha=0.6)
    axes.plot([0.0, 1.0], [0.0, 0.0], color=LINE, linewidth=1.0)
    for name, x in zip(names, (0.0, 1.0), strict=True):
        axes.text(x, -0.05, name[:LABELS], color=MUTED, fontsize=7, ha="center", va="top")
    axes.set_xlim(-0.15, 1.15)
    axes.set_ylim(-0.2, 1.05)


def plot_profile(entries: Sequence[LanguageEntry], *, what: str) -> Markup:
    """Plot how sure the language is over the relative position in the sentence, a line for each text.

    Args:
        entries: The texts; a text's place gives its colour.
        what: "majority" for the share of the sentence's own language, "entropy" for the entropy of words.
    """
    figure, axes = make_figure("position in the sentence (%)", _PROFILES[what])
    centres = (np.arange(BINS) + 0.5) * 100.0 / BINS
    for index, entry in enumerate(entries):
        values = entry.mix.bin_majorities if what == "majority" else entry.mix.bin_entropies
        scale = 100.0 if what == "majority" else 1.0
        heights = [np.nan if value is None else scale * value for value in values]
        style = DASHES[find_turn(index) % 3]
        axes.plot(centres, heights, color=find_shade(index), linewidth=1.6, linestyle=style)
    axes.set_xlim(0.0, 100.0)
    return write_svg(figure, axes, f"profile-{what}")


def _shorten(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:19]}\N{HORIZONTAL ELLIPSIS}"

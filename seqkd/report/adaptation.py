"""Adaptation and forgetting: the change of models from the model that they start from, on several test sets.

A model that starts from another one is adapted to the test sets of the data sets that are new to it, and may forget
those on which the other one was trained (Dakwale and Monz 2017). Both are differences of a metric at the largest beam
or last decode: adaptation is the score of the model minus that of the model that it starts from, on the new test sets;
forgetting is the latter minus the former, on the other ones. With several test sets of a kind they are means.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup

from seqkd.config.prepare import OWN_TEST
from seqkd.metrics.results import EvaluationResult
from seqkd.report.contents import Contents
from seqkd.report.plots import pick_colour, plot_scores
from seqkd.report.tables import Cell, Head, Table, format_number, format_text, mark_highest
from seqkd.report.twins import find_unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """A model that starts from another one, with scores on the test sets that both are evaluated on.

    Attributes:
        name: The name of the model.
        start: The name of the model that it starts from.
        trained_on: Its training corpora.
        new: Its score on the test sets that are new to the other model, and the score of the other model.
        known: The same on the test sets of the data sets on which the other model was trained.
    """

    name: str
    start: str
    trained_on: str
    new: tuple[float, float] | None
    known: tuple[float, float] | None

    @property
    def adaptation(self) -> float | None:
        """The gain on new test sets; None without any."""
        return None if self.new is None else self.new[0] - self.new[1]

    @property
    def forgetting(self) -> float | None:
        """The loss on known test sets; None without any."""
        return None if self.known is None else self.known[1] - self.known[0]


def list_adapted(contents: Contents) -> list[Adapted]:
    """List the models that start from another one and have results on the same test sets as that one."""
    models = {model.name: model for model in contents.models}
    found = []
    for model in contents.models:
        entry = contents.starts.get(model.name)
        if entry is None or entry.start not in models:
            continue
        own, other = contents.results(model), contents.results(models[entry.start])
        both = [name for name in own if name in other]
        found.append(
            Adapted(
                name=model.name,
                start=entry.start,
                trained_on=model.trained_on,
                new=_find_means(own, other, [name for name in both if name not in entry.known]),
                known=_find_means(own, other, [name for name in both if name in entry.known]),
            )
        )
    return [each for each in found if each.new is not None or each.known is not None]


def _find_means(
    own: dict[str, EvaluationResult], other: dict[str, EvaluationResult], tests: Sequence[str]
) -> tuple[float, float] | None:
    if not tests:
        return None
    first, second = (fmean(found[name].decodes[found[name].quality].score for name in tests) for found in (own, other))
    return first, second


def describe_adapted(contents: Contents) -> dict[str, dict[str, Any]]:
    """Return the further keys in report.json of the models that start from another one, by name."""
    return {
        each.name: {"adapted": {"start": each.start, "adaptation": each.adaptation, "forgetting": each.forgetting}}
        for each in list_adapted(contents)
    }


def adaptation_table(contents: Contents, adapted: Sequence[Adapted]) -> Table:
    """Make a table with a row for each model that starts from another one."""
    colours = {model.name: pick_colour(index) for index, model in enumerate(contents.models)}
    unit = find_unit(contents.models)
    columns: list[tuple[Head, Sequence[Cell]]] = [
        (
            Head(name="Model", number=False),
            [Cell(text=each.name, sort=each.name, series=colours[each.name]) for each in adapted],
        ),
        (Head(name="Starts from", number=False), [format_text(each.start) for each in adapted]),
        (Head(name="Corpus", number=False), [format_text(each.trained_on) for each in adapted]),
        (Head(name="New", unit=unit), _format_first(each.new for each in adapted)),
        (Head(name="Known", unit=unit), _format_first(each.known for each in adapted)),
        (Head(name="Adaptation", unit=unit), mark_highest([each.adaptation for each in adapted], 2)),
        (Head(name="Forgetting", unit=unit), [format_number(each.forgetting, 2) for each in adapted]),
    ]
    heads, cells = zip(*columns, strict=True)
    return Table(heads=tuple(heads), rows=tuple(zip(*cells, strict=True)))


def _format_first(values: Iterable[tuple[float, float] | None]) -> list[Cell]:
    return [format_number(None if value is None else value[0], 2) for value in values]


def plot_adaptation(contents: Contents, adapted: Sequence[Adapted]) -> Markup:
    """Plot the score on new over that on known test sets, a point for each model; empty without models that have both.

    The models that others start from are hollow. A line joins models that differ in one setting of the objective.
    """
    points = {each.name: (each.known[0], each.new[0]) for each in adapted if each.known and each.new}
    starts = {each.start: (each.known[1], each.new[1]) for each in adapted if each.known and each.new}
    places = {model.name: index for index, model in enumerate(contents.models)}
    unit = find_unit(contents.models)
    return plot_scores(
        starts | points,
        places,
        hollow=starts.keys() - points.keys(),
        lines=[tuple(name for name in grid if name in points) for grid in contents.grids],
        x=f"{unit} on known test sets",
        y=f"{unit} on new test sets",
    )


def describe_tests(contents: Contents) -> str:
    """Name the test sets that are new to the models that others start from, and those that are known to them."""
    names = [OWN_TEST, *contents.tests]
    known = {name for entry in contents.starts.values() for name in entry.known}
    new = [name for name in names if any(name not in entry.known for entry in contents.starts.values())]
    return f"New: {', '.join(new) or 'none'}. Known: {', '.join(name for name in names if name in known) or 'none'}."

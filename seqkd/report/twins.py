"""Students that differ only in their training text, and the measure by which they are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seqkd.metrics.registry import METRICS
from seqkd.metrics.results import BLEU, DecodeResult, EvaluationResult

GOLD = "gold"


@dataclass(frozen=True, slots=True)
class Twins:
    """A student of gold text, and students that were trained alike on other text.

    Attributes:
        label: The common part of their names, e.g. "lstm".
        gold: The student of gold text; the best one if there are several.
        distilled: The other students, in the order of the pipeline.
    """

    label: str
    gold: EvaluationResult
    distilled: tuple[EvaluationResult, ...]

    @property
    def members(self) -> tuple[EvaluationResult, ...]:
        """All students, that of gold text first."""
        return (self.gold, *self.distilled)


@dataclass(frozen=True, slots=True)
class Measure:
    """The measure by which twins are compared: the share of valid outputs if all have one, or their main metric.

    Attributes:
        metric: The name of the metric in files.
        name: The name of the measure in text.
        unit: The unit after a number.
        unit_of_gaps: The unit after the difference of two numbers.
    """

    metric: str
    name: str
    unit: str
    unit_of_gaps: str

    @property
    def valid(self) -> bool:
        """Whether the measure is the share of valid outputs."""
        return self.metric == "valid"

    def __call__(self, model: EvaluationResult) -> float:
        """Return the number of a model, 0 to 100, at the decode that it is meant to be used with."""
        found = find_quick(model)
        return 100.0 * found.valid if self.valid and found.valid is not None else found.score


def find_quick(model: EvaluationResult) -> DecodeResult:
    """Return the decode that a student is meant to be used with."""
    return model.decodes[model.quick]


def find_unit(models: Sequence[EvaluationResult]) -> str:
    """Return the unit of the numbers by which models are compared: BLEU, unless their results name another metric."""
    main = next((result.main for model in models for result in model.decodes.values()), BLEU)
    record = METRICS.find(main)
    if record is None:
        return main
    return f"% {record.label.lower()}" if record.percent else record.label


def format_decode(model: EvaluationResult, name: str) -> str:
    """Write a decode in words, for tables and legends."""
    return name if model.parallel else f"beam {name}"


def find_twins(models: Sequence[EvaluationResult]) -> list[Twins]:
    """Find groups of students of gold text and of other text, in the order of their first members."""
    groups: dict[tuple[str, str, str, int], list[EvaluationResult]] = {}
    for model in models:
        if model.role == "student":
            groups.setdefault((model.arch, model.objective, model.recipe, model.parameters), []).append(model)
    found: list[Twins] = []
    for group in groups.values():
        gold = [model for model in group if model.trained_on == GOLD]
        distilled = tuple(model for model in group if model.trained_on != GOLD)
        if gold and distilled:
            label = _find_label(group)
            if any(twins.label == label for twins in found):
                label = f"{label} ({group[0].name})"
            found.append(Twins(label, max(gold, key=lambda model: find_quick(model).score), distilled))
    return found


def choose_measure(twins: Sequence[Twins]) -> Measure:
    """Choose the measure by which all twins can be compared."""
    if all(find_quick(model).valid is not None for group in twins for model in group.members):
        return Measure("valid", "valid outputs (%)", " % valid outputs", "points")
    first = twins[0].gold
    unit = find_unit([first])
    return Measure(find_quick(first).main, unit, f" {unit}", unit)


def compute_gap(one: float, other: float) -> float:
    """Compute the difference of two numbers as they are shown, with one decimal."""
    return round(round(one, 1) - round(other, 1), 1) + 0.0  # no -0.0


def _find_label(group: Sequence[EvaluationResult]) -> str:
    """Return the names without those of the corpora, if these agree: `ctc-gold` and `ctc-seqkd` give `ctc`."""
    stems = {model.name.replace(model.trained_on, "").strip("-_.") for model in group}
    if len(stems) == 1 and "" not in stems:
        return stems.pop()
    return group[0].arch + "+glat" * group[0].objective.endswith("+glat")

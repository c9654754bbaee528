"""Students that differ in their training text alone, and what they are compared by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seqkd.metrics.registry import METRICS
from seqkd.metrics.results import BLEU, DecodeResult, EvaluationResult

GOLD = "gold"


@dataclass(frozen=True, slots=True)
class Twins:
    """A student of gold text and those that were trained alike on other text.

    Attributes:
        label: What they have in common, e.g. "lstm".
        gold: The best, if there are several.
        distilled: In the pipeline's order.
    """

    label: str
    gold: EvaluationResult
    distilled: tuple[EvaluationResult, ...]

    @property
    def members(self) -> tuple[EvaluationResult, ...]:
        """Gold first."""
        return (self.gold, *self.distilled)


@dataclass(frozen=True, slots=True)
class Measure:
    """What twins are compared by: the share of valid outputs where all have one, or the metric that their results name.

    Attributes:
        metric: Of the numbers.
        name: Of the numbers.
        unit: After a number.
        unit_of_gaps: After the difference of two.
    """

    metric: str
    name: str
    unit: str
    unit_of_gaps: str

    @property
    def valid(self) -> bool:
        """Whether it is the share of valid outputs."""
        return self.metric == "valid"

    def __call__(self, model: EvaluationResult) -> float:
        """A model's number, 0 to 100, at the decode that it is meant to be used with."""
        found = quick(model)
        return 100.0 * found.valid if self.valid and found.valid is not None else found.score


def quick(model: EvaluationResult) -> DecodeResult:
    """The decode that a student is meant to be used with."""
    return model.decodes[model.quick]


def unit_of(models: Sequence[EvaluationResult]) -> str:
    """The unit of the numbers that models are compared by: BLEU, unless their results name another metric."""
    main = next((result.main for model in models for result in model.decodes.values()), BLEU)
    record = METRICS.find(main)
    if record is None:
        return main
    return f"% {record.label.lower()}" if record.percent else record.label


def decode_label(model: EvaluationResult, name: str) -> str:
    """A decode in words, as a table or a legend has it."""
    return name if model.parallel else f"beam {name}"


def find_twins(models: Sequence[EvaluationResult]) -> list[Twins]:
    """Groups of students with a member of gold text and one of other text, in the order of their first members."""
    groups: dict[tuple[str, str, str, int], list[EvaluationResult]] = {}
    for model in models:
        if model.role == "student":
            groups.setdefault((model.arch, model.objective, model.recipe, model.parameters), []).append(model)
    found: list[Twins] = []
    for group in groups.values():
        gold = [model for model in group if model.trained_on == GOLD]
        distilled = tuple(model for model in group if model.trained_on != GOLD)
        if gold and distilled:
            label = _label(group)
            if any(twins.label == label for twins in found):
                label = f"{label} ({group[0].name})"
            found.append(Twins(label, max(gold, key=lambda model: quick(model).score), distilled))
    return found


def measure_of(twins: Sequence[Twins]) -> Measure:
    """What all of them can be compared by."""
    if all(quick(model).valid is not None for group in twins for model in group.members):
        return Measure("valid", "valid outputs (%)", " % valid outputs", "points")
    first = twins[0].gold
    unit = unit_of([first])
    return Measure(quick(first).main, unit, f" {unit}", unit)


def shown_gap(one: float, other: float) -> float:
    """The difference of two numbers as they are shown, with one decimal."""
    return round(round(one, 1) - round(other, 1), 1) + 0.0  # no -0.0


def _label(group: Sequence[EvaluationResult]) -> str:
    """Their names without the corpora's, if these agree: `ctc-gold` and `ctc-seqkd` are `ctc`."""
    stems = {model.name.replace(model.trained_on, "").strip("-_.") for model in group}
    if len(stems) == 1 and "" not in stems:
        return stems.pop()
    return group[0].arch + "+glat" * group[0].objective.endswith("+glat")

"""What the numbers say, in a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from seqkd.metrics.results import EvaluationResult
from seqkd.report.twins import GOLD, Measure, Twins, find_twins, measure_of, quick, shown_gap, unit_of

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number for the head of the page, with its unit and what it is."""

    value: str
    unit: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The headline, a sentence of context, and a few numbers."""

    headline: str
    context: str
    figures: tuple[Figure, ...]


def find(models: Sequence[EvaluationResult]) -> Findings:
    """Compare students of distilled text with their twins on gold text, and with the teacher.

    With one kind of student the best one is in the headline, with several what distilled text gives them. Students
    stand with the decode that they are meant to be used with, the teacher with its best beam. Differences are those of
    the numbers as they are shown.
    """
    teacher = next((model for model in models if model.role == "teacher"), None)
    students = [model for model in models if model.role == "student"]
    if not students:
        return _without_students(teacher)
    distilled = [student for student in students if student.trained_on != GOLD]
    best = max(distilled or students, key=lambda student: (quick(student).score, -student.parameters))
    groups = find_twins(models)
    if len(groups) > 1:
        return _several(groups, best, students, teacher)
    twin = groups[0].gold if groups and best in groups[0].distilled else None
    name = best.name if "student" in best.name.lower() else f"Student {best.name}"
    reached = f"{quick(best).score:.1f} {unit_of([best])} {_at(best, best.quick)}"
    headline = f"{name}, trained on {best.trained_on}, reaches {reached}"
    if twin is not None:
        gap = shown_gap(quick(best).score, quick(twin).score)
        headline += f": {_versus(gap)} the same model trained on gold text"
        headline += f" ({quick(twin).score:.1f})" if gap else ""
        p_value = _by_chance(best, twin, quick(best).main)
        headline += f", which may be chance (p = {p_value:.3f})" if gap and p_value is not None else ""
    return Findings(
        headline=f"{headline}.", context=_context(best, teacher), figures=tuple(_figures(best, twin, teacher))
    )


def _without_students(teacher: EvaluationResult | None) -> Findings:
    if teacher is None:
        return Findings(headline="No model has been evaluated yet.", context="", figures=())
    name = _best_decode(teacher)
    reached = f"{teacher.decodes[name].score:.1f} {unit_of([teacher])} {_at(teacher, name)}"
    headline = f"The teacher reaches {reached}; no student has been evaluated."
    return Findings(headline=headline, context="", figures=())


def _several(
    groups: Sequence[Twins],
    best: EvaluationResult,
    students: Sequence[EvaluationResult],
    teacher: EvaluationResult | None,
) -> Findings:
    measure = measure_of(groups)
    pairs = [(group, max(group.distilled, key=measure)) for group in groups]
    gaps = {group.label: shown_gap(measure(student), measure(group.gold)) for group, student in pairs}
    chance = {group.label: _by_chance(student, group.gold, measure.metric) for group, student in pairs}
    uncertain = {label: p_value for label, p_value in chance.items() if p_value is not None and gaps[label] > 0}
    helped = sum(gap > 0 and label not in uncertain for label, gap in gaps.items())
    most, student = max(pairs, key=lambda pair: (pair[0].label not in uncertain, gaps[pair[0].label]))
    gap = gaps[most.label]
    if helped:
        count = f"All {len(groups)}" if helped == len(groups) else f"{helped} of {len(groups)}"
        headline = (
            f"{count} kinds of student translate better when they are trained on distilled text, {most.label} most: "
            f"{measure(student):.1f}{measure.unit}, {gap:.1f} {measure.unit_of_gaps} more than on gold text"
        )
    else:
        headline = f"None of {len(groups)} kinds of student translates better when it is trained on distilled text"
    context = (
        f"The best student, {best.name}, reaches {quick(best).score:.1f} {unit_of([best])} {_at(best, best.quick)}."
    )
    if teacher is not None:
        name = _best_decode(teacher)
        context += f" The teacher's best is {teacher.decodes[name].score:.1f} {_at(teacher, name)}."
    if uncertain:
        listed = ", ".join(f"{label} (p = {p_value:.3f})" for label, p_value in uncertain.items())
        context += f" Gains that may be chance are not counted: {listed}."
    figures = [
        Figure(value=_signed(gap), unit=measure.unit_of_gaps, label=f"{_noun(measure)}over gold text: {most.label}")
    ]
    timed = [one for one in students if quick(one).speedup is not None]
    for label, speedup in (("in batches", _speedup), ("one sentence at a time", _speedup_batch1)):
        if timed:
            first = max(timed, key=speedup)
            what = f"the teacher{_over(first)}, {label}: {first.name}"
            figures.append(Figure(value=f"{speedup(first):.1f}", unit=TIMES, label=what))
    return Findings(headline=f"{headline}.", context=context, figures=tuple(figures))


def _context(best: EvaluationResult, teacher: EvaluationResult | None) -> str:
    if teacher is None:
        return ""
    name = _best_decode(teacher)
    score = teacher.decodes[name].score
    distance = _distance(shown_gap(quick(best).score, score))
    return f"The teacher's best is {score:.1f} {unit_of([best])} {_at(teacher, name)}: the student is {distance} it."


def _figures(
    best: EvaluationResult, twin: EvaluationResult | None, teacher: EvaluationResult | None
) -> Iterator[Figure]:
    if twin is not None:
        gap = _signed(shown_gap(quick(best).score, quick(twin).score))
        yield Figure(value=gap, unit=unit_of([best]), label="over gold text")
        ours, theirs = quick(best).valid, quick(twin).valid
        if ours is not None and theirs is not None:
            points = _signed(shown_gap(100 * ours, 100 * theirs))
            yield Figure(value=points, unit="points", label="valid outputs, over gold text")
    if quick(best).speedup is not None:
        label = f"sentences/s: student {_at(best, best.quick)}, teacher{_over(best)}"
        yield Figure(value=f"{_speedup(best):.1f}", unit=TIMES, label=label)
    if teacher is not None and min(best.parameters, teacher.parameters) > 0:
        share = teacher.parameters / best.parameters
        what = "fewer" if share >= 1 else "more"
        label = f"{what} parameters than the teacher"
        yield Figure(value=f"{max(share, 1 / share):.1f}", unit=TIMES, label=label)


def _by_chance(student: EvaluationResult, twin: EvaluationResult, metric: str) -> float | None:
    """The p-value of the difference between twins if it is not significant; None if it is, or was not tested."""
    tested = quick(student).significance.get(metric) if student.compared_with == twin.name else None
    return None if tested is None or tested.significant else tested.p_value


def _best_decode(model: EvaluationResult) -> str:
    return max(model.decodes, key=lambda name: model.decodes[name].score)  # the first of equals: the smallest beam


def _speedup(model: EvaluationResult) -> float:
    return quick(model).speedup or 0.0


def _speedup_batch1(model: EvaluationResult) -> float:
    return quick(model).speedup_batch1 or 0.0


def _over(model: EvaluationResult) -> str:
    """How the teacher was decoded that a model's speed is compared with."""
    name = "" if model.baseline is None else model.baseline.decode
    return f" at beam {name}" if name.isdecimal() else ""


def _noun(measure: Measure) -> str:
    return "valid outputs " if measure.valid else ""


def _at(model: EvaluationResult, name: str) -> str:
    if model.parallel:
        return f"decoded as {name}"
    return "greedy" if name == "1" else f"at beam {name}"


def _signed(gap: float) -> str:
    return f"{gap:+.1f}".replace("-", MINUS)


def _versus(gap: float) -> str:
    return f"{abs(gap):.1f} {'more' if gap > 0 else 'less'} than" if gap else "level with"


def _distance(gap: float) -> str:
    return f"{abs(gap):.1f} {'above' if gap > 0 else 'below'}" if gap else "level with"

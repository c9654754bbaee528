"""The conclusions from the numbers: a headline, a sentence of context, and a few figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from seqkd.metrics.results import EvaluationResult
from seqkd.report.twins import GOLD, Measure, Twins, choose_measure, compute_gap, find_quick, find_twins, find_unit

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number for the head of the page, with its unit and its meaning."""

    value: str
    unit: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The headline, a sentence of context, and a few numbers."""

    headline: str
    context: str
    figures: tuple[Figure, ...]


def conclude(models: Sequence[EvaluationResult]) -> Findings:
    """Compare students of distilled text with their twins on gold text, and with the teacher.

    With one kind of student, the headline names the best student. With several kinds, it states the gains of distilled
    text. Students are compared at the decode that they are meant to be used with, and the teacher at its best beam.
    Differences are computed from the rounded numbers that the page shows.
    """
    teacher = next((model for model in models if model.role == "teacher"), None)
    students = [model for model in models if model.role == "student"]
    if not students:
        return _conclude_without_students(teacher)
    distilled = [student for student in students if student.trained_on != GOLD]
    best = max(distilled or students, key=lambda student: (find_quick(student).score, -student.parameters))
    groups = find_twins(models)
    if len(groups) > 1:
        return _conclude_several(groups, best, students, teacher)
    twin = groups[0].gold if groups and best in groups[0].distilled else None
    name = best.name if "student" in best.name.lower() else f"Student {best.name}"
    reached = f"{find_quick(best).score:.1f} {find_unit([best])} {_describe_decode(best, best.quick)}"
    headline = f"{name}, trained on {best.trained_on}, reaches {reached}"
    if twin is not None:
        gap = compute_gap(find_quick(best).score, find_quick(twin).score)
        headline += f": {_describe_gap(gap)} the same model trained on gold text"
        headline += f" ({find_quick(twin).score:.1f})" if gap else ""
        p_value = _find_chance(best, twin, find_quick(best).main)
        headline += f", which may be chance (p = {p_value:.3f})" if gap and p_value is not None else ""
    return Findings(
        headline=f"{headline}.",
        context=_write_context(best, teacher),
        figures=tuple(_list_figures(best, twin, teacher)),
    )


def _conclude_without_students(teacher: EvaluationResult | None) -> Findings:
    if teacher is None:
        return Findings(headline="No model has been evaluated yet.", context="", figures=())
    name = _find_best_decode(teacher)
    reached = f"{teacher.decodes[name].score:.1f} {find_unit([teacher])} {_describe_decode(teacher, name)}"
    headline = f"The teacher reaches {reached}; no student has been evaluated."
    return Findings(headline=headline, context="", figures=())


def _conclude_several(
    groups: Sequence[Twins],
    best: EvaluationResult,
    students: Sequence[EvaluationResult],
    teacher: EvaluationResult | None,
) -> Findings:
    measure = choose_measure(groups)
    pairs = [(group, max(group.distilled, key=measure)) for group in groups]
    gaps = {group.label: compute_gap(measure(student), measure(group.gold)) for group, student in pairs}
    chance = {group.label: _find_chance(student, group.gold, measure.metric) for group, student in pairs}
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
    reached = f"{find_quick(best).score:.1f} {find_unit([best])} {_describe_decode(best, best.quick)}"
    context = f"The best student, {best.name}, reaches {reached}."
    if teacher is not None:
        name = _find_best_decode(teacher)
        context += f" The teacher's best is {teacher.decodes[name].score:.1f} {_describe_decode(teacher, name)}."
    if uncertain:
        listed = ", ".join(f"{label} (p = {p_value:.3f})" for label, p_value in uncertain.items())
        context += f" Gains that may be chance are not counted: {listed}."
    figures = [
        Figure(
            value=_format_signed(gap),
            unit=measure.unit_of_gaps,
            label=f"{_name_measure(measure)}over gold text: {most.label}",
        )
    ]
    timed = [one for one in students if find_quick(one).speedup is not None]
    for label, speedup in (("in batches", _get_speedup), ("one sentence at a time", _get_speedup_batch1)):
        if timed:
            first = max(timed, key=speedup)
            what = f"the teacher{_describe_baseline(first)}, {label}: {first.name}"
            figures.append(Figure(value=f"{speedup(first):.1f}", unit=TIMES, label=what))
    return Findings(headline=f"{headline}.", context=context, figures=tuple(figures))


def _write_context(best: EvaluationResult, teacher: EvaluationResult | None) -> str:
    if teacher is None:
        return ""
    name = _find_best_decode(teacher)
    score = teacher.decodes[name].score
    distance = _describe_distance(compute_gap(find_quick(best).score, score))
    reached = f"{score:.1f} {find_unit([best])} {_describe_decode(teacher, name)}"
    return f"The teacher's best is {reached}: the student is {distance} it."


def _list_figures(
    best: EvaluationResult, twin: EvaluationResult | None, teacher: EvaluationResult | None
) -> Iterator[Figure]:
    if twin is not None:
        gap = _format_signed(compute_gap(find_quick(best).score, find_quick(twin).score))
        yield Figure(value=gap, unit=find_unit([best]), label="over gold text")
        ours, theirs = find_quick(best).valid, find_quick(twin).valid
        if ours is not None and theirs is not None:
            points = _format_signed(compute_gap(100 * ours, 100 * theirs))
            yield Figure(value=points, unit="points", label="valid outputs, over gold text")
    if find_quick(best).speedup is not None:
        label = f"sentences/s: student {_describe_decode(best, best.quick)}, teacher{_describe_baseline(best)}"
        yield Figure(value=f"{_get_speedup(best):.1f}", unit=TIMES, label=label)
    if teacher is not None and min(best.parameters, teacher.parameters) > 0:
        share = teacher.parameters / best.parameters
        what = "fewer" if share >= 1 else "more"
        label = f"{what} parameters than the teacher"
        yield Figure(value=f"{max(share, 1 / share):.1f}", unit=TIMES, label=label)


def _find_chance(student: EvaluationResult, twin: EvaluationResult, metric: str) -> float | None:
    """Return the p-value of the difference between twins if it was tested and is not significant, otherwise None."""
    tested = find_quick(student).significance.get(metric) if student.compared_with == twin.name else None
    return None if tested is None or tested.significant else tested.p_value


def _find_best_decode(model: EvaluationResult) -> str:
    return max(model.decodes, key=lambda name: model.decodes[name].score)  # the smallest beam among equal scores


def _get_speedup(model: EvaluationResult) -> float:
    return find_quick(model).speedup or 0.0


def _get_speedup_batch1(model: EvaluationResult) -> float:
    return find_quick(model).speedup_batch1 or 0.0


def _describe_baseline(model: EvaluationResult) -> str:
    """Describe the decode of the teacher that the speed of a model is compared with."""
    name = "" if model.baseline is None else model.baseline.decode
    return f" at beam {name}" if name.isdecimal() else ""


def _name_measure(measure: Measure) -> str:
    return "valid outputs " if measure.valid else ""


def _describe_decode(model: EvaluationResult, name: str) -> str:
    if model.parallel:
        return f"decoded as {name}"
    return "greedy" if name == "1" else f"at beam {name}"


def _format_signed(gap: float) -> str:
    return f"{gap:+.1f}".replace("-", MINUS)


def _describe_gap(gap: float) -> str:
    return f"{abs(gap):.1f} {'more' if gap > 0 else 'less'} than" if gap else "level with"


def _describe_distance(gap: float) -> str:
    return f"{abs(gap):.1f} {'above' if gap > 0 else 'below'}" if gap else "level with"

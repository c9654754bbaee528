"""What the numbers say, in a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from seqkd.metrics.results import BeamResult, EvaluationResult

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
    """Compare the best distilled student with its twin on gold text, and with the teacher.

    Twins have the same kind and number of parameters. All comparisons are at the smallest beam, where a student is
    meant to be used, but for the teacher, which stands with its best beam. Differences are those of the numbers as
    they are shown.
    """
    teacher = next((model for model in models if model.role == "teacher"), None)
    students = [model for model in models if model.role == "student"]
    if not students:
        return _without_students(teacher)
    distilled = [student for student in students if student.trained_on != "gold"]
    best = max(distilled or students, key=lambda student: (_small(student).bleu, -student.parameters))
    twins = [other for other in students if other.trained_on == "gold" and _shape(other) == _shape(best)]
    twin = max(twins, key=lambda student: _small(student).bleu) if distilled and twins else None

    name = best.name if "student" in best.name.lower() else f"Student {best.name}"
    headline = f"{name}, trained on {best.trained_on}, reaches {_small(best).bleu:.1f} BLEU {_at(min(best.beams))}"
    if twin is not None:
        gap = _gap(_small(best).bleu, _small(twin).bleu)
        headline += f": {_versus(gap)} the same model trained on gold text"
        headline += f" ({_small(twin).bleu:.1f})" if gap else ""
    return Findings(
        headline=f"{headline}.", context=_context(best, teacher), figures=tuple(_figures(best, twin, teacher))
    )


def _without_students(teacher: EvaluationResult | None) -> Findings:
    if teacher is None:
        return Findings(headline="No model has been evaluated yet.", context="", figures=())
    beam = _best_beam(teacher)
    headline = f"The teacher reaches {teacher.beams[beam].bleu:.1f} BLEU {_at(beam)}; no student has been evaluated."
    return Findings(headline=headline, context="", figures=())


def _context(best: EvaluationResult, teacher: EvaluationResult | None) -> str:
    if teacher is None:
        return ""
    beam = _best_beam(teacher)
    bleu = teacher.beams[beam].bleu
    distance = _distance(_gap(_small(best).bleu, bleu))
    return f"The teacher's best is {bleu:.1f} BLEU {_at(beam)}: the student is {distance} it."


def _figures(
    best: EvaluationResult, twin: EvaluationResult | None, teacher: EvaluationResult | None
) -> Iterator[Figure]:
    if twin is not None:
        yield Figure(value=_signed(_gap(_small(best).bleu, _small(twin).bleu)), unit="BLEU", label="over gold text")
        ours, theirs = _small(best).valid, _small(twin).valid
        if ours is not None and theirs is not None:
            points = _signed(_gap(100 * ours, 100 * theirs))
            yield Figure(value=points, unit="points", label="valid outputs, over gold text")
    if teacher is not None:
        beam = _best_beam(teacher)
        slow, fast = teacher.beams[beam].sentences_per_second, _small(best).sentences_per_second
        if slow > 0 and teacher.device == best.device:
            label = f"sentences/s: student {_at(min(best.beams))}, teacher {_at(beam)}"
            yield Figure(value=f"{fast / slow:.1f}", unit=TIMES, label=label)
        if min(best.parameters, teacher.parameters) > 0:
            share = teacher.parameters / best.parameters
            what = "fewer" if share >= 1 else "more"
            label = f"{what} parameters than the teacher"
            yield Figure(value=f"{max(share, 1 / share):.1f}", unit=TIMES, label=label)


def _small(model: EvaluationResult) -> BeamResult:
    return model.beams[min(model.beams)]


def _best_beam(model: EvaluationResult) -> int:
    return max(model.beams, key=lambda beam: (model.beams[beam].bleu, -beam))


def _shape(model: EvaluationResult) -> tuple[str, int]:
    return model.arch, model.parameters


def _at(beam: int) -> str:
    return "greedy" if beam == 1 else f"at beam {beam}"


def _gap(one: float, other: float) -> float:
    return round(round(one, 1) - round(other, 1), 1) + 0.0  # no -0.0


def _signed(gap: float) -> str:
    return f"{gap:+.1f}".replace("-", MINUS)


def _versus(gap: float) -> str:
    return f"{abs(gap):.1f} {'more' if gap > 0 else 'less'} than" if gap else "level with"


def _distance(gap: float) -> str:
    return f"{abs(gap):.1f} {'above' if gap > 0 else 'below'}" if gap else "level with"

"""The explanation of why distilled text helped the students of a run or not, in plain words."""

from __future__ import annotations

from collections.abc import Sequence

from seqkd.metrics.results import EvaluationResult
from seqkd.report.contents import CorpusEntry
from seqkd.report.twins import GOLD, Measure, Twins, choose_measure, compute_gap, find_twins

MOST_WORDS = 60


def explain(models: Sequence[EvaluationResult], corpora: Sequence[CorpusEntry]) -> str:
    """Write one paragraph of at most `MOST_WORDS` words.

    The paragraph says that distilled text is more regular only if that was measured. It mentions invalid sentences only
    if the test corpus has accepted translations.

    Args:
        models: Evaluated models.
        corpora: The training corpora with their complexities.

    Returns:
        The paragraph; empty if no student was evaluated.
    """
    if all(model.role != "student" for model in models):
        return ""
    groups = find_twins(models)
    if not groups:
        return (
            "No student of gold text was trained with the same settings as a student of distilled text, so this run "
            "does not show whether distillation helped."
        )
    measure = choose_measure(groups)
    best = [max(group.distilled, key=measure) for group in groups]
    gains = [compute_gap(measure(student), measure(group.gold)) for group, student in zip(groups, best, strict=True)]
    sentences = [
        "A sentence has several valid translations, and gold text holds one of them."
        if measure.valid
        else "A sentence can be translated in several ways, and gold text holds one of them."
    ]
    if max(gains) > 0:
        sentences.append(_explain_mixing(groups, measure))
    regular = _is_more_regular({student.trained_on for student in best}, corpora)
    sentences.append(f"The teacher prefers some{', so its text is more regular' if regular else ' of them'}.")
    sentences.append(_explain_outcome(gains, measure))
    return " ".join(sentences)


def _explain_mixing(groups: Sequence[Twins], measure: Measure) -> str:
    lowest = min(groups, key=lambda group: measure(group.gold))
    blind = lowest.gold.parallel and not all(group.gold.parallel for group in groups)
    where = "into invalid sentences" if measure.valid else "up"
    return f"Small students of gold text mix them {where}{', most of all those that write all words at once' * blind}."


def _is_more_regular(distilled: set[str], corpora: Sequence[CorpusEntry]) -> bool:
    """Whether each of these corpora has a lower conditional entropy than gold text."""
    measured = {corpus.name: corpus.complexity for corpus in corpora}
    gold, others = measured.get(GOLD), [measured.get(name) for name in distilled]
    return gold is not None and all(other is not None and other < gold for other in others)


def _explain_outcome(gains: Sequence[float], measure: Measure) -> str:
    risen = [gain for gain in gains if gain > 0]
    if not risen:
        return (
            "Distilled text did not help here: the students may be large enough to learn gold text, or the teacher may "
            "make too many errors."
        )
    least, most = f"{min(risen):.1f}", f"{max(risen):.1f}"
    by = most if least == most else f"{least} to {most}"
    unit = "points of valid outputs" if measure.valid else measure.unit_of_gaps
    some = f" for {len(risen)} of {len(gains)} kinds of student" if len(risen) < len(gains) else ""
    return f"Distilled text adds {by} {unit}{some}."

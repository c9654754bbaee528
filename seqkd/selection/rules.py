"""Which of a teacher's k best translations becomes the student's target.

A rule is one function, `(candidates, reference) -> index`, entered in `RULES`. Nothing else has to change for a new
one but the list of names in the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sacrebleu.metrics.bleu import BLEU

# 13a tokens, exponential smoothing, and orders only as long as the hypothesis has n-grams of them: what
# `sacrebleu.sentence_bleu` computes.
_SENTENCE_BLEU = BLEU(effective_order=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One hypothesis of a k-best list.

    Attributes:
        text: The translation, detokenised.
        score: The search's score: log-probability over length to the power of the length penalty.
    """

    text: str
    score: float


Rule = Callable[[Sequence[Candidate], str], int]


def sentence_bleu(hypothesis: str, reference: str) -> float:
    """Smoothed sentence BLEU of `hypothesis`, 0 to 100, as `sacrebleu.sentence_bleu` has it."""
    return float(_SENTENCE_BLEU.sentence_score(hypothesis, [reference]).score)


def seqkd(candidates: Sequence[Candidate], reference: str) -> int:  # noqa: ARG001 (a rule has two arguments)
    """The teacher's best hypothesis: sequence-level distillation (Kim & Rush 2016, section 3.2)."""
    return 0


def seqinter(candidates: Sequence[Candidate], reference: str) -> int:
    """The hypothesis nearest to the reference: sequence-level interpolation (Kim & Rush 2016, section 3.3).

    Nearest is the highest smoothed sentence BLEU. Equal BLEU goes to the better score, equal scores to the better rank.
    """
    known: dict[str, float] = {}  # k-best lists often hold one text in several segmentations
    for candidate in candidates:
        if candidate.text not in known:
            known[candidate.text] = sentence_bleu(candidate.text, reference)
    return max(range(len(candidates)), key=lambda rank: (known[candidates[rank].text], candidates[rank].score, -rank))


RULES: dict[str, Rule] = {"seqkd": seqkd, "seqinter": seqinter}

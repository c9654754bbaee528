"""Rules, which choose the student's target among a teacher's k best translations.

A rule is a function that gives every hypothesis a value; its record in `seqkd.selection.registry` names it. The
hypothesis with the highest value of a list is chosen. Ties go to the better score, then to the better rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqkd.corpus.row_ids import ranked_ids
from seqkd.selection.lists import Floats, Integers, Lists
from seqkd.selection.measures import chrf_to_list, chrf_to_reference, ter
from seqkd.selection.sentence_bleu import SentenceBleu, Tokens
from seqkd.text.ranges import list_ranges

PIECES = "pieces"  # a tokenizer beside those of sacrebleu


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """The means of rules.

    Attributes:
        bleu: Sentence BLEU as configured.
        pieces: Whether BLEU counts subwords instead of words.
        seed: The seed of draws.
        judge: The function of the configured scorer, or None.
        settings: The rule's own settings.
    """

    bleu: SentenceBleu = field(default_factory=SentenceBleu)
    pieces: bool = False
    seed: int = 1
    judge: Callable[[Lists], Floats] | None = None
    settings: Any = None


def score_by_seqkd(lists: Lists, means: Means) -> Floats:  # noqa: ARG001 (a rule has two arguments)
    """Prefer the teacher's best hypothesis: sequence-level distillation (Kim & Rush 2016, section 3.2)."""
    return -lists.ranks.astype(np.float64)


def score_by_seqinter(lists: Lists, means: Means) -> Floats:
    """Score by sentence BLEU to the reference: sequence-level interpolation (Kim & Rush 2016, section 3.3), oracle."""
    hypotheses = len(lists.owners)
    texts, ids = (lists.texts, lists.references), (lists.token_ids, lists.reference_ids)
    tokens = _tokens(means, texts, ids)
    return means.bleu.scores(tokens, hypotheses + np.arange(len(lists.counts)), lists.firsts, lists.counts)


def score_by_chrf(lists: Lists, means: Means) -> Floats:  # noqa: ARG001
    """Score by the character n-gram F-score to the reference."""
    return chrf_to_reference(lists)


def score_by_ter(lists: Lists, means: Means) -> Floats:  # noqa: ARG001
    """Prefer the fewest edits to the reference."""
    return -ter(lists, np.arange(len(lists.owners)), blanks=lists.blanks)


def score_by_sample(lists: Lists, means: Means) -> Floats:
    """Draw a hypothesis from the teacher's distribution over the list. The seed and the row id decide the draw.

    By the Gumbel-max trick, the largest of log p + Gumbel noise is a draw from p, the next one a draw from the others.
    """
    uniform = draw_uniform(means.seed, lists.ids[lists.owners], lists.ranks)
    with np.errstate(divide="ignore"):  # a hypothesis of probability 0 is never drawn
        return np.log(lists.posterior) - np.log(-np.log(uniform))


def score_by_mbr_bleu(lists: Lists, means: Means) -> Floats:
    """Score by the expected sentence BLEU to the list: minimum Bayes risk (Kumar & Byrne 2004, eq. 3).

    The expectation is over all hypotheses of the list, including the scored one, with the teacher's probabilities.
    """
    everything = np.arange(len(lists.owners))
    firsts, counts = lists.firsts[lists.owners], lists.counts[lists.owners]
    tokens = _tokens(means, (lists.texts,), (lists.token_ids,))
    return _expected_scores(lists, means.bleu.scores(tokens, everything, firsts, counts))


def score_by_mbr_chrf(lists: Lists, means: Means) -> Floats:  # noqa: ARG001
    """Score by the expected chrF to the list; see `score_by_mbr_bleu`."""
    return _expected_scores(lists, chrf_to_list(lists))


def score_by_scorer(lists: Lists, means: Means) -> Floats:
    """Score by the configured scorer."""
    if means.judge is None:
        raise ValueError("the rule needs a scorer")
    return means.judge(lists)


def score_by_mbr_score(lists: Lists, means: Means) -> Floats:
    """Score by the expected value of the configured scorer, with each hypothesis of the list as the reference.

    Minimum Bayes risk with a neural metric as the utility (Freitag et al. 2022); see `score_by_mbr_bleu`. A hypothesis
    that the scorer cannot compare with every hypothesis of its list has the value minus infinity.
    """
    places = _pair_places(lists)
    pairs = Lists(
        ids=ranked_ids(lists.ids[lists.owners], lists.ranks),
        sources=lists.sources.take(lists.owners),
        source_ids=lists.source_ids.take(lists.owners),
        references=lists.texts,
        reference_ids=lists.token_ids,
        hypotheses=lists.hypotheses.take(places),
        counts=lists.counts[lists.owners],
        blanks=lists.blanks,
        language=lists.language,
    )
    scores = score_by_scorer(pairs, means)
    failed = np.isneginf(scores)
    expected = _expected_scores(lists, np.where(failed, 0.0, scores))
    expected[places[failed]] = -np.inf
    return expected


def _tokens(means: Means, texts: tuple[pa.Array, ...], ids: tuple[pa.Array, ...]) -> Tokens:
    if means.pieces:
        return Tokens.of_lists(pa.concat_arrays(ids))
    return means.bleu.tokens(pa.concat_arrays(texts))


def _pair_places(lists: Lists) -> Integers:
    """Return the hypothesis of each pair of a reference and a hypothesis of one list.

    Returns:
        `[sum of squared counts]`, places of hypotheses, by list, then by reference, then by hypothesis.
    """
    return list_ranges(lists.firsts[lists.owners], lists.counts[lists.owners])


def _expected_scores(lists: Lists, scores: Floats) -> Floats:
    """Average each hypothesis' scores over the references of its list, weighted by their probabilities.

    Args:
        lists: The lists.
        scores: `[sum of squared counts]`, by list, then by reference, then by hypothesis.
    """
    weights = np.repeat(lists.posterior, lists.counts[lists.owners])
    expected = np.bincount(_pair_places(lists), weights=weights * scores, minlength=len(lists.owners))
    return expected.astype(np.float64)  # without any hypotheses they are integers


def draw_uniform(seed: int, ids: Integers, ranks: Integers) -> Floats:
    """Return numbers between 0 and 1, both excluded, from a hash of the arguments (three SplitMix64 finalisers)."""
    state = np.full(len(ids), seed, dtype=np.uint64)
    for part in (ids, ranks, np.zeros_like(ids)):
        state = _mix_bits(state ^ part.astype(np.uint64))
    return ((state >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _mix_bits(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

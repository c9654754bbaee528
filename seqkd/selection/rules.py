"""Which of a teacher's k best translations becomes the student's target.

A rule is one function that gives every hypothesis a value; its record in `seqkd.selection.registry` names it. The
highest value of a list is taken. Equal values go to the better score, equal scores to the better rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqkd.selection.lists import Floats, Integers, Lists
from seqkd.selection.measures import chrf, nearness, ter
from seqkd.selection.sentence_bleu import SentenceBleu, Tokens

PIECES = "pieces"  # beside the names of sacrebleu's tokenizers


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What rules work with.

    Attributes:
        bleu: Sentence BLEU as it is wanted.
        pieces: BLEU counts subwords, not words.
        seed: Of draws.
        judge: Values by the scorer that the file describes; None without one.
        settings: The rule's own settings.
    """

    bleu: SentenceBleu = field(default_factory=SentenceBleu)
    pieces: bool = False
    seed: int = 1
    judge: Callable[[Lists], Floats] | None = None
    settings: Any = None


def seqkd(lists: Lists, means: Means) -> Floats:  # noqa: ARG001 (a rule has two arguments)
    """The teacher's best hypothesis: sequence-level distillation (Kim & Rush 2016, section 3.2)."""
    return -lists.ranks.astype(np.float64)


def seqinter(lists: Lists, means: Means) -> Floats:
    """Sentence BLEU to the reference: sequence-level interpolation (Kim & Rush 2016, section 3.3), and the oracle."""
    hypotheses = len(lists.owners)
    texts, ids = (lists.texts, lists.references), (lists.token_ids, lists.reference_ids)
    tokens = _tokens(means, texts, ids)
    return means.bleu.scores(tokens, hypotheses + np.arange(len(lists.counts)), lists.firsts, lists.counts)


def by_chrf(lists: Lists, means: Means) -> Floats:  # noqa: ARG001
    """Character n-gram F-score to the reference."""
    return nearness(lists)


def by_ter(lists: Lists, means: Means) -> Floats:  # noqa: ARG001
    """Fewest edits to the reference."""
    return -ter(lists, np.arange(len(lists.owners)), blanks=lists.blanks)


def sample(lists: Lists, means: Means) -> Floats:
    """One drawn from the teacher's distribution over the list; seed and row id decide the draw.

    The Gumbel-max trick: the largest of log p + Gumbel noise is a draw from p, the next one a draw from the others.
    """
    uniform = _uniform(means.seed, lists.ids[lists.owners], lists.ranks)
    with np.errstate(divide="ignore"):  # a hypothesis of probability 0 is never drawn
        return np.log(lists.posterior) - np.log(-np.log(uniform))


def mbr_bleu(lists: Lists, means: Means) -> Floats:
    """Expected sentence BLEU to what the teacher might have said: minimum Bayes risk (Kumar & Byrne 2004, eq. 3).

    The expectation is over all hypotheses of the list, the one that is valued among them, with the teacher's own
    probabilities.
    """
    everything = np.arange(len(lists.owners))
    firsts, counts = lists.firsts[lists.owners], lists.counts[lists.owners]
    tokens = _tokens(means, (lists.texts,), (lists.token_ids,))
    return _expected(lists, means.bleu.scores(tokens, everything, firsts, counts))


def mbr_chrf(lists: Lists, means: Means) -> Floats:  # noqa: ARG001
    """Expected chrF to what the teacher might have said; see `mbr_bleu`."""
    texts = lists.texts.to_pylist()
    known: dict[tuple[str, str], float] = {}
    found = []
    for first, count in zip(lists.firsts.tolist(), lists.counts.tolist(), strict=True):
        known.clear()
        for reference in texts[first : first + count]:
            for hypothesis in texts[first : first + count]:
                pair = (hypothesis, reference)
                if pair not in known:
                    known[pair] = chrf(*pair)
                found.append(known[pair])
    return _expected(lists, np.array(found, dtype=np.float64))


def rerank(lists: Lists, means: Means) -> Floats:
    """The scorer's values."""
    if means.judge is None:
        raise ValueError("the rule rerank needs a scorer")
    return means.judge(lists)


def _tokens(means: Means, texts: tuple[pa.Array, ...], ids: tuple[pa.Array, ...]) -> Tokens:
    if means.pieces:
        return Tokens.of_lists(pa.concat_arrays(ids))
    return means.bleu.tokens(pa.concat_arrays(texts))


def _expected(lists: Lists, scores: Floats) -> Floats:
    """Mean of each hypothesis's scores over the references of its list, weighted by their probability.

    Args:
        lists: The lists.
        scores: `[sum of squared counts]`: list after list, reference after reference, hypothesis after hypothesis.
    """
    counts = lists.counts[lists.owners]
    weights = np.repeat(lists.posterior, counts)
    begins = np.repeat(lists.firsts[lists.owners], counts)
    inside = np.arange(len(scores)) - np.repeat(np.cumsum(counts) - counts, counts)
    expected = np.bincount(begins + inside, weights=weights * scores, minlength=len(lists.owners))
    return expected.astype(np.float64)  # without any hypotheses they are integers


def _uniform(seed: int, ids: Integers, ranks: Integers) -> Floats:
    """Numbers between 0 and 1, neither included, from a hash of all three (SplitMix64's finaliser, thrice)."""
    state = np.full(len(ids), seed, dtype=np.uint64)
    for part in (ids, ranks, np.zeros_like(ids)):
        state = _mixed(state ^ part.astype(np.uint64))
    return ((state >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _mixed(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

"""Hope and fear: the teacher's score of a hypothesis with its sentence BLEU added or subtracted.

After Chiang 2012, "Hope and Fear for Discriminative Training of Statistical Translation Models".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from seqkd.selection.lists import Floats, Lists
from seqkd.selection.rules import Means, score_by_seqinter
from seqkd.selection.settings import FearSettings, HopeSettings

SAFE_RATIO = 5.0  # the score of a safe hope counts at most this many times as much as its BLEU


class Rivals(NamedTuple):
    """The values by which the rivals of targets are chosen.

    Attributes:
        values: `[hypotheses]`; the highest value of a list is its rival.
        gains: `[hypotheses]`, the quality that the margin of a target over its rival is the difference of.
    """

    values: Floats
    gains: Floats


def score_by_hope(lists: Lists, means: Means) -> Floats:
    """Prefer good hypotheses that the teacher finds likely: score + weight * BLEU (Chiang 2012).

    With `safe`, the score of a list is scaled down if it would drown BLEU: if the absolute score of the first choice is
    more than 5 times its weighted BLEU, the score is multiplied by 5 * weight * BLEU / |score|, and the choice is made
    again.
    """
    settings: HopeSettings = means.settings
    scores, gains = _scale(lists, _measure_gains(lists, means), settings)
    values = scores + gains
    if not settings.safe:
        return values
    filled = np.flatnonzero(lists.counts)
    first = lists.sort_by(values)[lists.firsts[filled]]
    factors = np.ones(len(lists.counts))
    against, most = np.abs(scores[first]), SAFE_RATIO * np.abs(gains[first])
    drowned = most < against
    factors[filled[drowned]] = most[drowned] / against[drowned]
    return factors[lists.owners] * scores + gains


def score_by_fear(lists: Lists, means: Means) -> Floats:
    """Prefer bad hypotheses that the teacher finds likely: score - weight * BLEU (Chiang 2012)."""
    return choose_fear(lists, means).values


def choose_fear(lists: Lists, means: Means) -> Rivals:
    """Value hypotheses as the fear of their lists, with BLEU, 0 to 1, as the gain."""
    settings: FearSettings = means.settings
    gains = _measure_gains(lists, means)
    scores, weighted = _scale(lists, gains, settings)
    return Rivals(scores - weighted, gains)


def _measure_gains(lists: Lists, means: Means) -> Floats:
    """Compute sentence BLEU to the reference `[hypotheses]`, 0 to 1."""
    return score_by_seqinter(lists, means) / 100.0


def _scale(lists: Lists, gains: Floats, settings: FearSettings) -> tuple[Floats, Floats]:
    """Return the scores, and the gains times the weight, both `[hypotheses]` and on the scale of the settings."""
    scores = lists.scores
    if settings.normalise == "z":
        scores, gains = _standardise(lists, scores), _standardise(lists, gains)
    return scores, settings.weight * gains


def _standardise(lists: Lists, values: Floats) -> Floats:
    """Subtract the mean of each list and divide by its standard deviation; 0 if all values of a list are equal."""
    if not len(values):
        return values
    owners, counts = lists.owners, np.maximum(lists.counts, 1)
    apart = values - (np.bincount(owners, weights=values, minlength=len(counts)) / counts)[owners]
    deviations = np.sqrt(np.bincount(owners, weights=apart**2, minlength=len(counts)) / counts)[owners]
    filled = lists.counts > 0
    ranges = np.maximum.reduceat(values, lists.firsts[filled]) - np.minimum.reduceat(values, lists.firsts[filled])
    varied = (np.repeat(ranges, lists.counts[filled]) > 0.0) & (deviations > 0.0)  # rounding makes no differences
    found: Floats = np.divide(apart, deviations, out=np.zeros_like(apart), where=varied)
    return found

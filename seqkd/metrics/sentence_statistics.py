"""Statistics of rows, whose sum gives the corpus score of any selection of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricScore:
    """A corpus score.

    Attributes:
        value: The score, 0 to 100; for TER edits per 100 reference words, which can exceed 100.
        signature: The signature of sacrebleu with its version, which makes the number comparable.
    """

    value: float
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """The statistics of a decode of a corpus, for tests of significance.

    Attributes:
        rows: The statistics of each row, `[rows, columns]`.
        scores: A function from sums over rows, `[..., columns]`, to scores, `[...]`.
        score: The score of all rows.
    """

    rows: Floats
    scores: Callable[[Floats], Floats]
    score: MetricScore


def mean_of(values: Sequence[float], *, signature: str = "") -> Statistics:
    """Make the statistics of a metric whose corpus score is the mean of one number for each row."""
    rows = np.stack([np.asarray(values, dtype=np.float64), np.ones(len(values))], axis=1)
    score = MetricScore(value=float(rows[:, 0].mean()), signature=signature)
    return Statistics(rows=rows, scores=mean_scores, score=score)


def mean_scores(sums: Floats) -> Floats:
    """Compute means from sums `[..., 2]` of the values and of the number of rows."""
    found: Floats = sums[..., 0] / sums[..., 1]
    return found


def bleu_scores(sums: Floats) -> Floats:
    """Compute BLEU with sacrebleu's exponential smoothing.

    Args:
        sums: `[..., 2 + 2 * orders]`: words of the outputs, words of the closest references, then for each order the
            n-grams that match, and for each order all n-grams.
    """
    orders = (sums.shape[-1] - 2) // 2
    length, reference = sums[..., 0], sums[..., 1]
    right, total = sums[..., 2 : 2 + orders], sums[..., 2 + orders :]
    none = right == 0
    # The first order without a match counts as half a match, the next one as a quarter, and so on.
    smoothed = np.where(none, 0.5 ** np.cumsum(none, axis=-1), right)
    defined = (total > 0).all(axis=-1) & (right > 0).any(axis=-1)
    precision = 100.0 * smoothed / np.maximum(total, 1.0)
    brevity = np.exp(np.minimum(0.0, 1.0 - reference / np.maximum(length, 1.0)))
    found: Floats = np.where(defined, brevity * np.exp(np.log(precision).mean(axis=-1)), 0.0)
    return found


def chrf_scores(sums: Floats) -> Floats:
    """Compute chrF2. Precision and recall are means over the orders that both sides have.

    Args:
        sums: `[..., 3 * orders]`: for each order the n-grams of the outputs, of the references, and those that match.
    """
    written, wanted, right = (sums[..., place::3] for place in range(3))
    used = (written > 0) & (wanted > 0)
    count = np.maximum(used.sum(axis=-1), 1)
    precision = np.where(used, right / np.maximum(written, 1.0), 0.0).sum(axis=-1) / count
    recall = np.where(used, right / np.maximum(wanted, 1.0), 0.0).sum(axis=-1) / count
    weighed = 4.0 * precision + recall  # beta is 2
    found: Floats = 100.0 * 5.0 * precision * recall / np.where(weighed > 0, weighed, 1.0)
    return found


def ter_scores(sums: Floats) -> Floats:
    """Compute TER from sums `[..., 2]` of the edits and of the mean lengths of the references in words."""
    edits, words = sums[..., 0], sums[..., 1]
    empty = np.where(edits > 0, 100.0, 0.0)
    found: Floats = np.where(words > 0, 100.0 * edits / np.where(words > 0, words, 1.0), empty)
    return found

"""How much distillation simplified a corpus, and how far it moved from the real one.

Zhou, Neubig & Gu 2020, "Understanding Knowledge Distillation in Non-autoregressive Machine Translation", section 3.2:

    C(d) = 1/|V| * sum over source words x of H(y | x)                            conditional entropy of aligned words
    F(d) = 1/|V| * sum over source words x of KL(p_real(y | x) || p_distilled(y | x))

p(y | x) are relative frequencies of aligned word pairs. Both are in nats. A lower C means simpler text, and a lower F
more faithful text.
"""

from __future__ import annotations

import numpy as np

from seqkd.metrics.alignment import AlignedCounts, Ints

SMOOTHING = 0.1  # added to every count in F; otherwise a pair that the distilled corpus lacks would make F infinite


def complexity(aligned: AlignedCounts) -> float:
    """Return C(d) in nats; 0 without aligned words."""
    if not len(aligned.counts):
        return 0.0
    words, word = np.unique(aligned.source, return_inverse=True)
    share = aligned.counts / np.bincount(word, weights=aligned.counts)[word]
    return float(np.sum(-share * np.log(share)) / len(words))


def faithfulness(real: AlignedCounts, distilled: AlignedCounts) -> float:
    """Return F(d) in nats, over the source words that are aligned in both corpora; 0 for a corpus with itself.

    The paper does not treat pairs that occur only in the real corpus. Here both distributions of a source word range
    over all target words that it is aligned to in either corpus, each with `SMOOTHING` added to its count.
    """
    base = 1 + max((int(side.target.max()) for side in (real, distilled) if len(side.target)), default=0)
    keys_real, keys_distilled = (side.source * base + side.target for side in (real, distilled))
    shared = np.intersect1d(real.source, distilled.source)
    if not len(shared):
        return 0.0
    keys = np.union1d(keys_real, keys_distilled)
    keys = keys[np.isin(keys // base, shared)]
    _, word = np.unique(keys // base, return_inverse=True)
    p = _conditional(_lookup(keys, keys_real, real.counts), word)
    q = _conditional(_lookup(keys, keys_distilled, distilled.counts), word)
    return float(np.sum(p * np.log(p / q)) / len(shared))


def _lookup(keys: Ints, known: Ints, counts: Ints) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return smoothed counts of `keys` (sorted, a superset of `known`)."""
    found = np.full(len(keys), SMOOTHING)
    inside = np.isin(known, keys)
    found[np.searchsorted(keys, known[inside])] += counts[inside]
    return found


def _conditional(
    counts: np.ndarray[tuple[int], np.dtype[np.float64]], word: Ints
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return counts / np.bincount(word, weights=counts)[word]

"""The similarity of a hypothesis to a text by chrF and TER."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sacrebleu.metrics.ter import TER

from seqkd.selection.chrf import compute_chrf
from seqkd.selection.lists import Floats, Integers, Lists

_TER = TER()
_TER_OF_CHARACTERS = TER(normalized=True, asian_support=True)


def ter(lists: Lists, which: Integers, *, blanks: bool = True) -> Floats:
    """Compute the translation edit rate (Snover et al. 2006) of hypotheses to their references `[which]`, in per cent.

    Case is ignored, as by default in sacrebleu's TER.

    Args:
        lists: The rows.
        which: Places of the hypotheses.
        blanks: Whether the language puts blanks between words. If not, each Chinese or Japanese character is a word.
    """
    metric = _TER if blanks else _TER_OF_CHARACTERS
    return _measure(lists, which, lambda one, other: float(metric.sentence_score(one, [other]).score))


def chrf_to_reference(lists: Lists) -> Floats:
    """Compute the chrF of each hypothesis to the reference of its row `[hypotheses]`."""
    references = lists.references.to_pylist()
    return _measure_lists(lists, lambda row, texts: compute_chrf(texts, references[row : row + 1]))


def chrf_to_list(lists: Lists) -> Floats:
    """Compute the chrF of each hypothesis to each hypothesis of its list.

    Returns:
        `[sum of squared counts]`, by list, then by reference, then by hypothesis.
    """
    return _measure_lists(lists, lambda _, texts: _chrf_within(texts))


def _chrf_within(texts: list[str]) -> Floats:
    different = list(dict.fromkeys(texts))  # k-best lists often contain a text in several segmentations
    places = [different.index(text) for text in texts]
    return compute_chrf(different, different)[np.ix_(places, places)]


def _measure_lists(lists: Lists, measure: Callable[[int, list[str]], Floats]) -> Floats:
    """Join the numbers that a function returns for each row and the texts of its hypotheses."""
    texts = lists.texts.to_pylist()
    bounds = zip(lists.firsts.tolist(), lists.counts.tolist(), strict=True)
    found = [measure(row, texts[first : first + count]).ravel() for row, (first, count) in enumerate(bounds)]
    return np.concatenate([np.zeros(0), *found])


def _measure(lists: Lists, which: Integers, measure: Callable[[str, str], float]) -> Floats:
    texts = lists.texts.take(which).to_pylist()
    references = lists.references.take(lists.owners[which]).to_pylist()
    known: dict[tuple[str, str], float] = {}  # k-best lists often contain a text in several segmentations
    for pair in zip(texts, references, strict=True):
        if pair not in known:
            known[pair] = measure(*pair)
    return np.array([known[pair] for pair in zip(texts, references, strict=True)], dtype=np.float64)

"""The similarity of a hypothesis to a text, by sacrebleu's slower measures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from seqkd.selection.lists import Floats, Integers, Lists

_CHRF = CHRF()
_TER = TER()
_TER_OF_CHARACTERS = TER(normalized=True, asian_support=True)


def chrf(hypothesis: str, reference: str) -> float:
    """Compute the character n-gram F-score (chrF2, Popović 2015), 0 to 100, as `sacrebleu.sentence_chrf` does."""
    return float(_CHRF.sentence_score(hypothesis, [reference]).score)


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
    return _measure(lists, np.arange(len(lists.owners)), chrf)


def _measure(lists: Lists, which: Integers, measure: Callable[[str, str], float]) -> Floats:
    texts = lists.texts.take(which).to_pylist()
    references = lists.references.take(lists.owners[which]).to_pylist()
    known: dict[tuple[str, str], float] = {}  # k-best lists often contain a text in several segmentations
    for pair in zip(texts, references, strict=True):
        if pair not in known:
            known[pair] = measure(*pair)
    return np.array([known[pair] for pair in zip(texts, references, strict=True)], dtype=np.float64)

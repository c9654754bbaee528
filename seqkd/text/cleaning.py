"""Rules that keep a pair out of the training text, each with a reason that is counted."""

from __future__ import annotations

EMPTY_SIDE = "empty side"
TOO_LONG = "too long"
LENGTH_RATIO = "length ratio"
IDENTICAL_SIDES = "identical sides"
DUPLICATE_PAIR = "duplicate pair"  # found over the whole corpus, in seqkd.text.duplicates


class Cleaner:
    """Judges one normalised pair on its own.

    Args:
        max_length: Most whitespace-separated words on a side.
        max_ratio: Largest ratio of the longer side's words to the shorter side's.
        drop_identical: Whether a source that equals its target goes.
    """

    def __init__(self, *, max_length: int, max_ratio: float, drop_identical: bool) -> None:
        self._max_length = max_length
        self._max_ratio = max_ratio
        self._drop_identical = drop_identical

    def reason(self, source: str, target: str) -> str | None:
        """Why the pair goes, the first reason that holds; None if it stays."""
        shorter, longer = sorted((len(source.split()), len(target.split())))
        if shorter == 0:
            return EMPTY_SIDE
        if longer > self._max_length:
            return TOO_LONG
        if longer > self._max_ratio * shorter:
            return LENGTH_RATIO
        if self._drop_identical and source == target:
            return IDENTICAL_SIDES
        return None

"""Rules that keep a pair out of the training text, each with a reason that is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqkd.text.languages import has_blanks, looks_blankless

EMPTY_SIDE = "empty side"
TOO_LONG = "too long"
LENGTH_RATIO = "length ratio"
IDENTICAL_SIDES = "identical sides"
DUPLICATE_PAIR = "duplicate pair"  # found over the whole corpus, in seqkd.text.duplicates

LONGEST_WORD = 1000  # characters between two blanks of a script that has blanks


@dataclass(frozen=True, slots=True)
class Units:
    """What the lengths of a corpus' two sides are counted in.

    Attributes:
        source_blanks: Whether the source puts blanks between words: it is counted in words, else in characters.
        target_blanks: Likewise of the target.
        ratio: If a side has no blanks, the usual ratio of the target's characters to the source's; blanks do not count.
    """

    source_blanks: bool = True
    target_blanks: bool = True
    ratio: float = 1.0

    @property
    def words(self) -> bool:
        """Whether both sides are counted in words."""
        return self.source_blanks and self.target_blanks

    @classmethod
    def of(cls, sample: Sequence[tuple[str, str]], source_language: str | None, target_language: str | None) -> Units:
        """The units for languages, or where a language is not known, for the script that most of the text is in.

        Args:
            sample: Normalised pairs of the corpus, which also give its usual ratio.
            source_language: Its code, or None.
            target_language: Likewise.
        """
        known = (source_language, target_language)
        blanks = [
            not looks_blankless(texts) if language is None else has_blanks(language)
            for language, texts in zip(known, zip(*sample, strict=True) if sample else ((), ()), strict=True)
        ]
        if all(blanks):
            return cls()
        lengths = [(characters(source), characters(target)) for source, target in sample]
        ratios = [theirs / ours for ours, theirs in lengths if ours and theirs]
        return cls(blanks[0], blanks[1], float(np.median(ratios)) if ratios else 1.0)


def characters(text: str) -> int:
    """Characters of a normalised text, blanks not counted."""
    return len(text) - text.count(" ")


class Cleaner:
    """Judges one normalised pair on its own.

    Args:
        max_length: Greatest length of a side, in the side's unit.
        max_ratio: Largest ratio of the longer side to the shorter side: in words if both sides have blanks, else in
            characters relative to the corpus' usual ratio.
        drop_identical: Whether a source that equals its target goes.
        units: What lengths are counted in.
    """

    def __init__(self, *, max_length: int, max_ratio: float, drop_identical: bool, units: Units) -> None:
        self._max_length = max_length
        self._max_ratio = max_ratio
        self._drop_identical = drop_identical
        self._units = units

    def reason(self, source: str, target: str) -> str | None:
        """Why the pair goes, the first reason that holds; None if it stays."""
        units, words = self._units, (len(source.split()), len(target.split()))
        if min(words) == 0:
            return EMPTY_SIDE
        sizes = words if units.words else (characters(source), characters(target))
        lengths = (
            words[0] if units.source_blanks else sizes[0],
            words[1] if units.target_blanks else sizes[1],
        )
        if max(lengths) > self._max_length:
            return TOO_LONG
        if (units.source_blanks and _overlong(source)) or (units.target_blanks and _overlong(target)):
            return TOO_LONG
        shorter, longer = sorted((sizes[0] * units.ratio, sizes[1]))
        if longer > self._max_ratio * shorter:
            return LENGTH_RATIO
        if self._drop_identical and source == target:
            return IDENTICAL_SIDES
        return None


def _overlong(text: str) -> bool:
    """Whether a word is longer than words are: such a line is no text, or its blanks are missing."""
    return len(text) > LONGEST_WORD and max(map(len, text.split())) > LONGEST_WORD

"""Rules that remove a pair from the training text, each with a reason that is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqkd.text.identification import LanguageCheck
from seqkd.text.languages import has_blanks, looks_blankless

EMPTY_SIDE = "empty side"
TOO_LONG = "too long"
LENGTH_RATIO = "length ratio"
IDENTICAL_SIDES = "identical sides"
WRONG_SOURCE_LANGUAGE = "source in another language"
WRONG_TARGET_LANGUAGE = "target in another language"
DUPLICATE_PAIR = "duplicate pair"  # found over the whole corpus by seqkd.text.duplicates

LONGEST_WORD = 1000  # characters between two blanks, in a script that has blanks


@dataclass(frozen=True, slots=True)
class Units:
    """The units in which the lengths of a corpus' two sides are counted.

    Attributes:
        source_blanks: Whether the source puts blanks between words. If so, its length is counted in words, otherwise in
            characters.
        target_blanks: The same for the target.
        ratio: The usual ratio of target characters to source characters, without blanks; used if a side has no blanks.
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
        """Return the units for two languages. The script of most letters stands in for an unknown language.

        Args:
            sample: Normalised pairs of the corpus, which also give its usual ratio.
            source_language: The language code of the source, or None.
            target_language: The language code of the target, or None.
        """
        known = (source_language, target_language)
        blanks = [
            not looks_blankless(texts) if language is None else has_blanks(language)
            for language, texts in zip(known, zip(*sample, strict=True) if sample else ((), ()), strict=True)
        ]
        if all(blanks):
            return cls()
        lengths = [(count_characters(source), count_characters(target)) for source, target in sample]
        ratios = [theirs / ours for ours, theirs in lengths if ours and theirs]
        return cls(blanks[0], blanks[1], float(np.median(ratios)) if ratios else 1.0)


def count_characters(text: str) -> int:
    """Count the characters of a normalised text without blanks."""
    return len(text) - text.count(" ")


class Cleaner:
    """Judges normalised pairs one by one.

    Args:
        max_length: Largest length of a side, in the unit of the side.
        max_ratio: Largest ratio of the longer side to the shorter side, in words if both sides have blanks, otherwise
            in characters relative to the corpus' usual ratio.
        drop_identical: Whether a pair with equal sides is removed.
        units: The units in which lengths are counted.
        languages: The checks of the languages of sources and of targets; None for a side that is not checked.
    """

    def __init__(
        self,
        *,
        max_length: int,
        max_ratio: float,
        drop_identical: bool,
        units: Units,
        languages: tuple[LanguageCheck | None, LanguageCheck | None] = (None, None),
    ) -> None:
        self._max_length = max_length
        self._max_ratio = max_ratio
        self._drop_identical = drop_identical
        self._units = units
        self._languages = languages

    def reason(self, source: str, target: str) -> str | None:
        """Return the first reason to remove the pair, or None if it stays."""
        units, words = self._units, (len(source.split()), len(target.split()))
        if min(words) == 0:
            return EMPTY_SIDE
        sizes = words if units.words else (count_characters(source), count_characters(target))
        lengths = (
            words[0] if units.source_blanks else sizes[0],
            words[1] if units.target_blanks else sizes[1],
        )
        if max(lengths) > self._max_length:
            return TOO_LONG
        if (units.source_blanks and _has_overlong_word(source)) or (units.target_blanks and _has_overlong_word(target)):
            return TOO_LONG
        shorter, longer = sorted((sizes[0] * units.ratio, sizes[1]))
        if longer > self._max_ratio * shorter:
            return LENGTH_RATIO
        if self._drop_identical and source == target:
            return IDENTICAL_SIDES
        reasons = WRONG_SOURCE_LANGUAGE, WRONG_TARGET_LANGUAGE
        for check, text, reason in zip(self._languages, (source, target), reasons, strict=True):
            if check is not None and check.is_foreign(text):
                return reason
        return None


def _has_overlong_word(text: str) -> bool:
    """Whether a word is implausibly long, which means that the line is not text or lacks its blanks."""
    return len(text) > LONGEST_WORD and max(map(len, text.split())) > LONGEST_WORD

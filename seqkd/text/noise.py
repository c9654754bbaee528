"""Noise on sentences: words are dropped, blanked and moved.

The three kinds are those of denoising auto-encoders (Lample et al. 2018, "Unsupervised Machine Translation Using
Monolingual Corpora Only").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

from seqkd.text.ranges import list_ranges
from seqkd.text.words import WordMarks

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIXERS = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
_LAST_SHIFT = np.uint64(31)
_SPARE_BITS = np.uint64(11)  # bits that do not fit the 53-bit mantissa of a double
_DRAWS = 3  # of each word: whether it is dropped, whether it is blanked, and where it moves

Ids = npt.NDArray[np.int32]
Lengths = npt.NDArray[np.integer[Any]]
Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSettings:
    """The kinds of noise.

    Attributes:
        drop: The share of the words that are left out.
        blank: The share of the other words in whose place a single piece stands.
        shuffle: The largest number of places by which a word moves among the words that are left.
    """

    drop: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    blank: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    shuffle: Annotated[int, Field(ge=0, le=1000)] = 0

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        if not self.choices:
            raise ValueError("changes nothing; give drop, blank or shuffle a value above 0, or leave the noise out")

    @property
    def choices(self) -> dict[str, float]:
        """Return the settings without those that change nothing."""
        given = {"drop": self.drop, "blank": self.blank, "shuffle": self.shuffle}
        return {name: value for name, value in given.items() if value}


class WordNoise:
    """Noise on encoded sentences, of which at least one word stays as it is.

    Words are groups of pieces, which are removed and moved. Texts are not encoded again: this would be slower, would
    need the libraries of tokenizers, and would give a moved word the same pieces, because the pieces of a word do not
    depend on its neighbours. A sentence never gets longer.

    Args:
        settings: The kinds of noise.
        marks: The borders of words.
        blank: The id that stands for a blanked word.
        first: The ids of pieces that belong to no word if a sentence begins with them: tags and prefixes.
    """

    def __init__(self, settings: NoiseSettings, marks: WordMarks, *, blank: int, first: Sequence[int] = ()) -> None:
        self._settings, self._marks, self._blank = settings, marks, blank
        self._first = np.zeros(len(marks.opens), dtype=np.bool_)
        self._first[list(first)] = True

    def change(self, ids: Ids, lengths: Lengths, keys: Keys) -> tuple[Ids, Lengths]:
        """Change sentences. The result depends only on each sentence and its key.

        Args:
            ids: The ids of all sentences, one sentence after the other.
            lengths: The lengths of the sentences.
            keys: A key of random numbers for each sentence.

        Returns:
            The changed ids of all sentences, and the lengths of the sentences.
        """
        settings = self._settings
        owners = np.repeat(np.arange(len(lengths)), lengths)
        begins, in_word = self._find_words(ids, lengths, owners)
        starts = np.flatnonzero(begins)  # of words, and of the pieces before the first word of a sentence
        sizes = np.diff(np.append(starts, len(ids)))
        word, owner = in_word[starts], owners[starts]
        numbers = np.arange(len(starts)) - np.searchsorted(owner, owner)
        dropping, blanking, moving = (
            uniform(keys[owner] + (numbers * _DRAWS + draw + 1).astype(np.uint64) * _GOLDEN) for draw in range(_DRAWS)
        )
        drop = word & (dropping < settings.drop)
        blank = word & ~drop & (blanking < settings.blank)
        # If no word would stay as it is, the word with the largest draw of the third kind stays.
        order = np.lexsort((moving, word, owner))
        last = order[np.append(owner[1:] != owner[:-1], len(owner) > 0)[: len(owner)]]
        changed = np.bincount(owner[word & ~drop & ~blank], minlength=len(lengths)) == 0
        saved = last[changed[owner[last]]]
        drop[saved] = blank[saved] = False

        left = np.flatnonzero(~drop)
        ranks = np.arange(len(left)) - np.searchsorted(owner[left], owner[left])
        places = np.where(word[left], ranks + moving[left] * (settings.shuffle + 1), -1.0)
        left = left[np.lexsort((places, owner[left]))]
        sizes = np.where(blank, 1, sizes)[left]
        made = ids[list_ranges(starts[left], sizes)]
        made[(np.cumsum(sizes) - 1)[blank[left]]] = self._blank
        return made, np.bincount(owner[left], weights=sizes, minlength=len(lengths)).astype(np.int64)

    def _find_words(
        self, ids: Ids, lengths: Lengths, owners: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Mark the pieces that begin a word or a sentence, and the pieces that belong to a word."""
        marks = self._marks
        text = ~self._first[ids]
        if not marks.anywhere:
            text &= marks.opens[ids]
        seen = np.append(0, np.cumsum(text))
        in_word = seen[1:] > seen[np.cumsum(lengths) - lengths][owners]  # from the first piece of text on
        same = np.append(False, owners[1:] == owners[:-1])[: len(ids)]
        follows = same & np.append(False, in_word[:-1])[: len(ids)]
        closed = np.append(True, marks.closes[ids[:-1]])[: len(ids)]
        begins = in_word & (marks.opens[ids] | closed | ~follows)
        return begins | ~same, in_word


def make_keys(*numbers: npt.NDArray[np.int64]) -> Keys:
    """Make keys of random numbers, each of which depends on all numbers at its place in arrays of one shape."""
    key = np.zeros(1, dtype=np.uint64)
    for number in numbers:
        key = mix_bits(key + _GOLDEN + number.astype(np.uint64))
    return key


def uniform(keys: Keys) -> Floats:
    """Return a number in [0, 1) for each key."""
    return np.asarray((mix_bits(keys) >> _SPARE_BITS).astype(np.float64) * 2.0**-53)


def mix_bits(bits: Keys) -> Keys:
    """Apply the output function of SplitMix64 (Steele et al. 2014)."""
    for shift, factor in _MIXERS:
        bits = (bits ^ (bits >> shift)) * factor
    return bits ^ (bits >> _LAST_SHIFT)

"""The words that the pieces of a text form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seqkd.text.vocabulary import MARK

_OPENING = ("\u2581", "\u0120")  # SentencePiece, and byte-level BPE as in GPT-2: pieces that begin a word
_CONTINUING = "##"  # WordPiece: pieces that do not begin a word


@dataclass(frozen=True, slots=True)
class WordMarks:
    """The borders of words, by the ids of pieces.

    Attributes:
        opens: `[size]` bool, the pieces that begin a word.
        closes: `[size]` bool, the pieces that end a word, so that the next piece begins one.
        anywhere: Whether a text may begin with any piece. Otherwise the pieces before the first one that begins a word
            belong to no word, such as tags of SentencePiece vocabularies.
    """

    opens: npt.NDArray[np.bool_]
    closes: npt.NDArray[np.bool_]
    anywhere: bool


def find_word_marks(pieces: Sequence[str]) -> WordMarks | None:
    """Find out how pieces show the borders of words: by the mark that the most pieces have.

    Args:
        pieces: All pieces in the order of their ids.

    Returns:
        None if the pieces have no mark of a known kind.
    """

    def mark(condition: Any) -> npt.NDArray[np.bool_]:
        return np.fromiter(map(condition, pieces), dtype=np.bool_, count=len(pieces))

    marked = {sign: mark(lambda piece, sign=sign: piece.startswith(sign)) for sign in (*_OPENING, _CONTINUING)}
    marked[MARK] = mark(lambda piece: piece.endswith(MARK))
    sign = max(marked, key=lambda sign: int(marked[sign].sum()))
    found, none = marked[sign], np.zeros(len(pieces), dtype=np.bool_)
    if not found.any():
        return None
    if sign == MARK:
        return WordMarks(none, ~found, True)
    return WordMarks(found, none, False) if sign in _OPENING else WordMarks(~found, none, True)

"""Sentence BLEU of whole k-best lists at once, equal to sacrebleu's.

A corpus has millions of hypotheses, and sacrebleu scores a few thousand a second. Here words are mapped to ids once,
and the n-grams of a reference are collected once for all hypotheses of its list. A C++ kernel does both, or NumPy if
there is no compiler.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sacrebleu.metrics.bleu import BLEU

from seqkd.kernels.bleu import kernels
from seqkd.text.ranges import list_ranges

Smoothing = Literal["none", "exp", "floor", "add-k"]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

ORDER = 4
_SMOOTHINGS = get_args(Smoothing)  # in the kernel's order
_KERNEL_TOKENIZERS = {"none": 0, "13a": 1, "char": 2, "zh": 3}  # for the others sacrebleu separates the words


@dataclass(frozen=True, slots=True)
class Tokens:
    """Texts as ids of words or subwords, in one array.

    Attributes:
        ids: `[tokens]`, equal for equal tokens.
        starts: `[texts + 1]`; text i has the tokens starts[i] to starts[i + 1] - 1.
    """

    ids: npt.NDArray[np.int32]
    starts: Integers

    @classmethod
    def of_lists(cls, lists: Any) -> Tokens:
        """Take existing ids, such as SentencePiece ids; `lists` is an Arrow array of lists of int32."""
        offsets = lists.offsets.to_numpy().astype(np.int64)
        ids = np.ascontiguousarray(lists.values.to_numpy()[offsets[0] : offsets[-1]], dtype=np.int32)
        return cls(ids, offsets - offsets[0])

    def __len__(self) -> int:
        return len(self.starts) - 1


class SentenceBleu:
    """Smoothed sentence BLEU, 0 to 100, equal to `sacrebleu.BLEU(...).sentence_score` with one reference.

    Papineni et al. 2002; the smoothings are those of Chen and Cherry 2014, "A Systematic Comparison of Smoothing
    Techniques for Sentence-Level BLEU". The defaults are those of `sacrebleu.sentence_bleu`.

    Args:
        tokenizer: The name of a tokenizer of sacrebleu. The kernel implements "none", "13a", "char" and "zh".
        smoothing: The smoothing of orders without a match.
        smooth_value: The value for "floor" (0.1 if None) and "add-k" (1 if None).
        effective_order: Whether orders for which the hypothesis is too short are left out.
        kernels: Returns the compiled kernels, or None to compute everything in NumPy.
    """

    def __init__(
        self,
        tokenizer: str = "13a",
        smoothing: Smoothing = "exp",
        smooth_value: float | None = None,
        effective_order: bool = True,
        *,
        kernels: Callable[[], ctypes.CDLL | None] = kernels,
    ) -> None:
        self._kernels = kernels
        self._tokenizer = tokenizer
        self._bleu = BLEU(
            tokenize=tokenizer,
            smooth_method=smoothing,
            smooth_value=smooth_value,
            effective_order=effective_order,
            max_ngram_order=ORDER,
        )
        value = BLEU.SMOOTH_DEFAULTS[smoothing] if smooth_value is None else smooth_value
        self._settings = (
            _SMOOTHINGS.index(smoothing),
            0.0 if value is None else float(value),
            int(effective_order),
            int(sys.version_info >= (3, 12)),  # how Python sums floats
        )

    def tokens(self, texts: Any) -> Tokens:
        """Separate texts into words. Ids of different calls cannot be compared.

        Args:
            texts: Arrow array of strings, without nulls.
        """
        library = self._kernels()
        if library is None:
            return _number_words([text.split() for text in self._cut(texts).to_pylist()])
        if self._tokenizer not in _KERNEL_TOKENIZERS:
            texts = self._cut(texts)
        _, offsets, letters = texts.buffers()
        # An array without rows may have no buffers.
        bounds = np.frombuffer(offsets, np.int32)[texts.offset :] if len(texts) else np.zeros(1, np.int32)
        ids = np.empty(int(bounds[len(texts)] - bounds[0]), dtype=np.int32)
        starts = np.empty(len(texts) + 1, dtype=np.int64)
        words = library.seqkd_words(
            _KERNEL_TOKENIZERS.get(self._tokenizer, 0),
            ctypes.c_void_p(letters.address if letters is not None else None),
            _at(bounds),
            len(texts),
            _at(ids),
            _at(starts),
        )
        return Tokens(ids[:words].copy(), starts)

    def scores(self, tokens: Tokens, references: Integers, firsts: Integers, counts: Integers) -> Floats:
        """Compute BLEU of many lists of hypotheses, each against one reference.

        Args:
            tokens: The tokens of hypotheses and references.
            references: `[lists]`, the text that is the reference.
            firsts: `[lists]`, the text that is the first hypothesis.
            counts: `[lists]`, the number of hypotheses.

        Returns:
            `[counts.sum()]`, list after list.

        Raises:
            IndexError: A text does not exist.
        """
        references, firsts, counts = (np.ascontiguousarray(x, dtype=np.int64) for x in (references, firsts, counts))
        if len(references) and (
            min(references.min(), firsts.min(), counts.min()) < 0
            or max(references.max(initial=-1) + 1, (firsts + counts).max()) > len(tokens)
        ):
            raise IndexError(f"references or hypotheses outside 0 to {len(tokens) - 1}")
        library = self._kernels()
        if library is None:
            return self._plain(tokens, references, firsts, counts)
        scores = np.empty(int(counts.sum()), dtype=np.float64)
        library.seqkd_bleu(
            _at(tokens.ids),
            _at(tokens.starts),
            len(references),
            *map(_at, (references, firsts, counts)),
            *self._settings,
            _at(scores),
        )
        return scores

    def _cut(self, texts: Any) -> Any:
        """Tokenize the texts by sacrebleu, each distinct text once, with a blank between any two words."""
        coded = texts.dictionary_encode()
        cut = [self._bleu.tokenizer(text.rstrip()) for text in coded.dictionary.to_pylist()]
        return pa.array(cut, pa.string()).take(coded.indices)

    def _plain(self, tokens: Tokens, references: Integers, firsts: Integers, counts: Integers) -> Floats:
        """Compute `scores` without kernels."""
        groups = np.repeat(np.arange(len(counts)), counts)
        texts = list_ranges(firsts, counts)
        sizes = tokens.starts[1:] - tokens.starts[:-1]
        length, closest = sizes[texts], sizes[references[groups]]
        correct = np.stack([_matches(tokens, references, texts, groups, n) for n in range(1, ORDER + 1)], axis=1)
        total = np.maximum(length[:, None] - np.arange(ORDER), 0)
        rows = zip(length.tolist(), closest.tolist(), correct.tolist(), total.tolist(), strict=True)
        return np.array([self._bleu._compute_score_from_stats([own, other, *c, *t]).score for own, other, c, t in rows])


def _number_words(texts: list[list[str]]) -> Tokens:
    known: dict[str, int] = {}
    ids = [known.setdefault(word, len(known)) for words in texts for word in words]
    starts = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return Tokens(np.array(ids, dtype=np.int32), starts)


def _matches(tokens: Tokens, references: Integers, texts: Integers, groups: Integers, order: int) -> Integers:
    """Count the clipped matches `[pairs]` of one order. N-grams are numbered by order, so they cannot collide."""
    sizes = tokens.starts[1:] - tokens.starts[:-1]
    grams = np.unique(tokens.ids, return_inverse=True)[1].astype(np.int64)
    words = grams
    for n in range(1, order):
        # N-grams that cross the end of a text have numbers, too, but are never used.
        grams = (
            np.unique(grams[:-1] * (len(words) + 1) + words[n:], return_inverse=True)[1] if len(grams) > 1 else grams
        )

    def counted(which: Integers, owners: Integers) -> tuple[Integers, Integers]:
        numbers = np.maximum(sizes[which] - order + 1, 0)
        places = list_ranges(tokens.starts[which], numbers)
        return np.unique(np.repeat(owners, numbers) * (len(words) + 1) + grams[places], return_counts=True)

    theirs, clips = counted(references, np.arange(len(references)))
    ours, times = counted(texts, np.arange(len(texts)))
    owners, grams_of = np.divmod(ours, len(words) + 1)
    wanted = groups[owners] * (len(words) + 1) + grams_of
    place = np.minimum(np.searchsorted(theirs, wanted), max(len(theirs) - 1, 0))
    if not len(theirs):
        return np.zeros(len(texts), dtype=np.int64)
    found = np.where(theirs[place] == wanted, np.minimum(times, clips[place]), 0)
    return np.bincount(owners, weights=found, minlength=len(texts)).astype(np.int64)


def _at(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)

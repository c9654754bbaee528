"""The language of words and of sentences, for corpora whose targets are in several languages.

Zhou, Neubig & Gu 2020, "Understanding Knowledge Distillation in Non-autoregressive Machine Translation", section 3.1,
measure with it how unimodal a model is. With p(w | l) as the share of the word w among the words of the language l, and
all languages equally likely beforehand:

    p(l | w) = p(w | l) / sum over languages k of p(w | k)
    p(l | y) = mean of p(l | w) over the words w of the sentence y

A word that no language has says nothing: its p(l | w) is uniform.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqkd.text.languages import word_spans

PURE = 0.9  # the least p(l | y) of the likeliest language of a sentence that counts as pure
BINS = 10  # bins of the profile by position

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class WordLanguages:
    """The languages of words.

    Attributes:
        names: The names of the languages.
        places: The row of each known word in `probabilities`.
        probabilities: p(l | w), `[words + 1, languages]`; the last row is that of unknown words.
    """

    names: tuple[str, ...]
    places: Mapping[str, int]
    probabilities: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageMix:
    """How the languages are mixed in a text. Sentences without words are left out of all numbers but `empty`.

    Attributes:
        sentences: The number of sentences with words.
        empty: The number of sentences without words.
        words: The number of words.
        unknown: The share of the words, 0 to 1, that no language has.
        shares: The mean of p(l | y) over the sentences, by language.
        purity: The share of the sentences, 0 to 1, whose likeliest language has at least `PURE`.
        entropy: The mean entropy of p(l | y), in nats.
        switches: The share of neighbouring words, 0 to 1, whose likeliest languages differ. Words without one likeliest
            language are skipped.
        bin_words: The number of words in each of `BINS` bins of relative position.
        bin_entropies: The mean entropy of p(l | w) of the words of each bin, in nats; None for a bin without words.
        bin_majorities: The mean of p(l | w) of the words of each bin for the likeliest language of their sentence.
        points: p(l | y) of sentences that are evenly spread over the text, `[points][languages]`.
    """

    sentences: int
    empty: int
    words: int
    unknown: float
    shares: dict[str, float]
    purity: float
    entropy: float
    switches: float
    bin_words: tuple[int, ...]
    bin_entropies: tuple[float | None, ...]
    bin_majorities: tuple[float | None, ...]
    points: tuple[tuple[float, ...], ...]


class _Separators(dict[int, str | int]):
    """A table for `str.translate` that replaces punctuation, symbols and blanks by a blank."""

    def __missing__(self, code: int) -> str | int:
        found = " " if unicodedata.category(chr(code))[0] in "PSZ" else code
        self[code] = found
        return found


_SEPARATORS = _Separators()


def split_words(text: str) -> list[str]:
    """Split a text into words, without punctuation and symbols.

    Words keep their case. They are compared in the form NFKC, which models write. In scripts that put no blanks between
    words each character is a word.
    """
    plain = unicodedata.normalize("NFKC", text).translate(_SEPARATORS)
    return [plain[start:end] for start, end in word_spans(plain)]


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Count the words of a text."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split_words(text))
    return counts


def estimate_languages(counts: Mapping[str, Mapping[str, int]]) -> WordLanguages:
    """Estimate p(l | w) from the word counts of each language.

    Args:
        counts: The number of occurrences of each word, by language; at least one language, each with words.

    Raises:
        ValueError: A language has no words.
    """
    names = tuple(counts)
    places = {
        word: place for place, word in enumerate(dict.fromkeys(word for table in counts.values() for word in table))
    }
    likelihoods = np.zeros((len(places), len(names)))  # p(w | l)
    for column, (name, table) in enumerate(counts.items()):
        total = sum(table.values())
        if not total:
            raise ValueError(f"the language {name!r} has no words")
        likelihoods[[places[word] for word in table], column] = np.array(list(table.values())) / total
    known = likelihoods / likelihoods.sum(1, keepdims=True)
    return WordLanguages(
        names=names, places=places, probabilities=np.vstack([known, np.full((1, len(names)), 1.0 / len(names))])
    )


def measure_languages(languages: WordLanguages, texts: Sequence[str], *, points: int = 0) -> LanguageMix | None:
    """Measure how the languages are mixed in a text.

    Args:
        languages: The languages of words.
        texts: The sentences.
        points: The largest number of sentences whose p(l | y) is kept.

    Returns:
        The numbers; None if no sentence has words.
    """
    unknown = len(languages.places)
    rows = [[languages.places.get(word, unknown) for word in split_words(text)] for text in texts]
    lengths = np.array([len(row) for row in rows if row], dtype=np.int64)
    if not len(lengths):
        return None
    ids = np.array([place for row in rows for place in row], dtype=np.int64)
    firsts = np.cumsum(lengths) - lengths
    owners = np.repeat(np.arange(len(lengths)), lengths)  # [words]: the sentence of each word
    of_words = languages.probabilities[ids]  # [words, languages]
    of_sentences = np.add.reduceat(of_words, firsts) / lengths[:, None]
    majorities = of_sentences.argmax(1)
    bins = (2 * (np.arange(len(ids)) - firsts[owners]) + 1) * BINS // (2 * lengths[owners])  # by the middle of a word
    counts = np.bincount(bins, minlength=BINS)
    chosen = np.arange(min(points, len(lengths))) * len(lengths) // max(min(points, len(lengths)), 1)
    return LanguageMix(
        sentences=len(lengths),
        empty=len(rows) - len(lengths),
        words=len(ids),
        unknown=float(np.mean(ids == unknown)),
        shares=dict(zip(languages.names, of_sentences.mean(0).tolist(), strict=True)),
        purity=float(np.mean(of_sentences.max(1) >= PURE - 1e-12)),
        entropy=float(_compute_entropies(of_sentences).mean()),
        switches=_measure_switches(of_words, owners),
        bin_words=tuple(counts.tolist()),
        bin_entropies=_average(_compute_entropies(of_words), bins, counts),
        bin_majorities=_average(of_words[np.arange(len(ids)), majorities[owners]], bins, counts),
        points=tuple(tuple(point) for point in of_sentences[chosen].tolist()),
    )


def _compute_entropies(probabilities: Floats) -> Floats:
    """Compute the entropy of each row, in nats."""
    logs = np.log(np.where(probabilities > 0.0, probabilities, 1.0))
    entropies: Floats = np.maximum(-(probabilities * logs).sum(1), 0.0)  # no -0.0
    return entropies


def _measure_switches(of_words: Floats, owners: Ints) -> float:
    """Measure the share of neighbouring words whose likeliest languages differ; 0 without neighbours."""
    if of_words.shape[1] < 2:
        return 0.0
    second, first = np.partition(of_words, -2, axis=1)[:, -2:].T
    decided = first > second + 1e-12
    likeliest, owners = of_words.argmax(1)[decided], owners[decided]
    together = owners[1:] == owners[:-1]
    return float(np.mean((likeliest[1:] != likeliest[:-1])[together])) if together.any() else 0.0


def _average(values: Floats, bins: Ints, counts: Ints) -> tuple[float | None, ...]:
    sums = np.bincount(bins, weights=values, minlength=BINS)
    return tuple(float(total / count) if count else None for total, count in zip(sums, counts, strict=True))

"""Noise on sentences: which words are left, where they stand, and on what that depends."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.text.noise import NoiseSettings, WordNoise, make_keys, mix_bits, uniform
from seqkd.text.ranges import list_ranges
from seqkd.text.words import find_word_marks
from tests.properties import examples

BLANK = 3
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<2de>"]
TAG = 4
# How the toolkits write a word of the pieces x, y and z.
STYLES = {
    "sentencepiece": ["\u2581x", "\u2581y", "y", "z"],
    "byte-level": ["\u0120x", "\u0120y", "y", "z"],
    "wordpiece": ["x", "y", "##y", "##z"],
    "subword-nmt": ["x@@", "y@@", "x", "y"],
}


@dataclass(frozen=True)
class Sentence:
    """Words, each a tuple of ids, after a tag or not."""

    tagged: bool
    words: tuple[tuple[int, ...], ...]

    @property
    def ids(self) -> list[int]:
        return [TAG] * self.tagged + [piece for word in self.words for piece in word]


def pieces_of(style: str) -> list[str]:
    return [*SPECIALS, *STYLES[style]]


@st.composite
def sentences(draw: st.DrawFn, style: str) -> Sentence:
    first, second = ((5, 6), (7, 8))  # of the style's pieces

    def word() -> tuple[int, ...]:
        if style == "subword-nmt":
            return (*draw(st.lists(st.sampled_from(first), max_size=2)), draw(st.sampled_from(second)))
        return (draw(st.sampled_from(first)), *draw(st.lists(st.sampled_from(second), max_size=2)))

    count = draw(st.integers(0, 7))
    return Sentence(draw(st.booleans()), tuple(word() for _ in range(count)))


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, list[Sentence], NoiseSettings, int]:
    style = draw(st.sampled_from(list(STYLES)))
    share = st.sampled_from([0.0, 0.3, 0.99])
    drop, blank = draw(share), draw(share)
    shuffle = draw(st.integers(0 if drop or blank else 1, 4))
    texts = draw(st.lists(sentences(style), min_size=1, max_size=5))
    return style, texts, NoiseSettings(drop=drop, blank=blank, shuffle=shuffle), draw(st.integers(0, 99))


def noise(style: str, settings: NoiseSettings) -> WordNoise:
    marks = find_word_marks(pieces_of(style))
    assert marks is not None
    return WordNoise(settings, marks, blank=BLANK, first=[TAG])


def change(style: str, texts: list[Sentence], settings: NoiseSettings, seed: int) -> list[list[int]]:
    rows = [text.ids for text in texts]
    keys = make_keys(np.array([seed]), np.arange(len(rows)))
    ids, lengths = noise(style, settings).change(
        np.array([piece for row in rows for piece in row], dtype=np.int32), np.array(list(map(len, rows))), keys
    )
    assert int(lengths.sum()) == len(ids)
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]


def words_of(style: str, row: list[int]) -> list[tuple[int, ...]]:
    """Cut ids without a tag into words; a blank is a word of its own."""
    names, found = pieces_of(style), list[list[int]]()
    opens = True
    for piece in row:
        name = names[piece]
        begins = {
            "wordpiece": not name.startswith("##"),
            "subword-nmt": opens,
        }.get(style, name[0] in "\u2581\u0120")
        if begins or piece == BLANK or not found or found[-1] == [BLANK]:
            found.append([])
        found[-1].append(piece)
        opens = not name.endswith("@@")
    return [tuple(word) for word in found]


@given(cases())
@examples(150)
def test_whole_words_are_dropped_blanked_and_moved(case: tuple[str, list[Sentence], NoiseSettings, int]) -> None:
    style, texts, settings, _ = case
    for text, row in zip(texts, change(*case), strict=True):
        assert row[: text.tagged] == [TAG] * text.tagged
        words = words_of(style, row[text.tagged :])
        real, given_ = [word for word in words if word != (BLANK,)], text.words
        assert not Counter(real) - Counter(given_)  # no word is cut, invented or doubled
        assert bool(real) == bool(given_)  # one word at least stays
        assert len(row) <= len(text.ids)
        if not settings.drop:
            assert len(words) == len(given_)
        if not settings.blank:
            assert len(real) == len(words)
        if not settings.shuffle:
            rest = iter(given_)
            assert all(any(word == other for other in rest) for word in real)  # in the same order


@given(cases())
@examples(60)
def test_a_sentence_does_not_depend_on_its_neighbours(case: tuple[str, list[Sentence], NoiseSettings, int]) -> None:
    style, texts, settings, seed = case
    both = change(style, texts, settings, seed)
    rows = [text.ids for text in texts]
    for number, row in enumerate(rows):
        key = make_keys(np.array([seed]), np.array([number]))
        alone, _ = noise(style, settings).change(np.array(row, dtype=np.int32), np.array([len(row)]), key)
        assert alone.tolist() == both[number]


@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 99))
@examples(100)
def test_no_word_moves_further_than_asked_for(words: int, places: int, seed: int) -> None:
    marks = find_word_marks([f"\u2581{n}" for n in range(words)])
    assert marks is not None
    ids, _ = WordNoise(NoiseSettings(shuffle=places), marks, blank=0).change(
        np.arange(words, dtype=np.int32), np.array([words]), make_keys(np.array([seed]))
    )
    assert sorted(ids.tolist()) == list(range(words))
    assert np.abs(ids - np.arange(words)).max() <= places


def test_the_shares_of_words_are_those_asked_for() -> None:
    rows, words = 500, 20
    marks = find_word_marks([f"\u2581{n}" for n in range(words + 1)])
    assert marks is not None
    ids, _ = WordNoise(NoiseSettings(drop=0.2, blank=0.3, shuffle=3), marks, blank=words).change(
        np.tile(np.arange(words, dtype=np.int32), rows), np.full(rows, words), make_keys(np.arange(rows))
    )
    assert len(ids) / (rows * words) == pytest.approx(0.8, abs=0.01)
    assert (ids == words).mean() == pytest.approx(0.3, abs=0.015)
    left = np.bincount(ids[ids < words], minlength=words) / rows
    assert left.min() > 0.5  # whatever the place of the word
    assert left.max() < 0.65


def test_the_word_that_stays_is_any_word() -> None:
    rows, words = 400, 4
    marks = find_word_marks([f"\u2581{n}" for n in range(words)])
    assert marks is not None
    ids, lengths = WordNoise(NoiseSettings(drop=0.999), marks, blank=0).change(
        np.tile(np.arange(words, dtype=np.int32), rows), np.full(rows, words), make_keys(np.arange(rows))
    )
    assert set(lengths.tolist()) == {1}
    assert np.bincount(ids, minlength=words).min() > 60


def test_pieces_before_the_first_word_stay_even_if_nobody_names_them() -> None:
    pieces = [*SPECIALS, *STYLES["sentencepiece"]]
    marks = find_word_marks(pieces)
    assert marks is not None
    unnamed = WordNoise(NoiseSettings(drop=0.99), marks, blank=BLANK)
    ids, _ = unnamed.change(np.array([TAG, 5, 6, 6], dtype=np.int32), np.array([4]), make_keys(np.array([1])))
    assert ids.tolist()[0] == TAG
    assert len(ids) == 2


def test_pieces_without_marks_have_no_words() -> None:
    assert find_word_marks([*SPECIALS, "x", "y"]) is None


@pytest.mark.parametrize(
    "values", [{}, {"drop": 1.0}, {"blank": -0.1}, {"shuffle": -1}, {"drop": 0.1, "swap": 1}, {"shuffle": 0.5}]
)
def test_settings_that_cannot_be(values: dict[str, Any]) -> None:
    from pydantic import TypeAdapter, ValidationError

    with pytest.raises(ValidationError):
        TypeAdapter(NoiseSettings).validate_python(values)


def test_draws_are_even_and_those_of_splitmix64() -> None:
    # The first outputs of the generator with the seed 1234567, from the authors' reference code.
    golden = np.uint64(0x9E3779B97F4A7C15)
    state = np.arange(1, 4, dtype=np.uint64) * golden + np.uint64(1234567)
    assert mix_bits(state).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    values = uniform(make_keys(np.array([3]), np.arange(20_000)))
    counts = np.histogram(values, bins=10, range=(0, 1))[0]
    assert counts.sum() == 20_000
    assert abs(counts - 2000).max() < 200


def test_ranges_are_listed_one_after_the_other() -> None:
    assert list_ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]

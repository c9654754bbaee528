from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.metrics.languages import (
    BINS,
    PURE,
    LanguageMix,
    count_words,
    estimate_languages,
    measure_languages,
    split_words,
)
from tests.properties import examples

# Each language has words of its own, and all share some.
OWN = {"de": ["der", "die", "Hund"], "fr": ["le", "la", "chien"], "cs": ["ten", "ta", "pes"]}
SHARED = ["radio", "2"]
WORDS = [*SHARED, "qqq", *(word for words in OWN.values() for word in words)]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join)
COUNTS = st.fixed_dictionaries(
    {
        name: st.dictionaries(st.sampled_from([*words, *SHARED]), st.integers(1, 9), min_size=1)
        for name, words in OWN.items()
    }
)


def measure(counts: dict[str, dict[str, int]], *texts: str, points: int = 0) -> LanguageMix:
    mix = measure_languages(estimate_languages(counts), texts, points=points)
    assert mix is not None
    return mix


def plain_probabilities(counts: dict[str, dict[str, int]], word: str) -> list[float]:
    shares = [table.get(word, 0) / sum(table.values()) for table in counts.values()]
    return [share / sum(shares) for share in shares] if sum(shares) else [1 / len(counts)] * len(counts)


def near(points: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> bool:
    return len(points) == len(expected) and all(
        list(point) == pytest.approx(list(wanted)) for point, wanted in zip(points, expected, strict=True)
    )


def argmax(point: list[float]) -> int:
    return max(range(len(point)), key=point.__getitem__)


def plain_entropy(probabilities: list[float]) -> float:
    return -sum(p * math.log(p) for p in probabilities if p)


def test_by_hand() -> None:
    # p(w | l): radio has a half in de, and a quarter in fr; so p(de | radio) = 2/3.
    counts = {"de": {"der": 1, "radio": 1}, "fr": {"le": 3, "radio": 1}}
    mix = measure(counts, "der radio", "le le der le", "...", points=9)
    assert near(mix.points, [(5 / 6, 1 / 6), (1 / 4, 3 / 4)])
    assert (mix.sentences, mix.empty, mix.words, mix.unknown) == (2, 1, 6, 0.0)
    assert mix.purity == 0.0
    assert mix.entropy == pytest.approx((plain_entropy([5 / 6, 1 / 6]) + plain_entropy([1 / 4, 3 / 4])) / 2)
    assert mix.shares == pytest.approx({"de": (5 / 6 + 1 / 4) / 2, "fr": (1 / 6 + 3 / 4) / 2})
    assert mix.switches == 2 / 4
    # The middles of two words are at 1/4 and 3/4, those of four words at 1/8, 3/8, 5/8 and 7/8.
    assert mix.bin_words == (0, 1, 1, 1, 0, 0, 1, 1, 1, 0)
    assert mix.bin_majorities[1:4] == pytest.approx((1.0, 1.0, 1.0))
    assert mix.bin_majorities[6:9] == pytest.approx((0.0, 2 / 3, 1.0))
    assert mix.bin_entropies[7] == pytest.approx(plain_entropy([2 / 3, 1 / 3]))
    assert mix.bin_entropies[0] is None


def test_languages_are_equally_likely_however_much_text_they_have() -> None:
    counts = {"de": {"der": 1, "radio": 1}, "fr": {"le": 1000, "radio": 1000}}
    assert near(measure(counts, "radio", points=1).points, [(0.5, 0.5)])


def test_a_word_that_no_language_has_says_nothing() -> None:
    counts = {"de": {"der": 1}, "fr": {"le": 1}}
    mix = measure(counts, "der qqq", "qqq", points=2)
    assert near(mix.points, [(0.75, 0.25), (0.5, 0.5)])
    assert mix.unknown == 2 / 3


def test_words_without_one_likeliest_language_do_not_switch() -> None:
    counts = {"de": {"der": 1, "radio": 1}, "fr": {"le": 1, "radio": 1}}
    assert measure(counts, "der radio qqq der").switches == 0.0
    assert measure(counts, "der radio le").switches == 1.0
    assert measure(counts, "der", "le").switches == 0.0


def test_words_are_runs_of_letters() -> None:
    assert split_words("L'homme, 2 «chiens» \u2013 \u0438\u0306 'x'.") == ["L", "homme", "2", "chiens", "й", "x"]
    assert split_words("犬がいる。") == list("犬がいる")
    assert split_words("cafe\u0301") == split_words("caf\u00e9")
    assert count_words(["a b.", "a"]) == Counter(a=2, b=1)


def test_text_without_words_is_not_measured() -> None:
    languages = estimate_languages({"de": {"der": 1}})
    assert measure_languages(languages, []) is None
    assert measure_languages(languages, ["", "!"]) is None
    with pytest.raises(ValueError, match="'fr' has no words"):
        estimate_languages({"de": {"der": 1}, "fr": {}})


def test_points_are_evenly_spread() -> None:
    counts = {"de": {"der": 1}, "fr": {"le": 1}}
    mix = measure(counts, *["der"] * 50, *["le"] * 50, points=10)
    assert [point[0] for point in mix.points] == [1.0] * 5 + [0.0] * 5


@examples(100)
@given(counts=COUNTS, texts=st.lists(TEXTS, max_size=6))
def test_agrees_with_plain_loops(counts: dict[str, dict[str, int]], texts: list[str]) -> None:
    mix = measure_languages(estimate_languages(counts), texts, points=len(texts))
    rows = [[plain_probabilities(counts, word) for word in text.split()] for text in texts if text]
    if not rows:
        assert mix is None
        return
    assert mix is not None
    sentences = [[sum(column) / len(row) for column in zip(*row, strict=True)] for row in rows]
    assert near(mix.points, sentences)
    assert mix.purity == sum(max(point) >= PURE - 1e-12 for point in sentences) / len(rows)
    assert mix.entropy == pytest.approx(sum(map(plain_entropy, sentences)) / len(rows))
    bins: list[list[tuple[float, float]]] = [[] for _ in range(BINS)]
    pairs = []
    for row, point in zip(rows, sentences, strict=True):
        own = argmax(point)
        for place, word in enumerate(row):
            bins[int(BINS * (place + 0.5) / len(row))].append((plain_entropy(word), word[own]))
        decided = [argmax(word) for word in row if sorted(word)[-1] > sorted(word)[-2] + 1e-9]
        pairs += [left != right for left, right in pairwise(decided)]
    assert mix.switches == pytest.approx(sum(pairs) / max(len(pairs), 1))
    assert mix.bin_words == tuple(map(len, bins))
    for index, found in enumerate(bins):
        if found:
            assert mix.bin_entropies[index] == pytest.approx(sum(value for value, _ in found) / len(found))


@examples(60)
@given(counts=COUNTS, name=st.sampled_from(list(OWN)), data=st.data())
def test_a_sentence_of_words_that_one_language_has_is_pure(
    counts: dict[str, dict[str, int]], name: str, data: st.DataObject
) -> None:
    counts[name][OWN[name][0]] = 1
    own = [word for word in counts[name] if word not in SHARED]
    mix = measure(counts, " ".join(data.draw(st.lists(st.sampled_from(own), min_size=1))), points=1)
    assert (mix.purity, mix.entropy, mix.switches) == (1.0, 0.0, 0.0)
    assert mix.shares == pytest.approx({other: float(other == name) for other in OWN})
    assert all(share in (None, 1.0) for share in mix.bin_majorities)


@examples(60)
@given(counts=COUNTS, texts=st.lists(TEXTS, min_size=1, max_size=6))
def test_the_bins_hold_every_word(counts: dict[str, dict[str, int]], texts: list[str]) -> None:
    mix = measure_languages(estimate_languages(counts), texts)
    words = sum(len(text.split()) for text in texts)
    assert words == (0 if mix is None else sum(mix.bin_words)) == (0 if mix is None else mix.words)
    if mix is not None:
        assert sum(mix.shares.values()) == pytest.approx(1.0)
        assert 0.0 <= mix.entropy <= math.log(3) + 1e-9
        assert [count == 0 for count in mix.bin_words] == [value is None for value in mix.bin_entropies]

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.selection.filters import LONGEST_REPEATED, Filters, count_repeats, percentile, share_in_script
from tests.properties import examples
from tests.unit.selection.support import filters, hypothesis, lists_of


def reasons(
    chosen: Filters, *hypotheses: dict[str, Any], source: str = "eine Katze", reference: str = "x"
) -> list[str]:
    return [chosen.reasons[code] for code in chosen.judge(lists_of([(hypotheses, reference)], source=source))]


def test_what_is_empty_is_always_rejected() -> None:
    blank, none = hypothesis("\u3000 ", ids=[5]), hypothesis("text", ids=[])
    assert reasons(filters(), hypothesis(""), blank, none, hypothesis("a")) == ["empty hypothesis"] * 3 + [""]


def test_length_ratio_counts_both_ways_and_ends_of_sentence() -> None:
    found = [hypothesis(" ".join(["a"] * count)) for count in (1, 2, 5, 6)]
    assert reasons(filters(max_ratio=2.0), *found) == ["", "", "", "length ratio"]  # 2 pieces in the source
    assert reasons(filters(max_ratio=1.4), *found) == ["length ratio", "", "length ratio", "length ratio"]


def test_copies_of_the_source() -> None:
    found = [hypothesis(text) for text in ("eine Katze", " eine Katze ", "eine katze", "eine")]
    assert reasons(filters(copies=True), *found) == ["copy of the source"] * 2 + ["", ""]
    assert reasons(filters(), *found) == [""] * 4


def test_unknown_pieces() -> None:
    found = [hypothesis("a", ids=ids) for ids in ([5], [3], [7, 3, 9, 3], [8])]
    assert reasons(filters(unknown=True), *found) == ["", "unknown piece", "unknown piece", ""]
    assert reasons(Filters(), *found) == [""] * 4
    rows = lists_of([(found, "x"), (found[:1], "y"), (found[1:], "z")], source="eine Katze")
    parts = [filters(unknown=True).judge(part) for part in rows.pieces(1)]
    assert np.concatenate(parts).tolist() == filters(unknown=True).judge(rows).tolist()


def test_what_the_longest_length_cut() -> None:
    found = (hypothesis("a", ended="max_length"), hypothesis("a"))
    assert reasons(filters(cut=True), *found) == ["cut at the longest length", ""]


def test_scores() -> None:
    assert reasons(filters(min_score=-2.0), hypothesis("a", -2.5), hypothesis("a", -2.0)) == ["low score", ""]


def test_scripts() -> None:
    found = [hypothesis(text) for text in ("кошка", "cat", "кот cat", "ко cat", "42!", "1 2 3 4 5 кот")]
    wrong = "wrong script"
    assert reasons(filters(script="Cyrillic"), *found) == ["", wrong, wrong, wrong, "", ""]
    assert reasons(filters(script="Latin"), *found) == [wrong, "", wrong, "", "", wrong]


def test_the_first_reason_counts() -> None:
    chosen = filters(cut=True, copies=True, min_score=0.0)
    assert reasons(chosen, hypothesis("eine Katze", ended="max_length")) == ["cut at the longest length"]
    assert reasons(chosen, hypothesis("eine Katze")) == ["copy of the source"]


def simple_repeats(ids: list[int]) -> int:
    """By its definition: the most times that a part of one to eight ids stands in a row."""
    most = min(len(ids), 1)
    for period in range(1, LONGEST_REPEATED + 1):
        for start in range(len(ids)):
            times = 0
            while ids[start + times * period : start + (times + 1) * period] == ids[start : start + period]:
                if start + (times + 1) * period > len(ids):
                    break
                times += 1
            most = max(most, times)
    return most


@given(rows=st.lists(st.lists(st.lists(st.integers(0, 2), max_size=30), max_size=4), max_size=4))
@examples(200)
def test_repeats_are_counted_as_defined(rows: list[list[list[int]]]) -> None:
    lists = lists_of([([hypothesis("x", ids=ids) for ids in found], "x") for found in rows])
    assert count_repeats(lists).tolist() == [simple_repeats(ids) for found in rows for ids in found]


def test_what_loops_is_rejected() -> None:
    found = [hypothesis(text) for text in ("a b a b a b a b", "a b a b a b", "no no no no", "no no no")]
    assert reasons(filters(max_repeats=3), *found) == ["repeats itself", "", "repeats itself", ""]


def test_ter_is_looked_at_for_those_asked_for() -> None:
    lists = lists_of([([hypothesis("the cat sat"), hypothesis("no cat at all")], "the cat sat")])
    far = filters(max_ter=50.0)
    assert [far.reasons[code] for code in far.look(lists, np.array([1, 0]))] == ["far from the reference", ""]
    assert far.judge(lists).tolist() == [0, 0]
    assert filters().look(lists, np.array([1, 0])).tolist() == [0, 0]


@given(
    scores=st.lists(st.lists(st.floats(width=32, allow_nan=False), max_size=9), min_size=1, max_size=4),
    percent=st.floats(0.0, 99.9),
)
@examples(200)
def test_percentiles_are_those_of_the_sorted_scores(scores: list[list[float]], percent: float) -> None:
    parts = [np.array(part, dtype=np.float32) for part in scores]
    everything = sorted(float(x) for part in parts for x in part)
    expected = everything[int(len(everything) * percent / 100)] if everything else -np.inf
    assert percentile(lambda: parts, percent) == expected


def test_a_percentile_leaves_that_share_below() -> None:
    scores = np.linspace(-3, -1, 1000).astype(np.float32)
    least = percentile(lambda: [scores[::2], scores[1::2]], 5.0)
    assert np.sum(scores < least) == 50


@pytest.mark.parametrize("empty", [[], [([], "x")]])
def test_no_hypotheses_at_all(empty: list[tuple[list[dict[str, Any]], str]]) -> None:
    chosen = filters(max_ratio=2.0, copies=True, cut=True, max_repeats=2, min_score=0.0, script="Latin", max_ter=1.0)
    assert chosen.judge(lists_of(empty)).tolist() == []


LETTERS = st.sampled_from("aZéß Жя中文ーカعربي٣3.-\u0301\u0670😀𠀀")


@given(texts=st.lists(st.text(LETTERS, max_size=12), max_size=5))
def test_letters_of_a_script_are_counted_one_by_one(texts: list[str]) -> None:
    for script, name in (("Latin", "LATIN"), ("Han", "CJK"), ("Arabic", "ARABIC"), ("Cyrillic", "CYRILLIC")):
        found = share_in_script(lists_of([([hypothesis(text, ids=[5]) for text in texts], "x")]), script)
        for text, share in zip(texts, found.tolist(), strict=True):
            letters = [one for one in text if unicodedata.category(one).startswith("L")]
            own = [one for one in letters if unicodedata.name(one).startswith(name)]
            assert share == pytest.approx(len(own) / len(letters) if letters else 1.0)

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seqkd.selection.choosing import DROPPED, GOLD, Otherwise, choose, choose_several, judge_all, softmax_weights
from seqkd.selection.filters import Filters
from tests.properties import examples
from tests.unit.selection.support import filters, hypothesis, kbest, lists_of, rows

Rows = list[tuple[list[dict[str, Any]], str]]


def choice(rows: Rows, values: list[float], filters: Filters, otherwise: Otherwise) -> tuple[list[int], list[str]]:
    made = choose(lists_of(rows), np.array(values), filters, otherwise)
    return made.picks.tolist(), [filters.reasons[code] for code in made.reasons]


def test_a_rejected_choice_becomes_what_is_wanted() -> None:
    found: Rows = [(kbest("far", "", "the cat"), "the cat"), ([], "x"), (kbest("one", "one two"), "x")]
    values = [1.0, 3.0, 2.0, 5.0, 4.0]
    reasons = ["empty hypothesis", "no hypothesis", ""]
    assert choice(found, values, filters(), "drop") == ([DROPPED, DROPPED, 3], reasons)
    assert choice(found, values, filters(), "gold") == ([GOLD, GOLD, 3], reasons)
    assert choice(found, values, filters(), "next") == ([2, DROPPED, 3], reasons)


def test_what_the_rule_cannot_judge_is_not_taken() -> None:
    found: Rows = [(kbest("a", "b"), "x"), (kbest("c", "d"), "y"), (kbest("", "e"), "z")]
    values = [-np.inf, -3.0, -np.inf, -np.inf, 1.0, -np.inf]
    reasons = ["", "not judged by the scorer", "empty hypothesis"]
    assert choice(found, values, filters(), "drop") == ([1, DROPPED, DROPPED], reasons)
    assert choice(found, values, filters(), "gold") == ([1, GOLD, GOLD], reasons)
    assert choice(found, values, filters(), "next") == ([1, DROPPED, DROPPED], reasons)


def test_ter_is_asked_of_each_next_hypothesis_in_turn() -> None:
    found: Rows = [(kbest("a b c", "b c d", "the cat", "the"), "the cat"), (kbest("q", "r"), "s")]
    values = [9.0, 8.0, 7.0, 6.0, 2.0, 1.0]
    far = ["far from the reference"] * 2
    assert choice(found, values, filters(max_ter=40.0), "next") == ([2, DROPPED], far)
    assert choice(found, values, filters(max_ter=40.0), "drop") == ([DROPPED, DROPPED], far)


@given(rows=rows(), most=st.sampled_from([None, 1.0, 50.0]), data=st.data())
@examples(100)
def test_equals_a_plain_loop(rows: Rows, most: float | None, data: st.DataObject) -> None:
    lists = lists_of(rows)
    values = data.draw(
        st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=len(lists.owners), max_size=len(lists.owners))
    )
    chosen = filters(max_ratio=3.0, max_repeats=2, max_ter=most)
    failed = (chosen.judge(lists) > 0) | (chosen.look(lists, np.arange(len(lists.owners))) > 0)
    for otherwise in ("drop", "next", "gold"):
        picks = []
        for first, count in zip(lists.firsts.tolist(), lists.counts.tolist(), strict=True):
            ranked = sorted(range(first, first + count), key=lambda h: (-values[h], -lists.scores[h], h))
            if ranked and not failed[ranked[0]]:
                picks.append(ranked[0])
            elif otherwise == "next":
                picks.append(next((h for h in ranked if not failed[h]), DROPPED))
            else:
                picks.append(GOLD if otherwise == "gold" else DROPPED)
        made = choose(lists, np.array(values), chosen, otherwise)
        assert made.picks.tolist() == picks
        assert (made.reasons > 0).tolist() == [
            not count or bool(failed[max(range(f, f + count), key=lambda h: (values[h], lists.scores[h], -h))])
            for f, count in zip(lists.firsts.tolist(), lists.counts.tolist(), strict=True)
        ]


@given(rows=rows(), keep=st.integers(1, 4), most=st.sampled_from([None, 1.0, 50.0]), data=st.data())
@examples(100)
def test_several_equal_a_plain_loop(rows: Rows, keep: int, most: float | None, data: st.DataObject) -> None:
    lists = lists_of(rows)
    drawn = st.lists(st.sampled_from([-np.inf, 1.0, 2.0]), min_size=len(lists.owners), max_size=len(lists.owners))
    values = np.array(data.draw(drawn), dtype=np.float64)
    used = filters(max_ratio=3.0, max_repeats=2, max_ter=most)
    failed = (used.judge(lists) > 0) | (used.look(lists, np.arange(len(lists.owners))) > 0) | np.isneginf(values)
    for otherwise in ("drop", "next", "gold"):
        chosen, rejected = [], []
        for first, count in zip(lists.firsts.tolist(), lists.counts.tolist(), strict=True):
            ranked = sorted(range(first, first + count), key=lambda h: (-values[h], -lists.scores[h], h))
            passing = [h for h in (ranked if otherwise == "next" else ranked[:keep]) if not failed[h]]
            chosen += passing[:keep]
            rejected += [h for h in ranked[:keep] if failed[h]]
        made, codes = choose_several(lists, values, used, otherwise, keep)
        assert np.flatnonzero(made).tolist() == sorted(chosen)
        assert np.flatnonzero(codes).tolist() == sorted(rejected)
        if keep == 1:
            picks = choose(lists, values, used, otherwise).picks
            assert np.flatnonzero(made).tolist() == [pick for pick in picks.tolist() if pick >= 0]


def test_nothing_to_choose_from() -> None:
    assert choice([], [], filters(max_ter=1.0), "next") == ([], [])
    assert choice([([hypothesis("a")], "a")], [0.0], filters(), "next") == ([0], [""])


@given(rows=rows(), most=st.sampled_from([None, 50.0]))
@examples(60)
def test_keeping_all_judges_each_by_itself(rows: Rows, most: float | None) -> None:
    lists, chosen = lists_of(rows), filters(max_repeats=2, max_ter=most)
    failed = (chosen.judge(lists) > 0) | (chosen.look(lists, np.arange(len(lists.owners))) > 0)
    assert (judge_all(lists, chosen) > 0).tolist() == failed.tolist()


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(-700.0, 0.0)), max_size=12))
def test_weights_are_each_rows_softmax(pairs: list[tuple[int, float]]) -> None:
    found = softmax_weights(
        np.array([row for row, _ in pairs], dtype=np.int64), np.array([score for _, score in pairs])
    )
    for row in {row for row, _ in pairs}:
        own = np.array([score for other, score in pairs if other == row])
        mass = np.exp(own - own.max())
        got = found[[other == row for other, _ in pairs]]
        np.testing.assert_allclose(got, mass / mass.sum())

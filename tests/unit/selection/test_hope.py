from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from seqkd.config.tables import adapter
from seqkd.extensions import resolve
from seqkd.selection.choosing import choose
from seqkd.selection.filters import Filters
from seqkd.selection.hope import choose_fear
from seqkd.selection.lists import Lists
from seqkd.selection.registry import RULES
from seqkd.selection.rules import Means
from seqkd.selection.settings import FearSettings, HopeSettings
from tests.properties import examples
from tests.unit.selection.support import SENTENCES, hypothesis, kbest, lists_of

Rows = list[tuple[list[dict[str, Any]], str]]
WEIGHTS = st.sampled_from([0.0, 0.25, 1.0, 2.0, 8.0])


def sorted_rows() -> st.SearchStrategy[Rows]:
    """Rows whose lists are in the order of their scores, as every search writes them. Ties are frequent."""
    one = st.builds(hypothesis, SENTENCES.filter(bool), st.sampled_from([-3.0, -1.5, -1.0, -0.5, -0.25]))
    lists = st.lists(one, min_size=1, max_size=6).map(lambda found: sorted(found, key=lambda each: -each["score"]))
    return st.lists(st.tuples(lists, SENTENCES.filter(bool)), min_size=1, max_size=4)


def chosen(rule: str, rows: Rows, settings: FearSettings | None = None) -> list[int]:
    """Rank of the chosen hypothesis of each row."""
    lists = lists_of(rows)
    values = resolve(str(RULES.own[rule].values))(lists, Means(settings=settings))
    return [int(lists.ranks[pick]) for pick in choose(lists, values, Filters(), "drop").picks]


def choose_plainly(found: list[dict[str, Any]], reference: str, settings: HopeSettings) -> tuple[int, int]:
    """Hope and fear of one list by the loop of k-best MIRA: strict comparisons in the order of the list."""
    scores = [one["score"] for one in found]
    gains = [sacrebleu.sentence_bleu(one["text"], [reference]).score / 100.0 for one in found]
    if settings.normalise == "z":
        scores, gains = standardise(scores), standardise(gains)
    scale = 1.0
    for attempt in range(2):
        hope, best = 0, -math.inf
        for n, (score, gain) in enumerate(zip(scores, gains, strict=True)):
            if scale * score + settings.weight * gain > best:
                hope, best = n, scale * score + settings.weight * gain
        limit = 5.0 * settings.weight * abs(gains[hope])
        if attempt or not settings.safe or limit >= abs(scores[hope]):
            break
        scale = limit / abs(scores[hope])
    fear, worst = 0, -math.inf
    for n, (score, gain) in enumerate(zip(scores, gains, strict=True)):
        if score - settings.weight * gain > worst:
            fear, worst = n, score - settings.weight * gain
    return hope, fear


def standardise(values: list[float]) -> list[float]:
    mean, deviation = np.mean(values), np.std(values)
    return [0.0 if min(values) == max(values) else float((value - mean) / deviation) for value in values]


@given(rows=sorted_rows(), weight=WEIGHTS, safe=st.booleans())
@examples(100)
def test_hope_and_fear_are_those_of_the_loop_of_kbest_mira(rows: Rows, weight: float, safe: bool) -> None:
    settings = HopeSettings(weight=weight, safe=safe)
    expected = [choose_plainly(found, reference, settings) for found, reference in rows]
    assert chosen("hope", rows, settings) == [hope for hope, _ in expected]
    assert chosen("fear", rows, settings) == [fear for _, fear in expected]


@given(rows=sorted_rows(), weight=st.sampled_from([0.1, 0.7, 3.0]))
@examples(50)
def test_with_z_score_and_bleu_are_standardised_within_the_list(rows: Rows, weight: float) -> None:
    lists = lists_of(rows)
    settings = HopeSettings(weight=weight, normalise="z")
    for rule, sign in (("hope", 1.0), ("fear", -1.0)):
        values = resolve(str(RULES.own[rule].values))(lists, Means(settings=settings))
        expected = []
        for found, reference in rows:
            gains = [sacrebleu.sentence_bleu(one["text"], [reference]).score for one in found]
            scores = standardise([one["score"] for one in found])
            expected += [s + sign * weight * g for s, g in zip(scores, standardise(gains), strict=True)]
        assert values == pytest.approx(np.array(expected), abs=1e-9)


@given(rows=sorted_rows())
def test_hope_lies_between_seqkd_and_seqinter(rows: Rows) -> None:
    assert chosen("hope", rows, HopeSettings(weight=0.0)) == chosen("seqkd", rows)
    assert chosen("fear", rows, FearSettings(weight=0.0)) == chosen("seqkd", rows)
    assert chosen("hope", rows, HopeSettings(weight=0.0, safe=True)) == chosen("seqkd", rows)
    assert chosen("hope", rows, HopeSettings(weight=1e9)) == chosen("seqinter", rows)


@given(rows=sorted_rows(), weight=WEIGHTS, safe=st.booleans())
@examples(50)
def test_the_hope_is_never_worse_than_the_fear(rows: Rows, weight: float, safe: bool) -> None:
    settings = HopeSettings(weight=weight, safe=safe)
    lists = lists_of(rows)
    gains = choose_fear(lists, Means(settings=settings)).gains
    hopes, fears = (lists.firsts + chosen(rule, rows, settings) for rule in ("hope", "fear"))
    assert (gains[hopes] >= gains[fears]).all()


def test_a_safe_hope_hears_the_reference_beside_large_scores() -> None:
    texts = [hypothesis("a dog ran away .", -20.0), hypothesis("the cat sat on the mat .", -24.0)]
    row = [(texts, "the cat sat on the mat .")]
    assert chosen("hope", row, HopeSettings()) == [0]
    assert chosen("hope", row, HopeSettings(safe=True)) == [1]


def test_rows_without_hypotheses_have_no_values() -> None:
    lists = lists_of([([], "the cat"), (kbest("the cat", "a dog"), "the cat"), ([], "a")])
    for settings in (HopeSettings(safe=True), HopeSettings(normalise="z")):
        assert len(resolve(str(RULES.own["hope"].values))(lists, Means(settings=settings))) == 2
        nothing: Lists = lists_of([([], "x")])
        assert len(resolve(str(RULES.own["hope"].values))(nothing, Means(settings=settings))) == 0


def test_settings_that_contradict_each_other_are_refused() -> None:
    read = adapter(RULES.own["hope"].settings).validate_python
    with pytest.raises(ValidationError, match="safe: compares"):
        read({"safe": True, "normalise": "z"})
    for weight in (-1.0, math.inf):
        with pytest.raises(ValidationError, match="weight"):
            read({"weight": weight})

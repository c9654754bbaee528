from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sacrebleu
from hypothesis import given

from seqkd.extensions import resolve, settings_class
from seqkd.selection.choosing import choose
from seqkd.selection.filters import Filters
from seqkd.selection.lists import Floats, Lists
from seqkd.selection.registry import RULES
from seqkd.selection.rules import Means
from seqkd.selection.sentence_bleu import SentenceBleu
from tests.properties import examples
from tests.unit.selection.support import SENTENCES, hypothesis, kbest, lists_of, rows, split

Rows = list[tuple[list[dict[str, Any]], str]]
MEANS = Means(judge=lambda lists: -lists.lengths.astype(np.float64))


def values(rule: str, lists: Lists, means: Means) -> Floats:
    found: Floats = resolve(str(RULES.own[rule].values))(lists, means)
    return found


def chosen(rule: str, rows: Rows, means: Means = MEANS) -> list[int]:
    """Rank of the chosen hypothesis in each row; -1 where there is none."""
    lists = lists_of(rows)
    choice = choose(lists, values(rule, lists, means), Filters(), "drop")
    return [int(lists.ranks[pick]) if pick >= 0 else -1 for pick in choice.picks]


@given(rows=rows())
def test_seqkd_takes_the_first_hypothesis_whatever_the_reference(rows: Rows) -> None:
    expected = [0 if hypotheses and hypotheses[0]["text"] else -1 for hypotheses, _ in rows]
    assert chosen("seqkd", rows) == expected


@pytest.mark.parametrize("rule", ["seqinter", "oracle", "chrf", "ter"])
def test_takes_the_hypothesis_nearest_to_the_reference(rule: str) -> None:
    texts = kbest("a dog ran away .", "the cat sat on a mat .", "the cat sat on the mat .")
    assert chosen(rule, [(texts, "the cat sat on the mat ."), (texts, "a dog ran away .")]) == [2, 0]


def test_seqinter_gives_equal_bleu_to_the_better_score_then_to_the_better_rank() -> None:
    texts = ("other", "the cat", "the cat", "the cat")
    scores = (-0.125, -3.0, -2.0, -2.0)
    assert chosen("seqinter", [(list(map(hypothesis, texts, scores)), "the cat")]) == [2]


def test_seqinter_without_any_overlap_falls_back_to_the_best_score() -> None:
    assert chosen("seqinter", [(kbest("x", "y", ""), "the cat")]) == [0]


@given(rows=rows())
def test_seqinter_is_the_highest_sacrebleu(rows: Rows) -> None:
    lists = lists_of(rows)
    expected = [
        [sacrebleu.sentence_bleu(one["text"], [reference]).score for one in hypotheses]
        for hypotheses, reference in rows
    ]
    assert split(values("seqinter", lists, MEANS), lists) == expected


@given(rows=rows())
@examples(30)
def test_chrf_and_ter_are_sacrebleus(rows: Rows) -> None:
    lists = lists_of(rows)
    for rule, measure, sign in (("chrf", sacrebleu.sentence_chrf, 1.0), ("ter", sacrebleu.sentence_ter, -1.0)):
        expected = [[sign * measure(one["text"], [ref]).score for one in found] for found, ref in rows]
        assert split(values(rule, lists, MEANS), lists) == expected


def test_ter_ignores_case_and_the_other_measures_observe_it() -> None:
    lists = lists_of([([hypothesis("The Cat sat here")], "the cat sat here")])
    assert values("ter", lists, MEANS).tolist() == [0.0]
    assert all(values(rule, lists, MEANS)[0] < 100.0 for rule in ("chrf", "seqinter"))


def test_pieces_count_in_place_of_words() -> None:
    hypotheses = [hypothesis("one", ids=[1, 2, 3, 4]), hypothesis("gold", ids=[5])]
    lists = lists_of([(hypotheses, "gold")])
    assert values("seqinter", lists, Means()).tolist() == pytest.approx([0.0, 100.0])
    pieces = values("seqinter", lists, Means(bleu=SentenceBleu("none"), pieces=True))
    assert pieces.tolist() == [0.0, 0.0]  # the reference's pieces are neither's


def posterior(hypotheses: list[dict[str, Any]]) -> list[float]:
    mass = np.exp([one["logprob"] for one in hypotheses])
    return list(mass / mass.sum())


@pytest.mark.parametrize(
    ("rule", "measure"), [("mbr-bleu", sacrebleu.sentence_bleu), ("mbr-chrf", sacrebleu.sentence_chrf)]
)
@given(rows=rows(3))
@examples(30)
def test_mbr_is_the_expected_gain(rule: str, measure: Any, rows: Rows) -> None:
    lists = lists_of(rows)
    expected = [
        [
            sum(
                p * measure(one["text"], [other["text"]]).score
                for p, other in zip(posterior(found), found, strict=True)
            )
            for one in found
        ]
        for found, _ in rows
    ]
    for ours, wanted in zip(split(values(rule, lists, MEANS), lists), expected, strict=True):
        assert ours == pytest.approx(wanted, abs=1e-9)


def test_mbr_takes_what_the_others_are_like() -> None:
    texts = ("a dog ran far", "the cat sat here now", "the cat sat here", "the cat sat here too")
    assert chosen("mbr-bleu", [(list(map(hypothesis, texts)), "a dog ran far")]) == [2]


def test_a_sample_follows_the_teacher_and_the_seed() -> None:
    found = [hypothesis("likely", logprob=float(np.log(0.6))), hypothesis("rare", logprob=float(np.log(0.2)))]
    many = [(found, "x")] * 4000
    first = chosen("sample", many)
    assert np.mean(first) == pytest.approx(0.25, abs=0.03)
    assert chosen("sample", many) == first
    other = chosen("sample", many, Means(seed=2))
    assert other != first
    assert np.mean(other) == pytest.approx(0.25, abs=0.03)
    assert np.mean(np.array(first) == other) == pytest.approx(0.75**2 + 0.25**2, abs=0.04)  # independent


def test_a_draw_is_the_rows_own() -> None:
    found = [hypothesis(text) for text in ("a", "b", "c")]
    together = values("sample", lists_of([(found, "x")] * 5), MEANS).reshape(5, 3)
    alone = values("sample", lists_of([(found, "x")], first_id=3), MEANS)
    assert together[3].tolist() == alone.tolist()


def test_impossible_hypotheses_are_not_drawn() -> None:
    found = [hypothesis("never", logprob=-2000.0), hypothesis("always", logprob=-1.0)]
    assert set(chosen("sample", [(found, "x")] * 300)) == {1}


def test_score_takes_the_highest_score() -> None:
    assert chosen("score", [(kbest("a b c", "a", "a b"), "x")]) == [1]
    with pytest.raises(ValueError, match="needs a scorer"):
        values("score", lists_of([(kbest("a"), "x")]), Means())


@pytest.mark.parametrize("rule", sorted(name for name, record in RULES.own.items() if record.values))
@given(rows=rows(3), reference=SENTENCES)
@examples(10)
def test_every_rule_weighs_rows_on_their_own(rule: str, rows: Rows, reference: str) -> None:
    rows = [*rows, ([], reference), (kbest("only one"), reference)]
    lists = lists_of(rows)
    means = replace(MEANS, settings=settings_class(RULES.own[rule].settings)())
    together = values(rule, lists, means)
    assert together.shape == lists.owners.shape
    piecewise: list[Lists] = list(lists.pieces(1))
    apart = [values(rule, piece, means) for piece in piecewise]
    assert np.concatenate(apart) == pytest.approx(together)
    assert chosen(rule, rows, means)[-2:] == [-1, 0]


@given(rows=rows())
def test_mbr_score_is_the_expected_score_over_the_list(rows: Rows) -> None:
    lists = lists_of(rows)

    def overlap(hypothesis: str, reference: str) -> float:
        if hypothesis == "ü" or reference == "ü":
            return -np.inf  # such a text cannot be scored
        return len(set(hypothesis.split()) & set(reference.split())) - 0.1 * len(hypothesis)

    def judge(asked: Lists) -> Floats:
        references = asked.references.take(asked.owners).to_pylist()
        return np.array([overlap(*pair) for pair in zip(asked.texts.to_pylist(), references, strict=True)])

    found = values("mbr-score", lists, Means(judge=judge))
    expected = []
    for hypotheses, _ in rows:
        mass = np.exp([one["logprob"] for one in hypotheses])
        for one in hypotheses:
            utilities = [overlap(one["text"], other["text"]) for other in hypotheses]
            failed = -np.inf in utilities
            expected.append(-np.inf if failed else float(np.dot(mass / mass.sum(), utilities)))
    assert found == pytest.approx(np.array(expected))

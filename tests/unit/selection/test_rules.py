from __future__ import annotations

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from seqkd.selection import RULES, Candidate
from seqkd.selection.rules import sentence_bleu

WORDS = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat", ".", "it's", "3.5", "ü"]), max_size=12)
SENTENCES = WORDS.map(" ".join)
SCORES = st.floats(-20.0, 0.0, allow_nan=False)
LISTS = st.lists(st.builds(lambda text, score: Candidate(text=text, score=score), SENTENCES, SCORES), min_size=1)


def kbest(*texts: str) -> list[Candidate]:
    return [Candidate(text=text, score=-float(rank)) for rank, text in enumerate(texts)]


@given(candidates=LISTS, reference=SENTENCES)
def test_seqkd_takes_the_first_hypothesis_whatever_the_reference(candidates: list[Candidate], reference: str) -> None:
    assert RULES["seqkd"](candidates, reference) == 0


def test_seqinter_takes_the_hypothesis_nearest_to_the_reference() -> None:
    candidates = kbest("a dog ran away .", "the cat sat on a mat .", "the cat sat on the mat .")
    assert RULES["seqinter"](candidates, "the cat sat on the mat .") == 2
    assert RULES["seqinter"](candidates, "a dog ran away .") == 0


def test_seqinter_gives_equal_bleu_to_the_better_score_then_to_the_better_rank() -> None:
    texts = ("other", "the cat", "the cat", "the cat")
    scores = (-0.1, -3.0, -2.0, -2.0)
    candidates = [Candidate(text=text, score=score) for text, score in zip(texts, scores, strict=True)]
    assert RULES["seqinter"](candidates, "the cat") == 2


def test_seqinter_without_any_overlap_falls_back_to_the_best_score() -> None:
    assert RULES["seqinter"](kbest("x", "y", ""), "the cat") == 0


@given(candidates=LISTS, reference=SENTENCES)
def test_seqinter_finds_the_highest_sacrebleu(candidates: list[Candidate], reference: str) -> None:
    chosen = RULES["seqinter"](candidates, reference)
    scores = [sacrebleu.sentence_bleu(candidate.text, [reference]).score for candidate in candidates]
    assert scores[chosen] == max(scores)
    rivals = [rank for rank, score in enumerate(scores) if score == max(scores)]
    assert candidates[chosen].score == max(candidates[rank].score for rank in rivals)


@given(candidates=LISTS, reference=SENTENCES)
def test_seqinter_does_not_depend_on_worse_candidates(candidates: list[Candidate], reference: str) -> None:
    chosen = RULES["seqinter"](candidates, reference)
    assert RULES["seqinter"](candidates[: chosen + 1], reference) == chosen


@given(hypothesis=SENTENCES, reference=SENTENCES)
def test_sentence_bleu_is_sacrebleus(hypothesis: str, reference: str) -> None:
    assert sentence_bleu(hypothesis, reference) == sacrebleu.sentence_bleu(hypothesis, [reference]).score


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_points_into_the_list(rule: str) -> None:
    assert RULES[rule](kbest("only one"), "the cat") == 0

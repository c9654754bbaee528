"""Sentence BLEU equals sacrebleu's, to the last bit, with kernels and without."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from seqkd.kernels import bleu
from seqkd.selection.sentence_bleu import SentenceBleu, Smoothing, Tokens
from tests.properties import examples

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    ".",
    "it's",
    "3.5",
    "ü",
    "1,000-2",
    "...",
    "&amp;lt;",
    "-\n",
    "<skipped>",
]
BLANKS = [" ", "  ", "\n", "\t", "\r\n", "\x1c", "\x85", "\xa0", "\u1680", "\u2009", "\u2028", "\u205f", "\u3000"]
MARKS = [
    "&quot;",
    "&",
    "&amp;",
    "-",
    "<",
    ">",
    ",",
    ".",
    "/",
    "7",
    "é",
    "中",
    "すもも",
    "もものうち。",
    "東京都",
    "文",
    "\u2001",
    "\u2f9f",
    "\uff0c",
    "𠀀",
    "😀",
    "\x00",
]
SENTENCES = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
TEXTS = st.one_of(
    SENTENCES,
    st.lists(st.sampled_from(MARKS + BLANKS + WORDS), max_size=20).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
LISTS = st.lists(st.tuples(st.lists(TEXTS, max_size=4), TEXTS), max_size=4)
JAPANESE = pytest.param(
    "ja-mecab", marks=pytest.mark.skipif(not (find_spec("MeCab") and find_spec("ipadic")), reason="needs the extra ja")
)
TOKENIZERS = ("13a", "none", "char", "intl", "zh", JAPANESE)


WITHOUT = pytest.param(lambda: None, id="numpy")
WITH = pytest.param(
    bleu.kernels, id="kernels", marks=pytest.mark.skipif(bleu.kernels() is None, reason="needs a C++ compiler")
)
ways = pytest.mark.parametrize("way", [WITH, WITHOUT])

Way = Callable[[], Any]


def scores_of(bleu: SentenceBleu, lists: list[tuple[list[str], str]]) -> list[list[float]]:
    texts = [text for hypotheses, _ in lists for text in hypotheses]
    counts = np.array([len(hypotheses) for hypotheses, _ in lists], dtype=np.int64)
    tokens = bleu.tokens(pa.array(texts + [reference for _, reference in lists], pa.string()))
    firsts = np.cumsum(counts) - counts
    found = bleu.scores(tokens, len(texts) + np.arange(len(lists)), firsts, counts)
    return [part.tolist() for part in np.split(found, np.cumsum(counts))[:-1]] if len(lists) else []


@ways
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@given(lists=LISTS)
@example(lists=[(["", "a"], "")])
@example(lists=[(["a", "a a a a a a"], "a")])
@example(lists=[(["...", "1.,2", "x-\ny", "x-\n", "5-5-5"], "... . 1 . , 2")])
@examples(60)
def test_equals_sacrebleu(way: Way, tokenizer: str, lists: list[tuple[list[str], str]]) -> None:
    reference = BLEU(tokenize=tokenizer, effective_order=True)
    wanted = [[reference.sentence_score(text, [one]).score for text in texts] for texts, one in lists]
    assert scores_of(SentenceBleu(tokenizer, kernels=way), lists) == wanted


@ways
@pytest.mark.parametrize("smoothing", ["none", "exp", "floor", "add-k"])
@pytest.mark.parametrize("effective", [True, False])
@given(lists=LISTS, value=st.sampled_from([None, 0.01, 0.5, 2.0]))
@examples(40)
def test_equals_sacrebleu_with_every_smoothing(
    way: Way, smoothing: Smoothing, effective: bool, lists: list[tuple[list[str], str]], value: float | None
) -> None:
    reference = BLEU(smooth_method=smoothing, smooth_value=value, effective_order=effective)
    wanted = [[reference.sentence_score(text, [one]).score for text in texts] for texts, one in lists]
    assert scores_of(SentenceBleu("13a", smoothing, value, effective, kernels=way), lists) == wanted


@ways
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@given(texts=st.lists(TEXTS, max_size=6))
@examples(100)
def test_words_are_sacrebleus(way: Way, tokenizer: str, texts: list[str]) -> None:
    tokens = SentenceBleu(tokenizer, kernels=way).tokens(pa.array(texts, pa.string()))
    cut = BLEU(tokenize=tokenizer).tokenizer
    words = [word for text in texts for word in cut(text.rstrip()).split()]
    assert np.diff(tokens.starts).tolist() == [len(cut(text.rstrip()).split()) for text in texts]
    # Equal ids and equal words go together.
    assert len(set(words)) == len(set(tokens.ids.tolist())) == len(set(zip(words, tokens.ids.tolist(), strict=True)))


@ways
@given(
    lists=st.lists(
        st.tuples(
            st.lists(st.lists(st.integers(0, 5), max_size=9), max_size=4), st.lists(st.integers(0, 5), max_size=9)
        ),
        max_size=4,
    )
)
@examples(60)
def test_ids_count_as_words(way: Way, lists: list[tuple[list[list[int]], list[int]]]) -> None:
    rows = [ids for hypotheses, _ in lists for ids in hypotheses]
    counts = np.array([len(hypotheses) for hypotheses, _ in lists], dtype=np.int64)
    array = pa.array([[9], *rows, *(reference for _, reference in lists)], pa.list_(pa.int32())).slice(1)
    found = SentenceBleu("none", kernels=way).scores(
        Tokens.of_lists(array), len(rows) + np.arange(len(lists)), np.cumsum(counts) - counts, counts
    )
    plain = BLEU(tokenize="none", effective_order=True)
    wanted = [
        plain.sentence_score(" ".join(map(str, ids)), [" ".join(map(str, reference))]).score
        for hypotheses, reference in lists
        for ids in hypotheses
    ]
    assert found.tolist() == wanted


@ways
def test_many_words_and_a_slice_of_an_array(way: Way) -> None:
    texts = [" ".join(f"w{(7 * row + i * i) % 9001}" for i in range(60)) for row in range(400)]
    bleu = SentenceBleu("none", kernels=way)
    tokens = bleu.tokens(pa.array(["not this", *texts], pa.string()).slice(1))
    everything = bleu.scores(tokens, np.array([3]), np.array([0]), np.array([400]))
    plain = BLEU(tokenize="none", effective_order=True)
    assert everything.tolist() == [plain.sentence_score(text, [texts[3]]).score for text in texts]


@ways
def test_texts_outside_are_refused(way: Way) -> None:
    bleu = SentenceBleu(kernels=way)
    tokens = bleu.tokens(pa.array(["a", "b"]))
    for reference, first, count in ((2, 0, 1), (0, 1, 2), (-1, 0, 1), (0, 0, -1)):
        with pytest.raises(IndexError, match="outside 0 to 1"):
            bleu.scores(tokens, np.array([reference]), np.array([first]), np.array([count]))


@ways
def test_threads_do_not_disturb_each_other(way: Way) -> None:
    bleu = SentenceBleu(kernels=way)

    def work(seed: int) -> list[list[float]]:
        words = [f"{seed}-{i % 7}." for i in range(40)]
        return scores_of(bleu, [([" ".join(words[i:]) for i in range(30)], " ".join(words))] * 20)

    alone = [work(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == alone


@pytest.mark.parametrize("way", [WITH])  # without kernels Python itself adds up
@given(lists=LISTS)
@examples(60)
def test_adds_up_as_newer_pythons_do(way: Way, lists: list[tuple[list[str], str]]) -> None:
    bleu = SentenceBleu(kernels=way)
    bleu._settings = (*bleu._settings[:-1], 1)
    plain = BLEU(effective_order=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sacrebleu.metrics.bleu.sum", compensated, raising=False)
        wanted = [[plain.sentence_score(text, [one]).score for text in texts] for texts, one in lists]
    assert scores_of(bleu, lists) == wanted


def compensated(values: list[float]) -> float:
    """The sum of floats in Python 3.12 and later (Neumaier 1974)."""
    high, low = float(values[0]), 0.0
    for value in values[1:]:
        total = high + value
        low += (high - total) + value if abs(high) >= abs(value) else (value - total) + high
        high = total
    return high + low

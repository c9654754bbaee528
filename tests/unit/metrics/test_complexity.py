from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.metrics.alignment import AlignedCounts, RaggedIds, align
from seqkd.metrics.complexity import SMOOTHING, complexity, faithfulness

COUNTS = st.dictionaries(st.tuples(st.integers(0, 5), st.integers(0, 5)), st.integers(1, 50))


def translate(sources: list[list[int]], dictionaries: int, rng: np.random.Generator) -> list[list[int]]:
    """Translate each sentence word by word; each word has one translation in each dictionary, and one is drawn."""
    return [[100 * int(rng.integers(1, dictionaries + 1)) + word for word in words] for words in sources]


def counts(table: dict[tuple[int, int], int]) -> AlignedCounts:
    keys = sorted(table)
    return AlignedCounts(
        source=np.array([x for x, _ in keys], dtype=np.int64),
        target=np.array([y for _, y in keys], dtype=np.int64),
        counts=np.array([table[key] for key in keys], dtype=np.int64),
    )


def test_complexity_is_the_mean_entropy_of_a_source_word() -> None:
    table = counts({(1, 10): 5, (2, 10): 3, (2, 11): 3})
    assert complexity(table) == pytest.approx((0.0 + math.log(2)) / 2)


def test_one_translation_each_is_not_complex_at_all() -> None:
    assert complexity(counts({(1, 10): 5, (2, 11): 7})) == 0.0
    assert complexity(counts({})) == 0.0


def test_faithfulness_by_hand() -> None:
    real, distilled = counts({(1, 10): 3, (1, 11): 1}), counts({(1, 10): 4})
    p = np.array([3 + SMOOTHING, 1 + SMOOTHING]) / (4 + 2 * SMOOTHING)
    q = np.array([4 + SMOOTHING, SMOOTHING]) / (4 + 2 * SMOOTHING)
    assert faithfulness(real, distilled) == pytest.approx(float(np.sum(p * np.log(p / q))))


def test_words_of_one_corpus_alone_do_not_count() -> None:
    real, distilled = counts({(1, 10): 3, (2, 11): 1}), counts({(1, 10): 9, (7, 90): 4})
    assert faithfulness(real, distilled) == pytest.approx(0.0)
    assert faithfulness(counts({(1, 1): 1}), counts({})) == 0.0


@given(COUNTS)
def test_a_corpus_is_faithful_to_itself(table: dict[tuple[int, int], int]) -> None:
    assert faithfulness(counts(table), counts(table)) == pytest.approx(0.0)


@given(COUNTS, COUNTS)
def test_neither_is_ever_negative(one: dict[tuple[int, int], int], other: dict[tuple[int, int], int]) -> None:
    assert complexity(counts(one)) >= 0.0
    assert faithfulness(counts(one), counts(other)) >= -1e-12


def test_complexity_and_faithfulness_of_constructed_corpora() -> None:
    """The aligner is fitted on a corpus by one dictionary, on its copy, and on a corpus that mixes two dictionaries."""
    rng = np.random.default_rng(3)
    sources = [rng.permutation(12)[: rng.integers(2, 7)].tolist() for _ in range(400)]
    one, both = translate(sources, 1, rng), translate(sources, 2, rng)
    fixed, copy, mixed = align([(ragged(sources), ragged(text)) for text in (one, one, both)])
    assert complexity(fixed) == 0.0
    assert complexity(mixed) == pytest.approx(math.log(2), abs=0.02)
    assert faithfulness(fixed, copy) == pytest.approx(0.0)
    assert faithfulness(mixed, mixed) == pytest.approx(0.0)
    assert faithfulness(fixed, mixed) == pytest.approx(math.log(2), abs=0.05)
    assert faithfulness(mixed, fixed) > 1.0  # the dictionary lacks half of the translations


def ragged(sentences: list[list[int]]) -> RaggedIds:
    return RaggedIds(
        ids=np.array([token for sentence in sentences for token in sentence], dtype=np.int64),
        lengths=np.array([len(sentence) for sentence in sentences], dtype=np.int64),
    )

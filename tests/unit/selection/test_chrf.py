from __future__ import annotations

import numpy as np
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from seqkd.selection.chrf import compute_chrf
from tests.properties import examples

# Few letters, so that n-grams occur in several texts and several times in one.
TEXTS = st.lists(st.text(alphabet="ab \u00e9\u4e2d\U0001f600", max_size=18), max_size=5)


@examples(200)
@given(texts=TEXTS, references=TEXTS)
def test_equals_sacrebleu(texts: list[str], references: list[str]) -> None:
    found = compute_chrf(texts, references)
    assert found.shape == (len(references), len(texts))
    expected = [[sacrebleu.sentence_chrf(text, [reference]).score for text in texts] for reference in references]
    assert np.array_equal(found, np.array(expected).reshape(found.shape))


def test_an_equal_text_has_100_and_text_without_characters_0() -> None:
    assert compute_chrf(["A dog runs.", " "], ["A dog runs.", ""]).tolist() == [[100.0, 0.0], [0.0, 0.0]]

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.text.normalize import Normalizer

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("plain text", "plain text"),
        ("  outer  and   inner ", "outer and inner"),
        ("\uff46\uff55\uff4c\uff4c\u3000width", "full width"),
        ("ﬁne ①", "fine 1"),
        ("a\u2028b\u00a0c\td", "a b c d"),
        ("\ufeffmark", "mark"),
        ("bell\x07", "bell"),
        ("e\u0301", "é"),
        ("\u2581under", "under"),
        ("", ""),
        ("   ", ""),
    ],
)
def test_examples(text: str, normal: str) -> None:
    assert Normalizer()(text) == normal


@given(TEXT)
def test_words_are_joined_by_single_spaces(text: str) -> None:
    normal = Normalizer()(text)
    assert normal == " ".join(normal.split())


def test_many_are_as_one_by_one() -> None:
    texts = ["a  b", "", "\uff43", "d "]
    normalizer = Normalizer()
    assert normalizer.many(texts) == [normalizer(text) for text in texts]
    assert normalizer.many([]) == []

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.text.normalize import NORMALIZATIONS, Normalization, Normalizer

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
    assert normalizer.normalize_all(texts) == [normalizer(text) for text in texts]
    assert normalizer.normalize_all([]) == []


@pytest.mark.parametrize(
    ("rules", "normal"),
    [
        ("nmt_nfkc", ["A", "1\u20442", "a b", "\u00e9"]),
        ("nfkc", ["A", "1\u20442", "a\u200cb", "\u00e9"]),
        ("nfc", ["\uff21", "\u00bd", "a\u200cb", "\u00e9"]),
        ("identity", ["\uff21", "\u00bd", "a\u200cb", "e\u0301"]),
    ],
)
def test_rules_differ_in_what_they_change(rules: Normalization, normal: list[str]) -> None:
    texts = ["\uff21", "\u00bd", "a\u200cb", "e\u0301"]
    assert Normalizer(rules).normalize_all(texts) == normal


@given(st.lists(TEXT), st.sampled_from(NORMALIZATIONS))
def test_normalising_twice_changes_nothing_more(texts: list[str], rules: Normalization) -> None:
    normal = Normalizer(rules).normalize_all(texts)
    assert Normalizer(rules).normalize_all(normal) == normal

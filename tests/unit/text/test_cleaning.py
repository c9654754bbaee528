from __future__ import annotations

import pytest

from seqkd.text.cleaning import EMPTY_SIDE, IDENTICAL_SIDES, LENGTH_RATIO, TOO_LONG, Cleaner


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("a b", "c d", None),
        ("", "c", EMPTY_SIDE),
        ("a", "", EMPTY_SIDE),
        ("", "", EMPTY_SIDE),
        ("a a a a a", "b b b b b", None),
        ("a a a a a a", "b b b b b", TOO_LONG),
        ("a a a a a", "b b b b b b", TOO_LONG),
        ("a", "b b", None),
        ("a", "b b b", LENGTH_RATIO),
        ("a a a a a", "b b", LENGTH_RATIO),
        ("same text", "same text", IDENTICAL_SIDES),
        ("same text", "Same text", None),
    ],
)
def test_reasons(source: str, target: str, reason: str | None) -> None:
    cleaner = Cleaner(max_length=5, max_ratio=2.0, drop_identical=True)
    assert cleaner.reason(source, target) == reason


def test_identical_sides_may_stay() -> None:
    assert Cleaner(max_length=5, max_ratio=2.0, drop_identical=False).reason("same", "same") is None

from __future__ import annotations

import pytest

from seqkd.text.cleaning import EMPTY_SIDE, IDENTICAL_SIDES, LENGTH_RATIO, TOO_LONG, Cleaner, Units


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
    cleaner = Cleaner(max_length=5, max_ratio=2.0, drop_identical=True, units=Units())
    assert cleaner.reason(source, target) == reason


def test_identical_sides_may_stay() -> None:
    assert Cleaner(max_length=5, max_ratio=2.0, drop_identical=False, units=Units()).reason("same", "same") is None


def test_a_word_of_thousands_of_letters_is_no_word() -> None:
    cleaner = Cleaner(max_length=250, max_ratio=9.0, drop_identical=True, units=Units())
    assert cleaner.reason("one", "b" * 1000) is None
    assert cleaner.reason("one", "b" * 1001) == TOO_LONG
    assert cleaner.reason("a" * 100_000, "one") == TOO_LONG
    assert cleaner.reason(" ".join(["long"] * 250), " ".join(["lang"] * 250)) is None


ENGLISH = "the small farmer sees the old house near the river today"
CHINESE = "\u90a3\u4e2a\u5c0f\u519c\u6c11\u4eca\u5929\u5728\u6cb3\u8fb9\u770b\u5230\u8001\u623f\u5b50"


def test_sides_without_blanks_are_counted_in_characters() -> None:
    units = Units.of([(ENGLISH, CHINESE)] * 3, "en", "zh")
    assert (units.source_blanks, units.target_blanks) == (True, False)
    assert units.ratio == len(CHINESE) / len(ENGLISH.replace(" ", ""))
    cleaner = Cleaner(max_length=20, max_ratio=3.0, drop_identical=True, units=units)
    assert cleaner.reason(ENGLISH, CHINESE) is None
    assert cleaner.reason(ENGLISH, CHINESE[:6]) is None
    assert cleaner.reason(ENGLISH, CHINESE[:4]) == LENGTH_RATIO
    assert cleaner.reason(ENGLISH[:9], CHINESE) == LENGTH_RATIO
    assert cleaner.reason(ENGLISH, CHINESE * 2) == TOO_LONG  # 30 characters
    assert cleaner.reason(" ".join(["a"] * 21), CHINESE) == TOO_LONG  # 21 words
    # The order of the sides makes no difference.
    mirrored = Units.of([(CHINESE, ENGLISH)] * 3, "zh", "en")
    back = Cleaner(max_length=20, max_ratio=3.0, drop_identical=True, units=mirrored)
    for length in range(1, 16):
        assert cleaner.reason(ENGLISH, CHINESE[:length]) == back.reason(CHINESE[:length], ENGLISH)


@pytest.mark.parametrize(
    ("texts", "language", "blanks"),
    [
        (CHINESE, None, False),
        (ENGLISH, None, True),
        (f"{CHINESE} ABC", None, False),
        (f"{ENGLISH} {CHINESE[:5]}", None, True),
        ("\u30d1\u30f3\u3092\u98df\u3079\u308b", None, False),
        ("\u0e09\u0e31\u0e19\u0e23\u0e31\u0e01\u0e04\u0e38\u0e13", None, False),
        ("\ud559\uad50\uc5d0 \uac11\ub2c8\ub2e4", None, True),
        ("123 !?", None, True),
        (ENGLISH, "ja", False),
        (ENGLISH, "zh-Hant", False),
        (ENGLISH, "zho_Hans", False),
        (CHINESE, "zh-Latn", True),
        (CHINESE, "de", True),
    ],
)
def test_blanks_are_known_by_the_language_or_seen_in_the_text(texts: str, language: str | None, blanks: bool) -> None:
    assert Units.of([(texts, ENGLISH)], language, "en").source_blanks == blanks
    assert Units.of([(ENGLISH, texts)], "en", language).target_blanks == blanks


def test_text_with_blanks_is_counted_in_words_whatever_its_ratio() -> None:
    assert Units.of([("a", "bbbbbbbb")], None, None) == Units()
    assert Units.of([], None, None) == Units()
    assert Units.of([], "en", "zh").ratio == 1.0

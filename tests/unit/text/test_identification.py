from __future__ import annotations

import sys

import pytest

from seqkd.errors import InputError
from seqkd.text.cleaning import WRONG_SOURCE_LANGUAGE, WRONG_TARGET_LANGUAGE, Cleaner, Units
from seqkd.text.identification import LanguageCheck

pytest.importorskip("py3langid")

GERMAN = "Die Kinder spielen heute im Garten hinter dem Haus."
ENGLISH = "The children are playing in the garden behind the house."


def test_texts_in_another_language_are_foreign() -> None:
    german, english = LanguageCheck("de-AT", "test"), LanguageCheck("en", "test")
    assert [german.is_foreign(text) for text in (GERMAN, ENGLISH)] == [False, True]
    assert [english.is_foreign(text) for text in (GERMAN, ENGLISH)] == [True, False]


@pytest.mark.parametrize("text", ["OK", "2008", "-", "Berlin", "Windows 95"])
def test_a_text_that_says_too_little_is_not_foreign(text: str) -> None:
    assert not LanguageCheck("de", "test").is_foreign(text)
    assert not LanguageCheck("fi", "test").is_foreign(text)


def test_each_side_has_its_reason() -> None:
    checks = LanguageCheck("de", "test"), LanguageCheck("en", "test")
    both = Cleaner(max_length=50, max_ratio=9.0, drop_identical=True, units=Units(), languages=checks)
    assert both.reason(GERMAN, ENGLISH) is None
    assert both.reason(ENGLISH, f"{ENGLISH} Yes.") == WRONG_SOURCE_LANGUAGE
    assert both.reason(GERMAN, f"{GERMAN} Ja.") == WRONG_TARGET_LANGUAGE
    target = Cleaner(max_length=50, max_ratio=9.0, drop_identical=True, units=Units(), languages=(None, checks[1]))
    assert target.reason(ENGLISH, f"{ENGLISH} Yes.") is None


def test_codes_of_the_model() -> None:
    assert not LanguageCheck("nb", "test").is_foreign("Barna leker i hagen bak huset i dag.")
    with pytest.raises(InputError, match=r"(?s)cleaning.language: py3langid does not know the language 'deu'.*, de, "):
        LanguageCheck("deu", "cleaning.language")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(InputError, match=r"(?s)needs py3langid, which is not installed.*seqkd\[langid\]"):
        LanguageCheck("de", "cleaning.language")

"""Unicode normalisation and whitespace."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any, Literal, get_args

import sentencepiece

Normalization = Literal["nmt_nfkc", "nfkc", "nfc", "identity"]
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)

_SPACE = "\u2581"  # SentencePiece's mark for a space: its models cannot tell the two apart


class Normalizer:
    """One of four sets of rules for characters, then single spaces and none at the ends.

    - `nmt_nfkc`: NFKC with the additions common in translation. Control characters vanish, zero-width joiners and
      every kind of space become a space.
    - `nfkc`: NFKC alone. Full-width letters, ligatures and fractions become plain ones.
    - `nfc`: NFC. Only the spelling of composed characters changes.
    - `identity`: no rules.

    SentencePiece models trained with the same rules change nothing more in text that went through here.

    Args:
        rules: The name of the set.
    """

    def __init__(self, rules: Normalization = "nmt_nfkc") -> None:
        self.rules = rules

    def __call__(self, text: str) -> str:
        """Normalise one text."""
        return self.many([text])[0]

    def many(self, texts: list[str]) -> list[str]:
        """Normalise many texts; much faster than one by one."""
        if self.rules == "identity":
            changed = texts
        elif self.rules == "nfc":
            changed = [unicodedata.normalize("NFC", text) for text in texts]
        else:
            changed = _sentencepiece(self.rules).normalize(texts)
        if self.rules != "nmt_nfkc":  # which has made spaces of them
            changed = [text.replace(_SPACE, " ") for text in changed]
        return [" ".join(text.split()) for text in changed]


@cache
def _sentencepiece(rules: Normalization) -> Any:
    return sentencepiece.SentencePieceNormalizer(
        rule_name=rules, add_dummy_prefix=False, escape_whitespaces=False, remove_extra_whitespaces=True
    )

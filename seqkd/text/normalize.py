"""Unicode normalisation and whitespace."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any, Literal, get_args

import sentencepiece

Normalization = Literal["nmt_nfkc", "nfkc", "nfc", "identity"]
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)

_SPACE = "\u2581"  # SentencePiece's mark for a space, which its models cannot distinguish from a space


class Normalizer:
    """Applies one of four sets of rules to characters, and then reduces spaces to single ones between words.

    - `nmt_nfkc`: NFKC with the usual additions for translation. Control characters are removed; zero-width joiners and
      all kinds of spaces become a space.
    - `nfkc`: NFKC alone. Full-width letters, ligatures and fractions become plain ones.
    - `nfc`: NFC. Only the spelling of composed characters changes.
    - `identity`: no rules.

    SentencePiece models that were trained with the same rules do not change normalised text any further.

    Args:
        rules: The name of the set.
    """

    def __init__(self, rules: Normalization = "nmt_nfkc") -> None:
        self.rules = rules

    def __call__(self, text: str) -> str:
        """Normalise one text."""
        return self.normalize_all([text])[0]

    def normalize_all(self, texts: list[str]) -> list[str]:
        """Normalise many texts, which is much faster than one by one."""
        if self.rules == "identity":
            changed = texts
        elif self.rules == "nfc":
            changed = [unicodedata.normalize("NFC", text) for text in texts]
        else:
            changed = _sentencepiece(self.rules).normalize(texts)
        if self.rules != "nmt_nfkc":  # which turns the mark into a space itself
            changed = [text.replace(_SPACE, " ") for text in changed]
        return [" ".join(text.split()) for text in changed]


@cache
def _sentencepiece(rules: Normalization) -> Any:
    return sentencepiece.SentencePieceNormalizer(
        rule_name=rules, add_dummy_prefix=False, escape_whitespaces=False, remove_extra_whitespaces=True
    )

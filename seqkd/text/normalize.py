"""Unicode normalisation and whitespace."""

from __future__ import annotations

import sentencepiece


class Normalizer:
    """SentencePiece's `nmt_nfkc` rules, then single spaces and none at the ends.

    NFKC with the additions common in translation: control characters vanish, every kind of space becomes a space.
    SentencePiece models trained with the same rules change nothing more in text that went through here.
    """

    def __init__(self) -> None:
        self._rules = sentencepiece.SentencePieceNormalizer(
            rule_name="nmt_nfkc", add_dummy_prefix=False, escape_whitespaces=False, remove_extra_whitespaces=True
        )

    def __call__(self, text: str) -> str:
        """Normalise one text."""
        return self.many([text])[0]

    def many(self, texts: list[str]) -> list[str]:
        """Normalise many texts; much faster than one by one."""
        return [" ".join(text.split()) for text in self._rules.normalize(texts)]

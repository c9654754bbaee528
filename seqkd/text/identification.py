"""Identification of the language of texts by py3langid, whose model is part of its package.

Short texts are uncertain: the identifier then divides its probability among several languages. A text therefore counts
as foreign only if another language than the expected one has more than half of the probability.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from seqkd.errors import InputError
from seqkd.text.languages import base_language

PACKAGE = "py3langid"
SURE = 0.5  # probability of another language above which a text is foreign
_SAME = {"nb": "no"}  # codes of languages that the model has under another code


class LanguageCheck:
    """Tells texts of another language than the expected one.

    Args:
        language: The code of the expected language. Only its first part counts: `pt` of `pt-BR`.
        where: The setting that asks for the identification, for error messages.

    Raises:
        InputError: py3langid is not installed, or its model does not know the language.
    """

    def __init__(self, language: str, where: str) -> None:
        base = base_language(language)
        self._language = _SAME.get(base, base)
        if find_spec(PACKAGE) is None:
            raise InputError(
                f"the identification of languages needs {PACKAGE}, which is not installed",
                where=where,
                hint='pip install "seqkd[langid]", or leave the setting out',
            )
        known = _model().labels
        if self._language not in known:
            raise InputError(
                f"{PACKAGE} does not know the language {language!r}",
                where=where,
                expected=f"one of: {', '.join(sorted(known))}",
                hint="leave the setting out, or give the two-letter code of the language",
            )

    def is_foreign(self, text: str) -> bool:
        """Whether a text is in another language, with a probability of more than one half."""
        found, probability = _model().classify(text)
        return bool(found != self._language and probability > SURE)


def identifier_version() -> dict[str, str]:
    """Return the version of the identifier, on which its verdicts depend; nothing if it is not installed."""
    return {} if find_spec(PACKAGE) is None else {PACKAGE: version(PACKAGE)}


@cache
def _model() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # an extra; it takes seconds to load

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

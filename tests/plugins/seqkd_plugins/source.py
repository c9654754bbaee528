"""A source of k-best lists: the words of the source in other orders. It stands for a service that gives texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from seqkd.interop.sources import Answer, Candidate, KBestSource, Place, Row

VERSION = "1"  # of the answers


@dataclass(frozen=True, slots=True, kw_only=True)
class WordsSettings:
    """Settings of the source "words"."""

    nbest: Annotated[int, Field(ge=1, le=64, description="hypotheses of each row")] = 2


class Words:
    """Gives the source with its first n words at the end, for n from 0.

    Args:
        settings: How many hypotheses.
        place: Where it works; it needs no device.
    """

    def __init__(self, settings: WordsSettings, place: Place) -> None:  # noqa: ARG002
        self._nbest = settings.nbest

    def __call__(self, rows: Sequence[Row]) -> Answer:
        """See `RowTranslator`."""
        return Answer(lists=[[Candidate(text=text) for text in self._turned(row.text)] for row in rows])

    def _turned(self, text: str) -> list[str]:
        words = text.split()
        return [" ".join([*words[n:], *words[:n]]) for n in range(min(self._nbest, max(len(words), 1)))]


def inputs(settings: WordsSettings) -> Mapping[str, str]:  # noqa: ARG001
    """The version of the answers."""
    return {"version": VERSION}


RECORD = KBestSource(
    name="words",
    help="The source's words in other orders",
    settings="seqkd_plugins.source:WordsSettings",
    open="seqkd_plugins.source:Words",
    inputs="seqkd_plugins.source:inputs",
)

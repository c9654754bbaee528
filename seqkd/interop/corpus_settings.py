"""Settings of the exports of corpora. Nothing large is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusExport:
    """The folder whose validation and test text accompany the corpus."""

    prepared: Annotated[
        Path | None, Field(description="a folder of prepare, whose validation and test text are exported as well")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedExport:
    """The folder with the vocabulary of the corpus, and its validation and test text."""

    prepared: Annotated[
        Path, Field(description="the folder of prepare with the vocabulary of the corpus, and validation and test text")
    ]

"""What `seqkd prepare` takes, as stage and pipeline files give it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from seqkd.config.search import Strict
from seqkd.text.languages import LANGUAGE, mistaken
from seqkd.text.normalize import Normalization
from seqkd.text.vocabulary import (
    LEAST_COVERAGE,
    LEAST_LINE_BYTES,
    LINE_BYTES,
    MOST_LINE_BYTES,
    least_size,
    symbol_problems,
)


def _language(code: str) -> str:
    if right := mistaken(code):
        raise ValueError(f"no language: the code of a country; the language's is {right!r}")
    return code


Language = Annotated[str, Field(pattern=LANGUAGE, description="a code, e.g. zh or pt-BR"), AfterValidator(_language)]


class BitextConfig(Strict):
    """One side-by-side text: two line-aligned files, or one TSV with source and target columns."""

    source: Path
    target: Path | None = Field(None, description="omitted: `source` is a TSV file with two columns")
    accepted: Path | None = Field(
        None, description="JSON lines: for each row the list of all its valid translations (toy corpora)"
    )


class VocabularyConfig(Strict):
    """SentencePiece settings."""

    size: int = Field(8000, ge=16, le=256_000)
    type: Literal["unigram", "bpe"] = "unigram"
    joint: bool = True
    byte_fallback: bool = True
    character_coverage: float = Field(1.0, ge=LEAST_COVERAGE, le=1.0)
    symbols: tuple[str, ...] = Field((), description="pieces that are never split")
    tags: tuple[str, ...] = Field((), description="pieces that no text holds: they are put into rows by their ids")
    normalization: Normalization = Field("nmt_nfkc", description="rules for characters, stored in the vocabulary")
    max_sentence_length: int = Field(
        LINE_BYTES, ge=LEAST_LINE_BYTES, le=MOST_LINE_BYTES, description="bytes of the longest line that is learnt from"
    )

    @model_validator(mode="after")
    def _possible(self) -> VocabularyConfig:
        pieces = self.symbols, self.tags
        problems = symbol_problems(*pieces, byte_fallback=self.byte_fallback, normalization=self.normalization)
        least = least_size(*pieces, byte_fallback=self.byte_fallback)
        if self.size < least:
            held = f"special pieces, symbols{' and bytes' * self.byte_fallback}"
            problems.append(f"size {self.size:,} has no room for text: {held} take {least - 1:,} pieces")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class CleaningConfig(Strict):
    """What leaves the training text, and why.

    Lengths are words, and characters for a side whose script puts no blanks between words. If a side has such a
    script, the ratio is of characters, relative to the corpus' usual ratio.
    """

    max_length: int = Field(250, ge=1)
    max_ratio: float = Field(9.0, ge=1.0, description="longer side over the shorter side")
    drop_identical: bool = True
    drop_duplicates: bool = True


class PrepareConfig(Strict):
    """Text files to gold corpora (train, valid, test) and a vocabulary."""

    train: BitextConfig
    valid: BitextConfig
    test: BitextConfig
    source_language: Language | None = None
    target_language: Language | None = None
    vocabulary: VocabularyConfig = VocabularyConfig()
    vocabulary_from: Path | None = Field(None, description="a model folder whose vocabulary is used; none is trained")
    cleaning: CleaningConfig = CleaningConfig()
    shard_rows: int = Field(10_000, ge=1)
    seed: int = 1


class MonolingualConfig(Strict):
    """Text of the target language to the sources of a corpus in the other direction."""

    text: tuple[Path, ...] = Field(..., min_length=1, description="a sentence a line")
    prepared: Path = Field(..., description="output of `prepare`: the vocabulary, and the gold text's rows")
    ratio: float = Field(1.0, gt=0.0, le=100.0, description="rows for each row of gold text")
    max_length: int = Field(250, ge=1, description="words; characters if the script has no blanks between words")
    drop_duplicates: bool = True
    shard_rows: int = Field(10_000, ge=1)
    seed: int = Field(1, description="of the draw")

"""The settings of `seqkd prepare` in stage and pipeline files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, model_validator
from pydantic import Tag as Choice

from seqkd.config.search import Name, Strict
from seqkd.metrics.sacrebleu_sets import sacrebleu_files
from seqkd.text.languages import LANGUAGE, suggest_language
from seqkd.text.normalize import Normalization
from seqkd.text.vocabulary import (
    LEAST_COVERAGE,
    LEAST_LINE_BYTES,
    LINE_BYTES,
    MOST_LINE_BYTES,
    find_symbol_problems,
    least_size,
)

OWN_TEST = "test"  # the name of a data set's own test text among its test sets


def _check_code(code: str) -> str:
    if right := suggest_language(code):
        raise ValueError(f"this is the code of a country, not of a language; the code of the language is {right!r}")
    return code


SourceTag = Annotated[
    str | None,
    Field(
        pattern=r"^\S+$",
        description='a piece, such as "<2de>", that every source opens with, followed by a blank',
    ),
]
Language = Annotated[str, Field(pattern=LANGUAGE, description="a code, e.g. zh or pt-BR"), AfterValidator(_check_code)]


def one_or_several(value: Any) -> str:
    """Tell whether a path or a name stands alone (`one`) or in a list (`several`)."""
    return "several" if isinstance(value, (list, tuple)) else "one"


def put_in_list(value: Any) -> Any:
    """Put a table that stands alone in a list."""
    return [value] if isinstance(value, dict) else value


References = Annotated[
    Annotated[Path, Choice("one")] | Annotated[tuple[Path, ...], Field(min_length=1), Choice("several")],
    Discriminator(one_or_several),
]


class BitextConfig(Strict):
    """One side-by-side text: two line-aligned files, or one TSV with source and target columns."""

    source: Path
    target: References | None = Field(
        None,
        description="if omitted, `source` is a TSV file with two columns; a list of files, each line-aligned with "
        "`source`, gives several references in test text, and a row for each target in other text",
    )
    accepted: Path | None = Field(
        None, description="JSON lines: for each row the list of all its valid translations (toy corpora)"
    )

    @property
    def references(self) -> tuple[Path, ...]:
        """The files of the target side; empty if `source` holds both sides."""
        if self.target is None:
            return ()
        return (self.target,) if isinstance(self.target, Path) else self.target

    @property
    def files(self) -> tuple[Path, ...]:
        """All files, the source first."""
        return (self.source, *self.references, *(() if self.accepted is None else (self.accepted,)))

    def resolve_in(self, folder: Path) -> BitextConfig:
        """Return the same text with its relative paths resolved in a folder."""
        target = None if self.target is None else tuple(folder / path for path in self.references)
        return BitextConfig(
            source=folder / self.source,
            target=target[0] if target is not None and isinstance(self.target, Path) else target,
            accepted=None if self.accepted is None else folder / self.accepted,
        )


class FurtherText(Strict):
    """A further test set: files as in `BitextConfig`, or one of the sets that sacrebleu knows by name."""

    source: Path | None = None
    target: References | None = Field(None, description="one reference, or a list of them")
    accepted: Path | None = Field(None, description="JSON lines: for each row the list of all its valid translations")
    sacrebleu: str | None = Field(None, description="a test set of sacrebleu, e.g. wmt14; it is never downloaded")
    langpair: str | None = Field(None, description="the language pair of that set, e.g. en-de")

    @model_validator(mode="after")
    def _check_either(self) -> FurtherText:
        if (self.source is None) == (self.sacrebleu is None):
            raise ValueError("give either `source` and `target`, or `sacrebleu` and `langpair`")
        if (self.sacrebleu is None) != (self.langpair is None):
            raise ValueError('`sacrebleu` and `langpair` go together, e.g. sacrebleu = "wmt14", langpair = "en-de"')
        if self.sacrebleu is not None and not (self.target is None and self.accepted is None):
            raise ValueError("`target` and `accepted` are for files; sacrebleu has its own references")
        return self

    def find_files(self) -> BitextConfig:
        """Find the files of the test set. Sets of sacrebleu lie in its folder on this machine.

        Raises:
            InputError: sacrebleu does not know the set, or it is not on this machine.
        """
        if self.source is not None:
            return BitextConfig(source=self.source, target=self.target, accepted=self.accepted)
        source, *references = sacrebleu_files(str(self.sacrebleu), str(self.langpair))
        return BitextConfig(source=source, target=tuple(references))

    def resolve_in(self, folder: Path) -> FurtherText:
        """Return the same text with its relative paths resolved in a folder."""
        return self if self.source is None else FurtherText(**self.find_files().resolve_in(folder).model_dump())


class VocabularyConfig(Strict):
    """SentencePiece settings."""

    size: int = Field(8000, ge=16, le=256_000)
    type: Literal["unigram", "bpe"] = "unigram"
    joint: bool = True
    byte_fallback: bool = True
    character_coverage: float = Field(1.0, ge=LEAST_COVERAGE, le=1.0)
    symbols: tuple[str, ...] = Field((), description="pieces that are never split")
    tags: tuple[str, ...] = Field((), description="pieces that do not occur in text and are added to rows by their ids")
    normalization: Normalization = Field("nmt_nfkc", description="rules for characters, stored in the vocabulary")
    max_sentence_length: int = Field(
        LINE_BYTES,
        ge=LEAST_LINE_BYTES,
        le=MOST_LINE_BYTES,
        description="longest line that the vocabulary is learnt from, in bytes",
    )

    @model_validator(mode="after")
    def _check_pieces(self) -> VocabularyConfig:
        pieces = self.symbols, self.tags
        problems = find_symbol_problems(*pieces, byte_fallback=self.byte_fallback, normalization=self.normalization)
        least = least_size(*pieces, byte_fallback=self.byte_fallback)
        if self.size < least:
            held = f"special pieces, symbols{' and bytes' * self.byte_fallback}"
            problems.append(f"size {self.size:,} leaves no room for text: {held} take {least - 1:,} pieces")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class CleaningConfig(Strict):
    """Rules by which pairs are removed from the training text.

    Lengths are in words, or in characters if the script of a side puts no blanks between words. If a side has such a
    script, the ratio is of characters, relative to the median ratio of the corpus.
    """

    max_length: int = Field(250, ge=1)
    max_ratio: float = Field(9.0, ge=1.0, description="longer side over the shorter side")
    drop_identical: bool = True
    drop_duplicates: bool = True
    language: bool = Field(
        False,
        description="remove pairs with a side that is surely not in `source_language` or `target_language` "
        "(extra langid)",
    )


class PrepareConfig(Strict):
    """Settings that turn text files into gold corpora (train, valid, test) and a vocabulary."""

    train: BitextConfig
    valid: BitextConfig
    test: BitextConfig
    source_language: Language | None = None
    target_language: Language | None = None
    tag: SourceTag = None
    shares_sources: Path | None = Field(
        None, description="output of `prepare` of a data set whose source text is the same, line by line"
    )
    vocabulary: VocabularyConfig = VocabularyConfig()
    vocabulary_from: Path | None = Field(
        None, description="a model folder whose vocabulary is used instead of training one"
    )
    cleaning: CleaningConfig = CleaningConfig()
    shard_rows: int = Field(10_000, ge=1)
    seed: int = 1

    @model_validator(mode="after")
    def _check_shared(self) -> PrepareConfig:
        if self.shares_sources is not None and self.train.target is None:
            raise ValueError(
                "shares_sources: train.source has both sides; give the two sides as files, `source` and `target`"
            )
        if self.shares_sources is not None and len(self.train.references) > 1:
            raise ValueError(
                "shares_sources: train.target has several targets for each source, which are joined with each other; "
                "leave out one or the other"
            )
        return self

    @model_validator(mode="after")
    def _check_tag(self) -> PrepareConfig:
        if self.tag and self.vocabulary_from is None and self.tag not in self.vocabulary.symbols:
            raise ValueError(f"tag: {self.tag!r} is not a piece; add it to vocabulary.symbols")
        return self

    @model_validator(mode="after")
    def _check_languages(self) -> PrepareConfig:
        if self.cleaning.language and self.source_language is None and self.target_language is None:
            raise ValueError(
                "cleaning.language = true compares texts with `source_language` and `target_language`; give at least "
                "one of them"
            )
        return self


class FurtherTestConfig(Strict):
    """A further test set, encoded with the vocabulary of a data set."""

    text: FurtherText
    prepared: Path = Field(..., description="output of `prepare`: the vocabulary and the languages")
    shard_rows: int = Field(10_000, ge=1)


class PreparedGroup(Strict):
    """A data set among several, which is the group of its rows."""

    group: Name
    path: Path = Field(..., description="output of `prepare`")


class FurtherVocabularyConfig(Strict):
    """A further vocabulary, learnt from the training text of one or several data sets, and their validation text."""

    prepared: Annotated[
        Annotated[Path, Choice("one")] | Annotated[tuple[PreparedGroup, ...], Field(min_length=1), Choice("several")],
        Discriminator(one_or_several),
    ] = Field(..., description="output of `prepare`: the training and the validation text; several as a list")
    vocabulary: VocabularyConfig
    seed: int = Field(1, description="seed of the sample that the vocabulary is learnt from")


class EncodeConfig(Strict):
    """A corpus whose text is encoded with another vocabulary. Rows, ids and shards stay the same."""

    corpus: Path = Field(..., description="a corpus of any stage, with its text")
    vocabulary: Path = Field(..., description="a folder with the vocabulary: output of `prepare`, or a model")


class SampleConfig(Strict):
    """One target of each source of a corpus, drawn at random."""

    corpus: Path = Field(..., description="training text with several targets for each source")
    seed: int = 1


class MonolingualConfig(Strict):
    """Settings that turn text of one language into the sources of a corpus without targets."""

    text: tuple[Path, ...] = Field(..., min_length=1, description="text files with one sentence per line")
    prepared: Path = Field(..., description="output of `prepare`: the vocabulary, and the gold text's rows")
    side: Literal["source", "target"] = Field(
        "target",
        description="the language of the text: target, for a corpus in the other direction; source, for self-training",
    )
    ratio: float = Field(1.0, gt=0.0, le=100.0, description="rows for each row of gold text")
    max_length: int = Field(
        250, ge=1, description="in words, or in characters if the script has no blanks between words"
    )
    drop_duplicates: bool = True
    shard_rows: int = Field(10_000, ge=1)
    seed: int = Field(1, description="seed by which rows are drawn")

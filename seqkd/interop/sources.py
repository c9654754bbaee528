"""Sources of k-best lists by name: what `distill` asks for translations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from seqkd.extensions import Registry

MODELS = "seqkd"  # the source of a file that names models


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row to be translated.

    Attributes:
        id: Its id.
        text: The source.
        ids: The source's pieces, without special ones.
    """

    id: int
    text: str
    ids: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A translation.

    Attributes:
        text: Its text.
        ids: Its pieces in the target vocabulary, without special ones; None if the source does not know the vocabulary.
            The stage then encodes the text.
        score: The value that lists are sorted by, normalised by length; None if the source has none.
        logprob: Its log-probability; None if the source has none.
        ended: Why it ended: "eos", "max_length" or "unknown".
    """

    text: str
    ids: Sequence[int] | None = None
    score: float | None = None
    logprob: float | None = None
    ended: str = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Translations of some rows.

    Attributes:
        lists: The candidates of each row, best first, in the order of the rows. A row that cannot be translated has an
            empty list.
        counts: Numbers of rows by what happened to them, for the manifest.
    """

    lists: Sequence[Sequence[Candidate]]
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a source works.

    Attributes:
        device: As torch names it.
        threads: Threads of torch; None for as many as it takes by itself.
    """

    device: str
    threads: int | None


class Translate(Protocol):
    """Translates rows; one in each process, which lives as long as the process.

    Lists must depend on the rows, the settings and the source's inputs alone. Rows come in fixed groups, so that
    rows may be worked on together.
    """

    def __call__(self, rows: Sequence[Row]) -> Answer:
        """Translate a group of rows of one shard."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KBestSource:
    """What writes k-best lists.

    Attributes:
        name: The name that files use.
        help: One line about it.
        settings: `module:attribute` of its settings, a frozen dataclass.
        open: `module:attribute` of a callable that takes the settings and a `Place`, and gives a `Translate`.
        inputs: `module:attribute` of a callable that takes the settings, and gives a digest or a version of each thing
            that lists are made from, by name. A fingerprint holds them beside the settings.
    """

    name: str
    help: str
    settings: str
    open: str
    inputs: str


SOURCES = Registry(
    "source of k-best lists",
    KBestSource,
    group="seqkd.sources",
    own={
        MODELS: KBestSource(
            name=MODELS,
            help="Beam search or sampling with a model of seqkd, or with several as an ensemble",
            settings="seqkd.interop.seqkd_models:ModelSettings",
            open="seqkd.interop.seqkd_models:Search",
            inputs="seqkd.interop.seqkd_models:digests",
        ),
    },
)

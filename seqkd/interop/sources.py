"""Sources of k-best lists by name, from which `distill` gets translations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from seqkd.extensions import Registry

MODELS = "seqkd"  # the source if a stage file names models
WORKER = "worker"  # the source if a table names no other


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row to translate.

    Attributes:
        id: The id of the row.
        text: The source text.
        ids: The pieces of the source, without special ids.
    """

    id: int
    text: str
    ids: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A translation.

    Attributes:
        text: The text of the translation.
        ids: Its pieces in the target vocabulary, without special ids, or None if the source does not know the
            vocabulary. The stage then encodes the text.
        score: The value by which lists are sorted, normalised by length, or None if the source gives none.
        logprob: The log-probability, or None if the source gives none.
        ended: The reason why it ended: "eos", "max_length" or "unknown".
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
        counts: Numbers of rows by event, for the manifest.
    """

    lists: Sequence[Sequence[Candidate]]
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The device and the threads of a source.

    Attributes:
        device: The name of the device in torch.
        threads: Number of torch threads, or None for torch's default.
    """

    device: str
    threads: int | None


class RowTranslator(Protocol):
    """Translates rows. Each process has one translator, which lives as long as the process.

    Lists must depend on the rows, the settings and the inputs of the source alone. Rows come in fixed groups, so the
    rows of a group may be processed together.
    """

    def __call__(self, rows: Sequence[Row]) -> Answer | Callable[[], Answer]:
        """Translate a group of rows of one shard.

        Returns:
            The answer, or a function that makes the answer from what was found. Another thread may call this function
            while the next group is translated.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KBestSource:
    """A source of k-best lists.

    Attributes:
        name: The name that files use.
        help: A description in one line.
        settings: `module:attribute` of its settings, a frozen dataclass.
        open: `module:attribute` of a callable that takes the settings and a `Place`, and returns a `RowTranslator`.
        inputs: `module:attribute` of a callable that takes the settings and returns the digest or version of each
            input of the lists, by name. Fingerprints contain them beside the settings.
        identity: `module:attribute` of a function from the settings to the values on which results depend. Fingerprints
            contain them in place of the settings. "" if results depend on all settings.
        unscored: `module:attribute` of a function from the settings to whether lists never have scores and
            log-probabilities. A plan then refuses the rules and filters that read them. "" if lists may have them.
    """

    name: str
    help: str
    settings: str
    open: str
    inputs: str
    identity: str = ""
    unscored: str = ""


SOURCES = Registry(
    "source of k-best lists",
    KBestSource,
    group="seqkd.sources",
    own={
        MODELS: KBestSource(
            name=MODELS,
            help="Beam search or sampling with one model of seqkd or an ensemble of several models",
            settings="seqkd.interop.seqkd_models:ModelSettings",
            open="seqkd.interop.seqkd_models:Search",
            inputs="seqkd.interop.seqkd_models:digests",
        ),
        "huggingface": KBestSource(
            name="huggingface",
            help="An encoder-decoder model of Hugging Face, such as T5, decoded by transformers itself",
            settings="seqkd.interop.huggingface_generate:GenerateSettings",
            open="seqkd.interop.huggingface_generate:Generator",
            inputs="seqkd.interop.huggingface_generate:inputs",
        ),
        WORKER: KBestSource(
            name=WORKER,
            help="An external worker: a command or an endpoint that translates",
            settings="seqkd.interop.workers:TeacherSettings",
            open="seqkd.interop.asking.roles:Translator",
            inputs="seqkd.interop.workers:list_inputs",
            identity="seqkd.interop.workers:identify",
            unscored="seqkd.interop.workers:gives_texts_alone",
        ),
        "ctranslate2": KBestSource(
            name="ctranslate2",
            help="Beam search of CTranslate2 with a model folder of its own",
            settings="seqkd.interop.ctranslate2_teacher:CTranslate2Settings",
            open="seqkd.interop.ctranslate2_teacher:Teacher",
            inputs="seqkd.interop.ctranslate2_teacher:inputs",
        ),
    },
)

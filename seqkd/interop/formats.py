"""Formats of other toolkits by name, for the import and export of models and the export of corpora."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seqkd.corpus.manifest import MANIFEST, read_manifest
from seqkd.errors import CorpusError, ModelError, SeqkdError
from seqkd.extensions import NO_SETTINGS, Registry, resolve


@dataclass(frozen=True, slots=True)
class ImportReport:
    """The result of an import.

    Attributes:
        parameters: Number of parameters of the model; shared ones count once.
        notes: Notes for the user, one line each, such as the numbers of matched, added and omitted pieces.
    """

    parameters: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format of models or corpora.

    Attributes:
        name: The name that the command line uses.
        help: A description in one line.
        settings: `module:attribute` of the settings of an import, a frozen dataclass. They become options of the
            command line: numbers, texts, paths and switches.
        sniff: `module:attribute` of a function that tells whether a path contains files of this format. It reads
            little, runs no code of the files, and raises no exception. None if seqkd cannot import the format.
        read: `module:attribute` of a function that takes a path, an output folder, the settings, and `overwrite` as a
            keyword, makes a model folder, and returns an `ImportReport`. None if seqkd cannot import the format.
        write: `module:attribute` of a function that takes a folder of the kind `exports`, an output folder, and
            `overwrite` as a keyword. If `export_settings` has any settings, they are its third argument. None if seqkd
            cannot export the format.
        export_settings: `module:attribute` of the settings of an export, in the same way as `settings`.
        exports: The kind of folder that is exported: "model" or "corpus".
    """

    name: str
    help: str
    settings: str = NO_SETTINGS
    sniff: str | None = None
    read: str | None = None
    write: str | None = None
    export_settings: str = NO_SETTINGS
    exports: str = "model"

    def fits(self, path: Path) -> bool:
        """Whether a path contains files of this format."""
        return self.sniff is not None and bool(resolve(self.sniff)(path))


FORMATS = Registry(
    "format",
    Format,
    group="seqkd.formats",
    own={
        "fairseq": Format(
            name="fairseq",
            help="Checkpoint and dictionaries of a fairseq Transformer; no code of the files is run",
            settings="seqkd.interop.fairseq_files:FairseqFiles",
            sniff="seqkd.interop.fairseq_files:sniff",
            read="seqkd.interop.fairseq_files:read",
            write="seqkd.interop.fairseq:export_checkpoint",
        ),
        "huggingface": Format(
            name="huggingface",
            help="A MarianMT, M2M100, NLLB, mBART or BART model of transformers; exports are MarianMT or M2M100",
            settings="seqkd.interop.huggingface_files:HuggingfaceFiles",
            sniff="seqkd.interop.huggingface_files:sniff",
            read="seqkd.interop.huggingface_files:read",
            write="seqkd.interop.huggingface_export:export_model",
        ),
        "ctranslate2": Format(
            name="ctranslate2",
            help="A model folder of CTranslate2, from a Transformer",
            sniff="seqkd.interop.ctranslate2_files:sniff",
            write="seqkd.interop.ctranslate2_files:write",
            export_settings="seqkd.interop.ctranslate2_files:CTranslate2Export",
        ),
        "marian": Format(
            name="marian",
            help='Model, vocabulary and configuration of Marian, from a student with `compatible_with = "marian"`',
            sniff="seqkd.interop.marian_files:sniff",
            write="seqkd.interop.marian_export:export_model",
        ),
        "text": Format(
            name="text",
            help="A corpus as compressed text: a file for each side, aligned by line, and a table with ids",
            write="seqkd.interop.corpus_text:export_text",
            export_settings="seqkd.interop.corpus_settings:CorpusExport",
            exports="corpus",
        ),
        "fairseq-data": Format(
            name="fairseq-data",
            help="A corpus as fairseq's binarised data with dictionaries, as fairseq-preprocess writes it",
            write="seqkd.interop.fairseq_data:export_data",
            export_settings="seqkd.interop.corpus_settings:EncodedExport",
            exports="corpus",
        ),
        "datasets": Format(
            name="datasets",
            help="A corpus as a folder that datasets.load_dataset opens, with a card that says how it was made",
            write="seqkd.interop.corpus_datasets:export_dataset",
            export_settings="seqkd.interop.corpus_settings:CorpusExport",
            exports="corpus",
        ),
    },
)


def check_format(record: Format, path: Path) -> None:
    """Refuse files that another format recognises and this format does not.

    Raises:
        ModelError: The files have another format.
    """
    if record.fits(path):
        return
    others = [other.name for other in FORMATS.all() if other.name != record.name and other.fits(path)]
    if others:
        readable = FORMATS.get(others[0]).read is not None
        raise ModelError(
            f"has the format {' or '.join(others)}",
            where=str(path),
            expected=f"the format {record.name}",
            hint=f"run `seqkd import {others[0]}`" if readable else f"seqkd cannot import the format {others[0]}",
        )


def check_exported(record: Format, path: Path) -> None:
    """Refuse a folder of another kind than the format exports. A model folder needs no manifest.

    Raises:
        ModelError: The format exports models, and the folder is a finished folder of another kind.
        CorpusError: The format exports corpora, and the folder is not a finished corpus.
    """
    if record.exports == "model" and not (path / MANIFEST).exists():
        return  # without a manifest, the reader of models names the missing files
    kind = read_manifest(path).kind
    if kind == record.exports:
        return
    hint = f"seqkd export {record.name} exports a {record.exports}"
    if kind == "prepared":
        hint = f"give a corpus in it, such as {path / 'train'}"
    elif others := [other.name for other in FORMATS.all() if other.write is not None and other.exports == kind]:
        hint += f"; for a {kind} there are: {', '.join(others)}"
    raised: type[SeqkdError] = ModelError if record.exports == "model" else CorpusError
    raise raised(f"is of kind {kind!r}", where=str(path), expected=f"kind {record.exports!r}", hint=hint)

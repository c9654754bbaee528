"""Formats of other toolkits' models by name: import and export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seqkd.errors import ModelError
from seqkd.extensions import NO_SETTINGS, Registry, resolve


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import made.

    Attributes:
        parameters: Of the model, shared ones counted once.
        notes: What a person should know, a line each, such as pieces that were matched, added and left out.
    """

    parameters: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format of model files.

    Attributes:
        name: The name that the command line uses.
        help: One line about it.
        settings: `module:attribute` of the settings of an import, a frozen dataclass. They are options of the command
            line: numbers, texts, paths and switches.
        sniff: `module:attribute` of a function that tells whether a path holds files of this format. It reads little,
            runs nothing, and raises nothing.
        read: `module:attribute` of a function that takes a path, an output folder, the settings and `overwrite` by
            keyword, makes a model folder, and gives an `ImportReport`. None if seqkd cannot import it.
        write: `module:attribute` of a function that takes a model folder, an output folder, and `overwrite` by keyword.
            None if seqkd cannot export it.
    """

    name: str
    help: str
    settings: str = NO_SETTINGS
    sniff: str
    read: str | None = None
    write: str | None = None

    def fits(self, path: Path) -> bool:
        """Whether a path holds files of this format."""
        return bool(resolve(self.sniff)(path))


FORMATS = Registry(
    "format",
    Format,
    group="seqkd.formats",
    own={
        "fairseq": Format(
            name="fairseq",
            help="A Transformer's checkpoint and dictionaries; nothing is unpickled that could run code",
            settings="seqkd.interop.fairseq_files:FairseqFiles",
            sniff="seqkd.interop.fairseq_files:sniff",
            read="seqkd.interop.fairseq_files:read",
            write="seqkd.interop.fairseq:export_checkpoint",
        ),
    },
)


def check_format(record: Format, path: Path) -> None:
    """Refuse files that another format knows and this one does not.

    Raises:
        ModelError: They are of another format.
    """
    if record.fits(path):
        return
    others = [other.name for other in FORMATS.all() if other.name != record.name and other.fits(path)]
    if others:
        raise ModelError(
            f"has the format {' or '.join(others)}",
            where=str(path),
            expected=f"the format {record.name}",
            hint=f"run `seqkd import {others[0]}`",
        )

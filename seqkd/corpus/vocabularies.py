"""The files of vocabularies in prepared folders and models."""

from __future__ import annotations

from pathlib import Path

from seqkd.corpus.files import atomic_write
from seqkd.text.vocabularies import Vocabularies


def write_vocabularies(folder: Path, vocabularies: Vocabularies) -> None:
    """Write the files of vocabularies into a folder, which must exist.

    Raises:
        WorkError: A file cannot be written.
    """
    for name, data in vocabularies.files().items():
        (folder / name).parent.mkdir(exist_ok=True)
        atomic_write(folder / name, data)

"""The list of rows that a stage has left out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from seqkd.corpus.manifest import atomic_write

REJECTED = "rejected.tsv"


def list_rows(path: Path, rows: Iterable[tuple[object, ...]], *, corpora: bool = False) -> None:
    """Write the rows that were left out and the reasons, one row a line.

    Args:
        path: The file.
        rows: The id and the reason of each row, preceded by the name of its corpus if `corpora` is set.
        corpora: Whether the rows belong to several corpora.

    Raises:
        WorkError: The file cannot be written, for example because the disk is full.
    """
    columns = ("corpus", "id", "reason") if corpora else ("id", "reason")
    atomic_write(path, "".join("\t".join(map(str, line)) + "\n" for line in (columns, *rows)).encode())

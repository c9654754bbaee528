"""The list of the rows that a stage left out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from seqkd.corpus.manifest import atomic_write

REJECTED = "rejected.tsv"


def list_rows(path: Path, rows: Iterable[tuple[object, ...]], *, corpora: bool = False) -> None:
    """Write rows and the reasons why they were left out, one row a line.

    Args:
        path: The file.
        rows: The id and the reason of each row; with `corpora` the name of its corpus before them.
        corpora: Whether the rows are of several corpora.

    Raises:
        WorkError: The system refuses: disk full, no permission.
    """
    columns = ("corpus", "id", "reason") if corpora else ("id", "reason")
    atomic_write(path, "".join("\t".join(map(str, line)) + "\n" for line in (columns, *rows)).encode())

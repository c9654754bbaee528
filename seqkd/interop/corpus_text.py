"""Export of a corpus as compressed text."""

from __future__ import annotations

import contextlib
import gzip
import io
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TextIO

import pyarrow as pa

from seqkd.corpus.files import atomic_path
from seqkd.corpus.reader import Corpus
from seqkd.interop.corpus_settings import CorpusExport
from seqkd.interop.exports import digests, open_splits, write_export
from seqkd.progress import say

SIDES = ("source", "target")
BLANKED = "rows with a tab or a line break, which became a blank"
_LEVEL = 6  # the default of the program gzip
_BREAK = re.compile(r"[\t\n\r]")


def export_text(corpus: Path, out: Path, settings: CorpusExport, *, overwrite: bool = False) -> None:
    """Write line-aligned files `train.source.gz` and `train.target.gz`, and `train.tsv.gz` with the ids of rows.

    The table opens with a line of column names: id, source, target, and the columns of one value a row that the corpus
    has, such as score, rule, origin and weight. Of several references, the first one is written. A tab or a line break
    within a text becomes a blank.

    Args:
        corpus: The corpus.
        out: The folder to make.
        settings: The folder whose validation and test text become `valid` and `test`.
        overwrite: Whether to replace a folder that was made from other inputs.

    Raises:
        CorpusError: A folder is not a finished corpus, or is damaged.
        ConflictError: `out` was made from other inputs.
        WorkError: A file cannot be written, for example because the disk is full.
    """
    splits = open_splits(corpus, settings.prepared)
    write_export(out, "text", digests(splits), partial(_write, splits, out), overwrite=overwrite)


def _write(splits: dict[str, Corpus], out: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for name, corpus in splits.items():
        columns = [field.name for field in corpus.schema if not pa.types.is_list(field.type)]
        with (
            _open(out / f"{name}.source.gz") as source,
            _open(out / f"{name}.target.gz") as target,
            _open(out / f"{name}.tsv.gz") as table,
        ):
            table.write("\t".join(columns) + "\n")
            for shard in corpus.tables(columns):
                rows = shard.to_pydict()
                counts[BLANKED] += _blank(rows)
                source.writelines(f"{text}\n" for text in rows["source"])
                target.writelines(f"{text}\n" for text in rows["target"])
                values = zip(*(rows[column] for column in columns), strict=True)
                table.writelines("\t".join(map(_show, row)) + "\n" for row in values)
    if counts[BLANKED]:
        say(f"export: {counts[BLANKED]:,} {BLANKED}")
    return counts


def _blank(rows: dict[str, list[str]]) -> int:
    """Replace tabs and line breaks of texts, and return the number of rows that had any."""
    broken: set[int] = set()
    for side in SIDES:
        found = [row for row, text in enumerate(rows[side]) if _BREAK.search(text)]
        for row in found:
            rows[side][row] = _BREAK.sub(" ", rows[side][row])
        broken.update(found)
    return len(broken)


def _show(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.7g}" if isinstance(value, float) else str(value)  # the digits of a float32


@contextlib.contextmanager
def _open(path: Path) -> Iterator[TextIO]:
    """Open a gzip file for text. The same text gives the same bytes: the header holds neither name nor time."""
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as file,
        gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as text,
    ):
        yield text

"""Rows that a model cannot be trained on: counted, told and listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from seqkd.corpus.manifest import atomic_write
from seqkd.training.data import CorpusData

REJECTED = "rejected.tsv"


def corpus_key(number: int, count: int) -> str:
    """What the `number`-th of `count` training corpora is called where paths do not belong: `corpus`, or `corpus1`."""
    return "corpus" if count == 1 else f"corpus{number}"


def write_rejected(path: Path, *parts: CorpusData) -> None:
    """List the rows that a model cannot be trained on, with their reasons; of several corpora each row with its own."""
    lines = ["id\treason\n" if len(parts) == 1 else "corpus\tid\treason\n"]
    for number, data in enumerate(parts, start=1):
        first = "" if len(parts) == 1 else f"{corpus_key(number, len(parts))}\t"
        skipped = sorted((row, reason) for reason, rows in data.skipped.items() for row in rows)
        lines += [f"{first}{row}\t{reason}\n" for row, reason in skipped]
    atomic_write(path, "".join(lines).encode())


def count_rejected(parts: Sequence[CorpusData]) -> dict[str, int]:
    """Their number by reason, in all corpora."""
    counts: Counter[str] = Counter()
    for data in parts:
        counts.update({reason: len(rows) for reason, rows in data.skipped.items() if rows})
    return dict(counts)


def left_out(data: CorpusData) -> str:
    """The same of one corpus, in words."""
    return ", ".join(f"{len(rows):,} {reason}" for reason, rows in data.skipped.items() if rows)

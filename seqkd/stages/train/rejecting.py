"""Rows on which a model cannot be trained: they are counted, reported and listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from seqkd.stages.rejected import list_rows
from seqkd.training.data import CorpusData


def corpus_key(number: int, count: int) -> str:
    """Return a name without a path for the `number`-th of `count` training corpora: `corpus` or `corpus1`."""
    return "corpus" if count == 1 else f"corpus{number}"


def write_rejected(path: Path, *parts: CorpusData) -> None:
    """List the rows on which a model cannot be trained with their reasons and, if there are several, their corpora."""
    several = len(parts) > 1
    lines: list[tuple[object, ...]] = []
    for number, data in enumerate(parts, start=1):
        first = (corpus_key(number, len(parts)),) if several else ()
        lines += [
            (*first, *row) for row in sorted((row, reason) for reason, rows in data.skipped.items() for row in rows)
        ]
    list_rows(path, lines, corpora=several)


def count_rejected(parts: Sequence[CorpusData]) -> dict[str, int]:
    """Count the rejected rows of all corpora by reason."""
    counts: Counter[str] = Counter()
    for data in parts:
        counts.update({reason: len(rows) for reason, rows in data.skipped.items() if rows})
    return dict(counts)


def describe_rejected(data: CorpusData) -> str:
    """Describe the rejected rows of one corpus in words."""
    return ", ".join(f"{len(rows):,} {reason}" for reason, rows in data.skipped.items() if rows)

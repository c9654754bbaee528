"""Rows that a model cannot be trained on: counted, told and listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from seqkd.stages.rejected import list_rows
from seqkd.training.data import CorpusData


def corpus_key(number: int, count: int) -> str:
    """What the `number`-th of `count` training corpora is called where paths do not belong: `corpus`, or `corpus1`."""
    return "corpus" if count == 1 else f"corpus{number}"


def write_rejected(path: Path, *parts: CorpusData) -> None:
    """List the rows that a model cannot be trained on, with their reasons; of several corpora each row with its own."""
    several = len(parts) > 1
    lines: list[tuple[object, ...]] = []
    for number, data in enumerate(parts, start=1):
        first = (corpus_key(number, len(parts)),) if several else ()
        lines += [
            (*first, *row) for row in sorted((row, reason) for reason, rows in data.skipped.items() for row in rows)
        ]
    list_rows(path, lines, corpora=several)


def count_rejected(parts: Sequence[CorpusData]) -> dict[str, int]:
    """Their number by reason, in all corpora."""
    counts: Counter[str] = Counter()
    for data in parts:
        counts.update({reason: len(rows) for reason, rows in data.skipped.items() if rows})
    return dict(counts)


def left_out(data: CorpusData) -> str:
    """The same of one corpus, in words."""
    return ", ".join(f"{len(rows):,} {reason}" for reason, rows in data.skipped.items() if rows)

"""Screening: a verdict for every row of the training text, before the text is used.

The verdicts are stored in a file, one byte a row, so that later passes over a corpus of any size can follow them
without holding them in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seqkd.text.cleaning import (
    DUPLICATE_PAIR,
    EMPTY_SIDE,
    IDENTICAL_SIDES,
    LENGTH_RATIO,
    TOO_LONG,
    WRONG_SOURCE_LANGUAGE,
    WRONG_TARGET_LANGUAGE,
    Cleaner,
)
from seqkd.text.duplicates import DuplicateFinder
from seqkd.text.normalize import Normalizer
from seqkd.text.reading import INVALID_UTF8, NUL_BYTE, WRONG_COLUMNS, RawPair

# Counted only if such rows exist, so that manifests without them stay unchanged.
_LATER = (NUL_BYTE, WRONG_SOURCE_LANGUAGE, WRONG_TARGET_LANGUAGE)
REASONS = (INVALID_UTF8, WRONG_COLUMNS, EMPTY_SIDE, TOO_LONG, LENGTH_RATIO, IDENTICAL_SIDES, DUPLICATE_PAIR, *_LATER)

_KEPT = 0
_CODES = {reason: code for code, reason in enumerate(REASONS, 1)}
BATCH_ROWS = 4096
_BLOCK = 1 << 20


def screen(
    pairs: Iterable[RawPair],
    verdicts: Path,
    *,
    normalizers: tuple[Normalizer, Normalizer],
    cleaner: Cleaner,
    duplicates: DuplicateFinder | None,
    advance: Callable[[int], None],
    batch_rows: int = BATCH_ROWS,
) -> None:
    """Judge all rows and write the verdicts.

    Args:
        pairs: The unchanged rows of the files.
        verdicts: The file to write.
        normalizers: The normalisers of sources and of targets.
        cleaner: Judges normalised pairs one by one.
        duplicates: Finds repeated pairs among those that the cleaner keeps. If None, repeated pairs stay.
        advance: Called with the number of rows that were judged since the last call.
        batch_rows: Rows that are normalised and judged together.

    Raises:
        TextError: The rows cannot be read.
        OSError: A file cannot be written.
    """
    rows = iter(pairs)
    with verdicts.open("wb") as file:
        while batch := list(islice(rows, batch_rows)):
            codes = bytearray()
            sources = normalizers[0].normalize_all([pair.source or "" for pair in batch])
            targets = normalizers[1].normalize_all([pair.target or "" for pair in batch])
            for pair, source, target in zip(batch, sources, targets, strict=True):
                reason = pair.problem or cleaner.reason(source, target)
                codes.append(_CODES[reason] if reason else _KEPT)
                if duplicates is not None and reason is None:
                    duplicates.add(pair.line - 1, source, target)
            file.write(codes)
            advance(len(batch))
    if duplicates is not None:
        for repeated in duplicates.find_repeats():
            if len(repeated):
                codes_on_disk = np.memmap(verdicts, dtype=np.uint8, mode="r+")
                codes_on_disk[repeated] = _CODES[DUPLICATE_PAIR]
                codes_on_disk.flush()


def read_kept(pairs: Iterable[RawPair], verdicts: Path) -> Iterator[tuple[str, str]]:
    """Yield the unchanged source and target of the rows that stay."""
    for pair, code in zip(pairs, _read_codes(verdicts), strict=True):
        if code == _KEPT:
            assert pair.source is not None  # a row with a problem is never kept
            assert pair.target is not None
            yield pair.source, pair.target


def read_rejected(verdicts: Path) -> Iterator[tuple[int, str]]:
    """Yield the number, from 1, and the reason of each rejected row."""
    for number, code in enumerate(_read_codes(verdicts), 1):
        if code != _KEPT:
            yield number, REASONS[code - 1]


def count_verdicts(verdicts: Path) -> tuple[int, dict[str, int]]:
    """Count the rows that stay, and the rejected rows by reason."""
    totals = np.zeros(len(REASONS) + 1, dtype=np.int64)
    with verdicts.open("rb") as file:
        while block := file.read(_BLOCK):
            totals += np.bincount(np.frombuffer(block, dtype=np.uint8), minlength=len(totals))
    counts = {reason: int(totals[code]) for reason, code in _CODES.items() if totals[code] or reason not in _LATER}
    return int(totals[_KEPT]), counts


def find_kept(verdicts: Path) -> npt.NDArray[np.int64]:
    """Return the places, from 0, of the rows that stay."""
    return np.flatnonzero(np.fromfile(verdicts, dtype=np.uint8) == _KEPT)


def _read_codes(verdicts: Path) -> Iterator[int]:
    with verdicts.open("rb") as file:
        while block := file.read(_BLOCK):
            yield from block

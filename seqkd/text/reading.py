"""Reading of bitext row by row, from two line-aligned files or one TSV file, plain or compressed, in UTF-8."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import NamedTuple

from seqkd.errors import TextError
from seqkd.text.opening import BLOCK, is_rereadable, open_text

INVALID_UTF8 = "invalid UTF-8"
WRONG_COLUMNS = "not two columns"
NUL_BYTE = "NUL byte"


class RawPair(NamedTuple):
    """One row of the files, unchanged.

    Attributes:
        line: Line number, counted from 1.
        source: Source text without its line end, or None if the row has a problem.
        target: Target text without its line end, or None if the row has a problem.
        problem: The reason why the row cannot be read (`INVALID_UTF8`, `NUL_BYTE` or `WRONG_COLUMNS`), or None.
    """

    line: int
    source: str | None
    target: str | None
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BitextFacts:
    """The facts that one pass over the bytes of a bitext gives.

    Attributes:
        rows: Number of lines.
        digests: SHA-256 (hex) of each file's text after decompression, source first.
    """

    rows: int
    digests: tuple[str, ...]


def read_bitext(source: str | Path, target: str | Path | None) -> Iterator[RawPair]:
    r"""Read the rows of a bitext one at a time.

    A line ends only at "\n" or "\r\n". U+2028, form feeds and the like are part of the text.

    Args:
        source: Source file, or a TSV file with a source and a target column if `target` is None.
        target: Target file, or None.

    Raises:
        TextError: A file is missing, cannot be decompressed, or the two have different numbers of lines.
    """
    if target is None:
        for number, line in enumerate(_lines(source), 1):
            yield _columns(number, line)
        return
    for number, (left, right) in enumerate(zip_longest(_lines(source), _lines(target)), 1):
        if left is None or right is None:
            raise _unequal_error(source, _count(source), target, _count(target))
        try:
            yield _check_nul(RawPair(number, left.decode("utf-8"), right.decode("utf-8"), None))
        except UnicodeDecodeError:
            yield RawPair(number, None, None, INVALID_UTF8)


def read_lines(paths: Sequence[str | Path]) -> Iterator[RawPair]:
    """Read the lines of files of one language as pairs of a line and itself, numbered through all files.

    Raises:
        TextError: A file is missing or cannot be decompressed.
    """
    for number, line in enumerate((line for path in paths for line in _lines(path)), 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            yield RawPair(number, None, None, INVALID_UTF8)
        else:
            yield _check_nul(RawPair(number, text, text, None))


def check_bitext(source: str | Path, target: str | Path | None, *, block: int = BLOCK) -> BitextFacts:
    """Read the bytes of a bitext once, count its lines, and check that it is text.

    Args:
        source: Source file, or a TSV file with both columns if `target` is None.
        target: Target file, or None.
        block: Number of bytes that are read at a time.

    Raises:
        TextError: A file is missing, empty or binary or cannot be decompressed, or the numbers of lines differ.
    """
    lines, digest = _scan(source, block)
    if target is None:
        return BitextFacts(rows=lines, digests=(digest,))
    target_lines, target_digest = _scan(target, block)
    if lines != target_lines:
        raise _unequal_error(source, lines, target, target_lines)
    return BitextFacts(rows=lines, digests=(digest, target_digest))


@contextmanager
def copy_pipes(source: Path, target: Path) -> Iterator[tuple[Path, Path]]:
    """Yield paths of a bitext that can be read several times, with a copy in place of each side that is a pipe.

    Both pipes are read at the same time, so one process may write both. The copies are deleted on leaving.

    Raises:
        TextError: A file is missing, or cannot be read or decompressed. The message names the original, not the copy.
    """
    pipes = [path for path in (source, target) if path.exists() and not is_rereadable(path)]
    if not pipes:
        yield source, target
        return
    with tempfile.TemporaryDirectory(prefix="seqkd-") as folder:
        copies = {pipe: Path(folder) / str(number) for number, pipe in enumerate(pipes)}
        done: Queue[Exception | None] = Queue()
        for pipe, copy in copies.items():
            # Daemon threads, because a pipe without a writer must not keep a stopped process alive.
            Thread(target=_copy, args=(pipe, copy, done), daemon=True).start()
        for _ in copies:
            if error := done.get():
                raise error
        try:
            yield copies.get(source, source), copies.get(target, target)
        except TextError as error:
            what, where = error.what, error.where
            for pipe, copy in copies.items():
                what, where = what.replace(str(copy), str(pipe)), where.replace(str(copy), str(pipe))
            raise TextError(what, where=where, expected=error.expected, hint=error.hint) from None


def _copy(pipe: Path, copy: Path, done: Queue[Exception | None]) -> None:
    try:
        with copy.open("wb") as file:
            file.writelines(line + b"\n" for line in _lines(pipe, once=True))
    except Exception as error:
        done.put(error)
    else:
        done.put(None)


def _columns(number: int, line: bytes) -> RawPair:
    try:
        columns = line.decode("utf-8").split("\t")
    except UnicodeDecodeError:
        return RawPair(number, None, None, INVALID_UTF8)
    if len(columns) != 2:
        return RawPair(number, None, None, WRONG_COLUMNS)
    return _check_nul(RawPair(number, columns[0], columns[1], None))


def _check_nul(row: RawPair) -> RawPair:
    """Return the row, or a row with a problem if it contains a NUL byte, which text never does."""
    if "\0" in (row.source or "") or "\0" in (row.target or ""):
        return RawPair(row.line, None, None, NUL_BYTE)
    return row


def _scan(path: str | Path, size: int) -> tuple[int, str]:
    lines, digest, last = 0, hashlib.sha256(), b""
    with_nul, first_nul, last_nul = 0, 0, 0  # count of lines with a NUL byte; first and last such line
    with open_text(path) as file:
        while block := file.read(size):
            if b"\0" in block:
                for number, part in enumerate(block.split(b"\n"), lines + 1):
                    if b"\0" in part and number != last_nul:  # a line may span two blocks
                        with_nul, first_nul, last_nul = with_nul + 1, first_nul or number, number
            lines += block.count(b"\n")
            last = block[-1:]
            digest.update(block)
    if not last:
        raise TextError("the corpus is empty: the file has no line", where=str(path))
    lines += last != b"\n"
    if with_nul > lines / 2:  # fewer such lines are treated as unreadable rows, like lines with invalid UTF-8
        raise _binary_error(path, first_nul)
    return lines, digest.hexdigest()


def _count(path: str | Path) -> int:
    return sum(1 for _ in _lines(path))


def _lines(path: str | Path, *, once: bool = False) -> Iterator[bytes]:
    with open_text(path, once=once) as file:
        for line in file:
            if line.endswith(b"\r\n"):
                yield line[:-2]
            elif line.endswith(b"\n"):
                yield line[:-1]
            else:
                yield line


def _binary_error(path: str | Path, line: int) -> TextError:
    return TextError(
        "is a binary file, not text: it contains a NUL byte",
        where=f"{path}, line {line}",
        expected="UTF-8 text",
        hint="convert it to UTF-8 (UTF-16 text looks like this)",
    )


def _unequal_error(source: str | Path, source_lines: int, target: str | Path, target_lines: int) -> TextError:
    return TextError(
        f"the two sides have different numbers of lines: {source} has {source_lines:,}, {target} has {target_lines:,}",
        expected="one line of target for each line of source",
        hint="align the files; a missing or repeated line shifts all rows after it",
    )

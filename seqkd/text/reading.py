"""Reading bitext, row by row: two line-aligned files or one TSV file, plain or compressed, in UTF-8."""

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
from seqkd.text.opening import BLOCK, is_rereadable, opened

INVALID_UTF8 = "invalid UTF-8"
WRONG_COLUMNS = "not two columns"
NUL_BYTE = "NUL byte"


class RawPair(NamedTuple):
    """One row as it stands in the files.

    Attributes:
        line: Line number, counted from 1.
        source: Source text without its line end; None if the row has a problem.
        target: Target text without its line end; None if the row has a problem.
        problem: Why the row cannot be read (`INVALID_UTF8`, `NUL_BYTE`, `WRONG_COLUMNS`); None if it can.
    """

    line: int
    source: str | None
    target: str | None
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BitextFacts:
    """What one pass over the bytes of a bitext tells.

    Attributes:
        rows: Number of lines.
        digests: SHA-256 (hex) of each file's text after decompression, source first.
    """

    rows: int
    digests: tuple[str, ...]


def read_bitext(source: str | Path, target: str | Path | None) -> Iterator[RawPair]:
    r"""Read the rows of a bitext, holding one row at a time.

    A line ends at "\n" or "\r\n" and nowhere else: U+2028, form feeds and the like are part of the text.

    Args:
        source: Source file, or a TSV file with a source and a target column when `target` is None.
        target: Target file.

    Raises:
        TextError: A file is missing, cannot be decompressed, or the two have different numbers of lines.
    """
    if target is None:
        for number, line in enumerate(_lines(source), 1):
            yield _columns(number, line)
        return
    for number, (left, right) in enumerate(zip_longest(_lines(source), _lines(target)), 1):
        if left is None or right is None:
            raise _unequal(source, _count(source), target, _count(target))
        try:
            yield _checked(RawPair(number, left.decode("utf-8"), right.decode("utf-8"), None))
        except UnicodeDecodeError:
            yield RawPair(number, None, None, INVALID_UTF8)


def read_lines(paths: Sequence[str | Path]) -> Iterator[RawPair]:
    """Read text of one language, file after file, as pairs of a line and itself; line numbers go on through all files.

    Raises:
        TextError: A file is missing or cannot be decompressed.
    """
    for number, line in enumerate((line for path in paths for line in _lines(path)), 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            yield RawPair(number, None, None, INVALID_UTF8)
        else:
            yield _checked(RawPair(number, text, text, None))


def check_bitext(source: str | Path, target: str | Path | None, *, block: int = BLOCK) -> BitextFacts:
    """Read a bitext's bytes once: count its lines and see that it is text at all.

    Args:
        source: Source file, or a TSV file with both columns when `target` is None.
        target: Target file.
        block: Bytes that are read at a time.

    Raises:
        TextError: A file is missing, empty, binary or cannot be decompressed, or the line counts differ.
    """
    lines, digest = _scan(source, block)
    if target is None:
        return BitextFacts(rows=lines, digests=(digest,))
    target_lines, target_digest = _scan(target, block)
    if lines != target_lines:
        raise _unequal(source, lines, target, target_lines)
    return BitextFacts(rows=lines, digests=(digest, target_digest))


@contextmanager
def rereadable(source: Path, target: Path) -> Iterator[tuple[Path, Path]]:
    """Give paths of a bitext that can be read several times: a copy in place of each side that is a pipe.

    Both pipes are read at the same time, so one process may write both. The copies are deleted on leaving.

    Raises:
        TextError: A file is missing, cannot be read or decompressed; in place of a copy the message names the original.
    """
    pipes = [path for path in (source, target) if path.exists() and not is_rereadable(path)]
    if not pipes:
        yield source, target
        return
    with tempfile.TemporaryDirectory(prefix="seqkd-") as folder:
        copies = {pipe: Path(folder) / str(number) for number, pipe in enumerate(pipes)}
        done: Queue[Exception | None] = Queue()
        for pipe, copy in copies.items():
            # Daemons: a pipe that nobody writes to must not keep a stopped process alive.
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
    return _checked(RawPair(number, columns[0], columns[1], None))


def _checked(row: RawPair) -> RawPair:
    """The row, or its problem if it holds a NUL byte, which text never does."""
    if "\0" in (row.source or "") or "\0" in (row.target or ""):
        return RawPair(row.line, None, None, NUL_BYTE)
    return row


def _scan(path: str | Path, size: int) -> tuple[int, str]:
    lines, digest, last = 0, hashlib.sha256(), b""
    with_nul, first_nul, last_nul = 0, 0, 0  # how many lines hold a NUL byte, and the numbers of two of them
    with opened(path) as file:
        while block := file.read(size):
            if b"\0" in block:
                for number, part in enumerate(block.split(b"\n"), lines + 1):
                    if b"\0" in part and number != last_nul:  # a line may lie in two blocks
                        with_nul, first_nul, last_nul = with_nul + 1, first_nul or number, number
            lines += block.count(b"\n")
            last = block[-1:]
            digest.update(block)
    if not last:
        raise TextError("empty corpus: the file holds no line", where=str(path))
    lines += last != b"\n"
    if with_nul > lines / 2:  # a few such lines are rows that cannot be read, like those of invalid UTF-8
        raise _binary(path, first_nul)
    return lines, digest.hexdigest()


def _count(path: str | Path) -> int:
    return sum(1 for _ in _lines(path))


def _lines(path: str | Path, *, once: bool = False) -> Iterator[bytes]:
    with opened(path, once=once) as file:
        for line in file:
            if line.endswith(b"\r\n"):
                yield line[:-2]
            elif line.endswith(b"\n"):
                yield line[:-1]
            else:
                yield line


def _binary(path: str | Path, line: int) -> TextError:
    return TextError(
        "a binary file, not text: it has a NUL byte",
        where=f"{path}, line {line}",
        expected="UTF-8 text",
        hint="convert it to UTF-8 (UTF-16 text looks like this)",
    )


def _unequal(source: str | Path, source_lines: int, target: str | Path, target_lines: int) -> TextError:
    return TextError(
        f"the two sides have different numbers of lines: {source} has {source_lines:,}, {target} has {target_lines:,}",
        expected="one line of target for each line of source",
        hint="align the files; a lost or doubled line shifts every row after it",
    )

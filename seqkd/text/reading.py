"""Reading bitext, row by row: two line-aligned files or one TSV file, plain or gzipped, in UTF-8."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from seqkd.errors import TextError

INVALID_UTF8 = "invalid UTF-8"
WRONG_COLUMNS = "not two columns"

_BLOCK = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"


class RawPair(NamedTuple):
    """One row as it stands in the files.

    Attributes:
        line: Line number, counted from 1.
        source: Source text without its line end; None if the row has a problem.
        target: Target text without its line end; None if the row has a problem.
        problem: Why the row cannot be read (`INVALID_UTF8`, `WRONG_COLUMNS`); None if it can.
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


def read_bitext(source: Path, target: Path | None) -> Iterator[RawPair]:
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
            yield RawPair(number, left.decode("utf-8"), right.decode("utf-8"), None)
        except UnicodeDecodeError:
            yield RawPair(number, None, None, INVALID_UTF8)


def read_lines(paths: Sequence[Path]) -> Iterator[RawPair]:
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
            yield RawPair(number, text, text, None)


def check_bitext(source: Path, target: Path | None) -> BitextFacts:
    """Read a bitext's bytes once: count its lines and see that it is text at all.

    Raises:
        TextError: A file is missing, empty, binary or cannot be decompressed, or the line counts differ.
    """
    lines, digest = _scan(source)
    if target is None:
        return BitextFacts(rows=lines, digests=(digest,))
    target_lines, target_digest = _scan(target)
    if lines != target_lines:
        raise _unequal(source, lines, target, target_lines)
    return BitextFacts(rows=lines, digests=(digest, target_digest))


def _columns(number: int, line: bytes) -> RawPair:
    try:
        columns = line.decode("utf-8").split("\t")
    except UnicodeDecodeError:
        return RawPair(number, None, None, INVALID_UTF8)
    if len(columns) != 2:
        return RawPair(number, None, None, WRONG_COLUMNS)
    return RawPair(number, columns[0], columns[1], None)


def _scan(path: Path) -> tuple[int, str]:
    lines, digest, last = 0, hashlib.sha256(), b""
    with _opened(path) as file:
        while block := file.read(_BLOCK):
            nul = block.find(b"\0")
            if nul >= 0:
                raise _binary(path, lines + 1 + block.count(b"\n", 0, nul), gzipped=_is_gzip(path))
            lines += block.count(b"\n")
            last = block[-1:]
            digest.update(block)
    if not last:
        raise TextError("empty corpus: the file holds no line", where=str(path))
    return lines + (last != b"\n"), digest.hexdigest()


def _count(path: Path) -> int:
    return sum(1 for _ in _lines(path))


def _lines(path: Path) -> Iterator[bytes]:
    with _opened(path) as file:
        for line in file:
            if line.endswith(b"\r\n"):
                yield line[:-2]
            elif line.endswith(b"\n"):
                yield line[:-1]
            else:
                yield line


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading bytes; failures of reading and decompressing become TextErrors."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as packed:
                yield cast(BinaryIO, io.BufferedReader(packed, _BLOCK))
        else:
            with path.open("rb", buffering=_BLOCK) as plain:
                yield plain
    except FileNotFoundError:
        raise TextError("no such file", where=str(path), expected="a text file", hint="check the path") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise TextError(
            f"cannot be decompressed: {error}", where=str(path), expected="a whole gzip file, as its name says"
        ) from None
    except OSError as error:
        raise TextError(f"cannot be read: {error.strerror or error}", where=str(path), expected="a text file") from None


def _is_gzip(path: Path) -> bool:
    if path.suffix == ".gz":
        return False  # it was gzip and what came out of it is binary
    with path.open("rb") as file:
        return file.read(2) == _GZIP_MAGIC


def _binary(path: Path, line: int, *, gzipped: bool) -> TextError:
    hint = "give it a name that ends with .gz" if gzipped else "convert it to UTF-8 (UTF-16 text looks like this)"
    return TextError(
        "a binary file, not text: it has a NUL byte", where=f"{path}, line {line}", expected="UTF-8 text", hint=hint
    )


def _unequal(source: Path, source_lines: int, target: Path, target_lines: int) -> TextError:
    return TextError(
        f"the two sides have different numbers of lines: {source} has {source_lines:,}, {target} has {target_lines:,}",
        expected="one line of target for each line of source",
        hint="align the files; a lost or doubled line shifts every row after it",
    )

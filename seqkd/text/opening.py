"""Opening of text files, plain or compressed, for reading bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from seqkd.errors import TextError

BLOCK = 1 << 20

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NAMES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "Zstandard"}
_OPENERS: dict[str, Callable[[io.BufferedReader], Any]] = {
    "gzip": lambda raw: gzip.GzipFile(fileobj=raw),
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "Zstandard": lambda raw: pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd"),
}
_HEADS = {
    "gzip": rb"\x1f\x8b",
    "bzip2": rb"BZh[1-9](1AY&SY|\x17rE8P\x90)",
    "xz": rb"\xfd7zXZ\x00",
    "Zstandard": rb"(\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18)",
    "zip": rb"PK\x03\x04",
    "7-Zip": rb"7z\xbc\xaf\x27\x1c",
    "LZ4": rb"\x04\x22\x4d\x18",
}
_HEAD_BYTES = 10


def detect_compression(head: bytes) -> str | None:
    """Return the name of the compression format of a file that begins with `head`; None if there is none.

    No text in UTF-8 begins like a file of these formats.
    """
    return next((name for name, pattern in _HEADS.items() if re.match(pattern, head, re.DOTALL)), None)


@contextmanager
def open_text(path: str | Path, *, once: bool = False) -> Iterator[BinaryIO]:
    """Open a text file for reading bytes. The suffix names the compression; a byte order mark is skipped.

    Args:
        path: A plain text file, or a `.gz`, `.bz2`, `.xz` or `.zst` file.
        once: Whether the caller reads the file only once, so that it may be a pipe.

    Raises:
        TextError: The file is missing, cannot be read or decompressed, is compressed in a format that its suffix does
            not name, or is a pipe that would be read more than once.
    """
    path = Path(path)
    try:
        if not once and not is_rereadable(path):
            raise TextError(
                "is a pipe or a device, which can be read only once",
                where=str(path),
                expected="a file, because the text is read several times",
                hint=f"write the text to a file first; {', '.join(_NAMES)} files need not be decompressed",
            )
        with path.open("rb", buffering=BLOCK) as raw:
            file = _decompressed(path, cast(io.BufferedReader, raw))
            if file.peek(len(_BYTE_ORDER_MARK)).startswith(_BYTE_ORDER_MARK):
                file.read(len(_BYTE_ORDER_MARK))
            yield cast(BinaryIO, file)
    except FileNotFoundError:
        raise TextError("no such file", where=str(path), expected="a text file", hint="check the path") from None
    except (EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        raise _damaged(path, error) from None
    except OSError as error:
        if error.errno is None:  # raised by a decompressor, not by the system
            raise _damaged(path, error) from None
        raise TextError(f"cannot be read: {error.strerror}", where=str(path), expected="a text file") from None


def is_rereadable(path: str | Path) -> bool:
    """Whether a path can be opened several times and always gives the same bytes, unlike pipes and terminals.

    The answer is True for a folder, too, because opening it gives a better error message.

    Raises:
        OSError: The file does not exist.
    """
    mode = Path(path).stat().st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _decompressed(path: Path, raw: io.BufferedReader) -> io.BufferedReader:
    named = _NAMES.get(path.suffix)
    found = detect_compression(raw.peek(_HEAD_BYTES)[:_HEAD_BYTES])
    if found is not None and found != named:
        endings = [ending for ending, name in _NAMES.items() if name == found]
        what = f"contains {found} data" + (f", although its name says {named}" if named else "")
        hint = f"give it a name that ends with {endings[0]}" if endings else "decompress it first"
        raise TextError(what, where=str(path), expected=f"{named or 'plain'} text, as its name says", hint=hint)
    if named is None:
        return raw
    return io.BufferedReader(_OPENERS[named](raw), BLOCK)


def _damaged(path: Path, error: Exception) -> TextError:
    named = _NAMES.get(path.suffix, "text")
    return TextError(
        f"cannot be decompressed: {error}", where=str(path), expected=f"a whole {named} file, as its name says"
    )

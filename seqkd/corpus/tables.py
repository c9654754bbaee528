"""Reading and checking of the file of one shard."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa

from seqkd.corpus.records import ShardInfo
from seqkd.corpus.schema import KINDS, NULLABLE, OPTIONAL, fits
from seqkd.errors import CorpusError

AGAIN = "make the folder again with the stage that wrote it, or copy it again"


def read_table(path: Path, shard: ShardInfo, kind: str, *, checked: bool = False) -> pa.Table:
    """Read the file of one shard, memory-mapped if it is not compressed.

    Its bytes are compared with the manifest's SHA-256 before Arrow parses them, and Arrow checks all offsets and texts
    before they are used. A damaged or hostile file therefore raises an error and can neither crash the process nor give
    another text.

    Args:
        path: The file.
        shard: The entry of the shard in the manifest.
        kind: The kind of the folder.
        checked: Whether this process has checked the file before. Then only its size and columns are checked.

    Raises:
        CorpusError: The file is missing or damaged, or does not match the manifest.
    """
    check_size(path, shard)  # it may have changed since `open`; reading beyond the end of a mapped file crashes
    try:
        data = pa.memory_map(str(path)).read_buffer()
        if not checked and (digest := hashlib.sha256(data).hexdigest()) != shard.sha256:
            what = f"its SHA-256 is {digest[:12]}..., in the manifest {shard.sha256[:12]}..."
            raise CorpusError(what, where=str(path), hint=AGAIN)
        table = pa.ipc.open_file(data).read_all()
        if not checked:
            table.validate(full=True)
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        raise CorpusError(f"is not a readable Arrow file: {error}", where=str(path), hint=AGAIN) from None
    if table.num_rows != shard.rows:
        raise CorpusError(f"has {table.num_rows} rows, {shard.rows} in the manifest", where=str(path), hint=AGAIN)
    if not fits(table.schema, kind):
        raise columns_error(table, path, kind)
    if not checked:
        required = [name for name in table.column_names if name not in OPTIONAL]
        nulls = [name for name in required if any(map(_has_nulls, table.column(name).chunks))]
        if nulls:
            raise CorpusError(f"contains nulls in {', '.join(nulls)}", where=str(path), hint=AGAIN)
    return table


def columns_error(table: pa.Table, path: Path, kind: str) -> CorpusError:
    """Return the error of a shard with other columns than its folder has."""
    return CorpusError(
        f"has the columns {', '.join(table.schema.names)}, or other types of columns",
        where=str(path),
        expected=f"the columns of kind {kind}, the same in each shard: {', '.join(KINDS[kind].names)}",
    )


def _has_nulls(array: pa.Array) -> bool:
    """Whether the array contains a null, also within lists and structs, other than a number that may be missing."""
    if array.null_count:
        return True
    if pa.types.is_list(array.type):
        return _has_nulls(array.flatten())
    if pa.types.is_struct(array.type):
        parts = zip(array.type, array.flatten(), strict=True)
        return any(field.name not in NULLABLE and _has_nulls(values) for field, values in parts)
    return False


def check_size(path: Path, shard: ShardInfo) -> None:
    """Check that the file of a shard exists and has the size that the manifest gives.

    Raises:
        CorpusError: It is missing, or has another size.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise CorpusError("is missing, but listed in the manifest", where=str(path), hint=AGAIN) from None
    except OSError as error:
        raise CorpusError(f"cannot be read: {error.strerror}", where=str(path), hint=AGAIN) from None
    if size != shard.bytes:
        state = "is truncated" if size < shard.bytes else "is too long"
        raise CorpusError(f"{state}: {size:,} bytes, {shard.bytes:,} in the manifest", where=str(path), hint=AGAIN)

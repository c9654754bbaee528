"""Write shards: whole or not at all, and the same rows always as the same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Container
from pathlib import Path

import pyarrow as pa

from seqkd.corpus.files import atomic_write, work_error
from seqkd.corpus.records import ShardInfo, shard_index, shard_name
from seqkd.corpus.schema import PACKED, conform, kind_of
from seqkd.progress import say

# Packed shards are unpacked a batch at a time where the whole is too large to hold. More rows a batch would save a few
# bytes of a hundred, and cost time whenever some row of it is wanted.
PACKED_ROWS = 64


def write_shard(folder: Path, index: int, table: pa.Table) -> ShardInfo:
    """Write `table` as shard number `index`, over an earlier one of that number.

    The kind is told from the columns. Equal rows give equal bytes, however the table's memory is laid out. Soft targets
    are packed (LZ4), in batches of PACKED_ROWS rows: they are large, and most of their bytes say little.

    Returns:
        The shard's entry for the manifest.

    Raises:
        WorkError: The system refuses: disk full, no permission.
        ValueError: Columns of no kind, of a wrong type, or with nulls; a negative index.
    """
    if index < 0:
        raise ValueError(f"shard index {index} is negative")
    table = conform(table)
    sink = pa.BufferOutputStream()
    packed = kind_of(table.column_names) in PACKED
    options = pa.ipc.IpcWriteOptions(compression="lz4" if packed else None)
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=PACKED_ROWS if packed else None)
    data = memoryview(sink.getvalue())
    name = shard_name(index)
    atomic_write(folder / name, data)
    return ShardInfo(name=name, rows=table.num_rows, sha256=hashlib.sha256(data).hexdigest(), bytes=data.nbytes)


def finished_shards(folder: Path, wanted: Container[int] | None = None) -> dict[int, ShardInfo]:
    """The shards that an interrupted run left, by number; what is missing here is still to be written.

    Each is read whole and checked. A damaged one is named on stderr and left out, so that it is written again.

    Args:
        folder: Where they are.
        wanted: Numbers of those to look at; None for all.

    Raises:
        WorkError: The system refuses to list or read.
    """
    found: dict[int, ShardInfo] = {}
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise work_error(error, folder, "cannot be listed") from error
    for path in paths:
        index = shard_index(path.name)
        if index is None or (wanted is not None and index not in wanted):
            continue
        try:
            data = path.read_bytes()
        except OSError as error:
            raise work_error(error, path, "cannot be read") from error
        try:
            table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
            table.validate(full=True)
        except (pa.ArrowException, OSError) as error:
            say(f"{path}: damaged ({error}); it will be written again")
            continue
        digest = hashlib.sha256(data).hexdigest()
        found[index] = ShardInfo(name=path.name, rows=table.num_rows, sha256=digest, bytes=len(data))
    return dict(sorted(found.items()))

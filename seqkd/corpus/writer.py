"""Atomic writing of shards. Equal rows always give equal bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Container
from pathlib import Path

import pyarrow as pa

from seqkd.corpus.files import atomic_write, work_error
from seqkd.corpus.records import ShardInfo, shard_index, shard_name
from seqkd.corpus.schema import COMPRESSED, LOOKED_UP, conform, kind_of
from seqkd.progress import say

# Rows in a batch of a compressed shard of which single rows are needed. If the shards are too large to hold, they are
# decompressed by batches. Larger batches would save a few per cent of space, but take longer whenever a row is needed.
LOOKED_UP_ROWS = 64


def write_shard(folder: Path, index: int, table: pa.Table) -> ShardInfo:
    """Write `table` as shard number `index`, and replace an earlier shard of that number.

    The columns decide the kind. Equal rows give equal bytes, whatever the memory layout of the table, with one version
    of Arrow. K-best lists and soft targets are compressed (Zstandard), because they are large and are read once.

    Returns:
        The entry of the shard for the manifest.

    Raises:
        WorkError: The file cannot be written, for example because the disk is full.
        ValueError: The columns do not form a kind, have a wrong type or contain nulls; or the index is negative.
    """
    if index < 0:
        raise ValueError(f"shard index {index} is negative")
    table = conform(table)
    sink = pa.BufferOutputStream()
    kind = kind_of(table.column_names)
    options = pa.ipc.IpcWriteOptions(compression="zstd" if kind in COMPRESSED else None)
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=LOOKED_UP_ROWS if kind in LOOKED_UP else None)
    data = memoryview(sink.getvalue())
    name = shard_name(index)
    atomic_write(folder / name, data)
    return ShardInfo(name=name, rows=table.num_rows, sha256=hashlib.sha256(data).hexdigest(), bytes=data.nbytes)


def finished_shards(folder: Path, wanted: Container[int] | None = None) -> dict[int, ShardInfo]:
    """Return the shards that an interrupted run has finished, by number.

    Each shard is read and checked. A damaged shard is reported on stderr and left out, so that it is written again.

    Args:
        folder: The folder of the shards.
        wanted: Numbers of the shards to look for; None for all.

    Raises:
        WorkError: The folder or a shard cannot be read.
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
            say(f"{path}: the shard is damaged ({error}) and will be written again")
            continue
        digest = hashlib.sha256(data).hexdigest()
        found[index] = ShardInfo(name=path.name, rows=table.num_rows, sha256=digest, bytes=len(data))
    return dict(sorted(found.items()))

"""`seqkd forget`: delete the rows of an intermediate folder, but keep its manifest for the folders made from it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from seqkd.corpus.locks import FolderLock
from seqkd.corpus.manifest import MANIFEST, read_manifest, write_manifest
from seqkd.corpus.records import FORGOTTEN, shard_index
from seqkd.errors import CorpusError

FORGETTABLE = ("kbest", "soft")  # a stage that has nothing to do does not read their rows


def forget(path: str | Path) -> int:
    """Delete the shards of k-best lists or soft targets.

    The manifest stays, with a mark, so that Make and the stages regard the folder as finished, and `verify` does not
    regard it as damaged. Its digest and its time do not change, so that Make does not run later stages again. A stage
    that needs the rows reports an error.

    Args:
        path: The folder of a finished stage.

    Returns:
        The number of bytes that were freed.

    Raises:
        CorpusError: The folder is not finished, or does not hold k-best lists or soft targets.
        ConflictError: Another process is writing into the folder.
    """
    path = Path(path)
    manifest = read_manifest(path)
    if manifest.kind not in FORGETTABLE:
        raise CorpusError(
            f"is of kind {manifest.kind!r}, which later stages read even if they have nothing to do",
            where=str(path),
            expected="k-best lists (kbest/NAME) or soft targets (soft_targets/NAME)",
        )
    lock = FolderLock(path, None)
    try:
        if not manifest.extra.get(FORGOTTEN):
            file = path / MANIFEST
            made = file.stat()
            write_manifest(path, dataclasses.replace(manifest, extra={**manifest.extra, FORGOTTEN: True}))
            os.utime(file, ns=(made.st_atime_ns, made.st_mtime_ns))
        freed = 0
        for entry in sorted(path.iterdir()):
            if shard_index(entry.name) is not None:
                freed += entry.stat().st_size
                entry.unlink()
    finally:
        lock.release()
    return freed

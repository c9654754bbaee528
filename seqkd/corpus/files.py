"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from seqkd.errors import SeqkdError, WorkError

_TEMPORARY = re.compile(r"^\..+\.\d+\.tmp$")
_KEPT = re.compile(r"\.old\d*$")  # a finished folder whose stage has started anew

_HINTS = {
    errno.ENOSPC: "free some space, then run the same command again",
    errno.EDQUOT: "the quota is used up: free some space, then run the same command again",
    errno.EACCES: "check the folder's owner and permissions, or choose another --out",
    errno.EPERM: "check the folder's owner and permissions, or choose another --out",
    errno.EROFS: "the file system is read-only: choose another --out",
}


def work_error(error: OSError, path: Path, what: str) -> SeqkdError:
    """What to raise when the system refuses `what` (say, "cannot be written") at `path`."""
    reason = error.strerror or str(error)
    return WorkError(f"{what}: {reason}", where=str(path), hint=_HINTS.get(error.errno or 0, ""))


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; on leaving, fsync it and rename it to `path`.

    For libraries that want a file name. If the body fails, the temporary file is deleted and `path` stays as it was.
    The file gets the permissions that the umask gives to any new file, whatever permissions the library has set.

    Raises:
        WorkError: The system refuses: disk full, no permission.
    """
    # No process number: two machines that share the folder may have the same.
    temporary = path.with_name(f".{path.name}.{secrets.randbits(48)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        os.close(descriptor)
        yield temporary
        if stat.S_IMODE(temporary.stat().st_mode) != mode:
            temporary.chmod(mode)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise work_error(error, path, "cannot be written") from error
    finally:
        with contextlib.suppress(OSError):  # gone after the rename; a disk at fault must not hide the first error
            temporary.unlink()


def atomic_write(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path`: whoever looks sees the old file or the new one, also after a crash.

    Raises:
        WorkError: The system refuses: disk full, no permission.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(data)


def sync(path: Path) -> None:
    """Ask the system to have a file or a folder's names on the disk before returning."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, to stay: their names are on the disk before this returns."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync(folder.parent)


def is_kept(name: str) -> bool:
    """Whether `name` is one that `kept_as` gives: NAME.old, NAME.old2 and so on."""
    return _KEPT.search(name) is not None


def kept_as(folder: Path) -> Path:
    """Where a finished folder is moved if its stage starts anew: the first free one of NAME.old, NAME.old2, ..."""
    number, path = 1, folder.with_name(f"{folder.name}.old")
    while os.path.lexists(path):
        number += 1
        path = folder.with_name(f"{folder.name}.old{number}")
    return path


def is_temporary(name: str) -> bool:
    """Whether `name` is one that `atomic_path` gives; left behind only when the process was killed."""
    return _TEMPORARY.match(name) is not None

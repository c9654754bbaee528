"""Atomic writes: a file is either complete or does not exist."""

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
_KEPT = re.compile(r"\.old\d*$")  # a finished folder that was moved when its stage started anew

_HINTS = {
    errno.ENOSPC: "free some space, then run the same command again",
    errno.EDQUOT: "the quota is used up: free some space, then run the same command again",
    errno.EACCES: "check the folder's owner and permissions, or choose another --out",
    errno.EPERM: "check the folder's owner and permissions, or choose another --out",
    errno.EROFS: "the file system is read-only: choose another --out",
}


def work_error(error: OSError, path: Path, what: str) -> SeqkdError:
    """Make the error for a failed operation at `path`; `what` names it, as in "cannot be written"."""
    reason = error.strerror or str(error)
    return WorkError(f"{what}: {reason}", where=str(path), hint=_HINTS.get(error.errno or 0, ""))


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on leaving, fsync the file and rename it to `path`.

    This is for libraries that need a file name. If the body fails, the temporary file is deleted and `path` stays
    unchanged. The file gets the permissions of the umask, whatever permissions the library has set.

    Raises:
        WorkError: The file cannot be written, for example because the disk is full.
    """
    # The name contains no process number, which two machines that share the folder may have in common.
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
        with contextlib.suppress(OSError):  # already renamed; or a failing disk, which must not hide the first error
            temporary.unlink()


def atomic_write(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path`. Readers see either the old file or the new one, even after a crash.

    Raises:
        WorkError: The file cannot be written, for example because the disk is full.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(data)


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, and wait until their names are on the disk."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync(folder.parent)


def is_kept(name: str) -> bool:
    """Whether `name` is a name that `kept_path` returns: NAME.old, NAME.old2 and so on."""
    return _KEPT.search(name) is not None


def kept_path(folder: Path) -> Path:
    """Return the path to which a finished folder is moved: the first free one of NAME.old, NAME.old2 and so on."""
    number, path = 1, folder.with_name(f"{folder.name}.old")
    while os.path.lexists(path):
        number += 1
        path = folder.with_name(f"{folder.name}.old{number}")
    return path


def is_temporary(name: str) -> bool:
    """Whether `name` is a temporary name of `atomic_path`. Such files remain only if the process was killed."""
    return _TEMPORARY.match(name) is not None

"""The cache folder of compiled kernels. It is private to its user, because programs load code from it."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from seqkd.errors import InputError

VARIABLE = "SEQKD_CACHE"


def cache_folder(
    environ: Mapping[str, str] = os.environ,
    home: Callable[[], Path] = Path.home,
    user: int | None = None,
    temporary: Callable[[], str] = tempfile.gettempdir,
) -> Path:
    """Return the folder of compiled kernels. It is made if it does not exist.

    The folder is `$SEQKD_CACHE`, `$XDG_CACHE_HOME/seqkd` or `~/.cache/seqkd`. If the user has no home folder or cannot
    write to it, the folder is `seqkd-UID` in the system's folder for temporary files.

    Args:
        environ: The environment variables.
        home: Returns the user's home folder, or raises RuntimeError if there is none.
        user: The user's id; None for the user of this process.
        temporary: Returns the system's folder for temporary files.

    Raises:
        InputError: The folder belongs to another user (other than root), other users can write to it, or it cannot be
            made.
    """
    user = os.geteuid() if user is None else user
    named = environ.get(VARIABLE)
    if named:
        return _private(Path(named), user)
    default = _default(environ, home)
    if default is not None:
        return _private(default, user)
    return _private(Path(temporary()) / f"seqkd-{user}", user)


def _default(environ: Mapping[str, str], home: Callable[[], Path]) -> Path | None:
    """Return the folder in the user's home, or None if there is no home or it is not writable."""
    base = environ.get("XDG_CACHE_HOME", "")
    try:
        folder = (Path(base) if Path(base).is_absolute() else home() / ".cache") / "seqkd"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder if os.access(folder, os.W_OK) else None


def _private(folder: Path, user: int) -> Path:
    """Resolve links and return the folder, after checking that no other user can put a file there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve()
        status = folder.stat()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"the folder of compiled kernels cannot be made: {reason}",
            where=str(folder),
            hint=f"set {VARIABLE} to a folder of your own",
        ) from None
    if status.st_uid not in (user, 0):
        raise InputError(
            f"the folder of compiled kernels belongs to uid {status.st_uid}, who could put other code there",
            where=str(folder),
            expected="a folder of your own",
            hint=f"set {VARIABLE} to a folder of your own",
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InputError(
            "other users can write to the folder of compiled kernels, and could put other code there",
            where=str(folder),
            expected="a folder that only its owner can write to",
            hint=f"run `chmod go-w {folder}`, or set {VARIABLE} to another folder",
        )
    return folder

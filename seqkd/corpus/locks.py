"""Locks on output folders: one process works alone, or several workers process a part of the shards each.

The locks use flock. Their files exist in the folder only while it is being made. On NFS, Linux turns flock into
byte-range locks of the server, so they hold between machines, but not with the mount options `nolock` and `local_lock`.
Lustre needs the mount option `flock`. Even if locks do not reach another machine, nothing is corrupted: complete shards
are renamed into place, and two processes that write the same shard write the same bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from seqkd.errors import ConflictError, InputError, WorkError
from seqkd.progress import say

_LOCK = ".lock"
_DOOR = ".lock-door"
_PATIENCE = 2.0  # seconds of silent waiting at the door; starting a folder takes milliseconds


@dataclass(frozen=True, slots=True)
class Part:
    """Part `index` (from 1) of `count`: every `count`-th shard."""

    index: int
    count: int

    @staticmethod
    def parse(text: str) -> Part:
        """Read a text such as "2/8".

        Raises:
            InputError: The text has another form, or a number is out of range.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        part = Part(int(found[1]), int(found[2])) if found else Part(0, 0)
        if not 1 <= part.index <= part.count:
            raise InputError(
                f"{text!r} is not a part",
                where="--worker",
                expected="i/n with i from 1 to n, such as 2/8 for the second part of 8",
            )
        return part

    def shards(self, total: int) -> list[int]:
        """Return the shards, of `total`, that belong to this part."""
        return list(range(self.index - 1, total, self.count))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def is_lock(name: str) -> bool:
    """Whether `name` is the name of a lock file."""
    return name == _LOCK or name.startswith(f"{_LOCK}-")


class FolderLock:
    """Locks a folder for one process, or for one of several workers.

    A process without a part locks the folder exclusively. Workers share the folder, and each locks its part
    exclusively. They start and finish one at a time ("at the door"), so that one of them knows that it is the last.

    Args:
        folder: The folder, which must exist.
        part: The worker's part, or None to lock the folder exclusively.

    Attributes:
        alone: Whether no other process works in the folder.

    Raises:
        ConflictError: Another process has locked the folder or this part of it.
        WorkError: The folder cannot be locked.
    """

    def __init__(self, folder: Path, part: Part | None) -> None:
        self._folder = folder
        self._part_name = "" if part is None else f"{_LOCK}-{part.index}-of-{part.count}"
        self._held: dict[str, int] = {}
        self.alone = False
        try:
            if part is None:
                self.alone = self._take(_LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                self._join(part)
            if not self._held:
                raise ConflictError(
                    "in use by another process",
                    where=str(folder),
                    hint="wait until that process ends, which frees the folder",
                )
        except BaseException:
            self.release()
            raise

    def _join(self, part: Part) -> None:
        """Enter the folder as a worker. The door stays locked until `share`."""
        if not self._take(self._part_name, fcntl.LOCK_EX | fcntl.LOCK_NB):
            raise ConflictError(
                f"another process is working as worker {part}",
                where=str(self._folder),
                expected="one process for each part",
                hint="give this process another part, or wait until the other process ends",
            )
        self._enter_door()
        self.alone = self._take(_LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not self.alone and not self._take(_LOCK, fcntl.LOCK_SH | fcntl.LOCK_NB):
            self.release()

    def share(self) -> None:
        """Let other workers in once the folder is ready. A process without a part keeps its exclusive lock."""
        if not self._part_name:
            return
        # From exclusive to shared. Other processes wait at the door or fail at once, so none can take the lock between.
        fcntl.flock(self._held[_LOCK], fcntl.LOCK_SH)
        self.alone = False
        self._drop(_DOOR)

    def hold_alone(self) -> bool:
        """Lock the folder exclusively if no other worker is left; otherwise release it, for the others to finish."""
        if self.alone:
            return True
        self._enter_door()
        try:
            fcntl.flock(self._held[_LOCK], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()  # the lock before the door, so that the last worker does not count this one as working
            return False
        self.alone = True
        return True

    def follow(self, folder: Path) -> None:
        """Note that the folder, which this process has locked exclusively, has been renamed to `folder`."""
        self._folder = folder

    def release(self) -> None:
        """Release all locks."""
        for name in (self._part_name, _LOCK, _DOOR):
            if name in self._held:
                self._drop(name)
        self.alone = False

    def _enter_door(self) -> None:
        until = time.monotonic() + _PATIENCE
        while not self._take(_DOOR, fcntl.LOCK_EX | fcntl.LOCK_NB):
            if time.monotonic() > until:
                say(f"{self._folder}: waiting for another worker that is starting or finishing it")
                self._take(_DOOR, fcntl.LOCK_EX)
                return
            time.sleep(0.02)

    def _take(self, name: str, operation: int) -> bool:
        """Lock a file, which is made if needed. Return False if another process has locked it and no wait is wanted."""
        path = self._folder / name
        while True:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(lock, operation)
                # The last holder may have removed the file between the two calls. Then this lock protects nothing.
                if os.fstat(lock).st_ino == path.stat().st_ino:
                    self._held[name] = lock
                    return True
            except BlockingIOError:
                os.close(lock)
                return False
            except FileNotFoundError:
                pass
            except OSError as error:
                os.close(lock)
                raise WorkError(f"cannot be locked: {error.strerror}", where=str(path)) from error
            os.close(lock)

    def _drop(self, name: str) -> None:
        if name != _LOCK or self.alone:  # a file that other processes hold, too, must stay
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()
        os.close(self._held.pop(name))

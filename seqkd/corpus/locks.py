"""Who may work in an output folder: one process alone, or several workers with a part of the shards each.

Locks are flock's. Their files are taken for the folder's own while it is under way and are gone when it is finished. On
NFS, Linux turns flock into the server's byte-range locks, so they hold between machines (not with the mount options
`nolock` and `local_lock`); Lustre needs the mount option `flock`. Where locks do not reach another machine, nothing is
corrupted all the same: shards are renamed into place whole, and two processes that write the same shard write the same
bytes.
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
_PATIENCE = 2.0  # seconds of waiting at the door before a word is said; the folder's start takes milliseconds


@dataclass(frozen=True, slots=True)
class Part:
    """Part `index` (from 1) of `count`: every `count`-th shard."""

    index: int
    count: int

    @staticmethod
    def parse(text: str) -> Part:
        """Read "2/8".

        Raises:
            InputError: Something else, or a number out of range.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        part = Part(int(found[1]), int(found[2])) if found else Part(0, 0)
        if not 1 <= part.index <= part.count:
            raise InputError(
                f"{text!r} is no part",
                where="--worker",
                expected="i/n with i from 1 to n, e.g. 2/8 for the second of 8",
            )
        return part

    def shards(self, total: int) -> list[int]:
        """Those of `total` shards that are this part's."""
        return list(range(self.index - 1, total, self.count))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def is_lock(name: str) -> bool:
    """Whether `name` is that of a lock's file."""
    return name == _LOCK or name.startswith(f"{_LOCK}-")


class FolderLock:
    """Holds a folder, alone or with other workers.

    A process without a part holds it alone. Workers share it, each holding its part alone; they start and finish one at
    a time ("at the door"), so that one of them sees that it is the last.

    Args:
        folder: Must be there.
        part: The worker's part; None to hold the folder alone.

    Attributes:
        alone: Whether nobody else is in the folder.

    Raises:
        ConflictError: Another process holds the folder, or this part of it.
        WorkError: The system refuses.
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
                    hint="wait until it is done; the folder is free as soon as that process ends",
                )
        except BaseException:
            self.release()
            raise

    def _join(self, part: Part) -> None:
        """Come in as a worker; the door is left closed behind us until `share`."""
        if not self._take(self._part_name, fcntl.LOCK_EX | fcntl.LOCK_NB):
            raise ConflictError(
                f"another process is at work as worker {part}",
                where=str(self._folder),
                expected="each part given to one process",
                hint="give this process another part, or wait until the other one ends",
            )
        self._enter_door()
        self.alone = self._take(_LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not self.alone and not self._take(_LOCK, fcntl.LOCK_SH | fcntl.LOCK_NB):
            self.release()

    def share(self) -> None:
        """Let other workers in, once the folder is in order; nothing happens to a process that has no part."""
        if not self._part_name:
            return
        # From exclusive to shared; whoever else could want the lock waits at the door or does not wait at all.
        fcntl.flock(self._held[_LOCK], fcntl.LOCK_SH)
        self.alone = False
        self._drop(_DOOR)

    def hold_alone(self) -> bool:
        """Hold the folder alone if nobody else is at work in it; else let go of it, for those to finish."""
        if self.alone:
            return True
        self._enter_door()
        try:
            fcntl.flock(self._held[_LOCK], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()  # the lock itself goes before the door, so that the last one does not take us for at work
            return False
        self.alone = True
        return True

    def moved(self, folder: Path) -> None:
        """The folder, which this process holds alone, has been renamed to `folder`."""
        self._folder = folder

    def release(self) -> None:
        """Let go of everything."""
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
        """Lock a file, made for it; False where another process holds it and `operation` does not wait."""
        path = self._folder / name
        while True:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(lock, operation)
                # Its last holder may have removed the file between our two calls: then this lock guards nothing.
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
        if name != _LOCK or self.alone:  # a file that others hold too must stay
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()
        os.close(self._held.pop(name))

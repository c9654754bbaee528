"""What a disk would hold if the power went: a model of a file system that loses whatever was not synced.

A file holds what it held when it was last fsynced, and is empty if it never was. A folder has the names it had when it
was last fsynced ("late"), or all names of now ("early"): file systems may write names before they are asked to, which
is why data must be synced before it is renamed into place.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def before_each_event(patch: pytest.MonkeyPatch, call: Callable[[int], None]) -> None:
    """From now on, call back before each fsync and rename of this process, with its number, from 0."""
    numbers = itertools.count()
    fsync, replace = os.fsync, os.replace

    def counted_fsync(descriptor: int) -> None:
        call(next(numbers))
        fsync(descriptor)

    def counted_replace(source: Any, target: Any, **options: Any) -> None:
        call(next(numbers))
        replace(source, target, **options)

    patch.setattr(os, "fsync", counted_fsync)
    patch.setattr(os, "replace", counted_replace)


class Disk:
    """Follows what is synced under a folder, in this process; use `record` for the time of the work.

    Attributes:
        events: Calls of fsync and rename so far.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events = 0
        self._data: dict[int, bytes] = {}  # by inode
        self._names: dict[int, dict[str, tuple[int, bool]]] = {}  # of folders: inode and whether it is a folder
        self._kept: list[int] = []  # open files: an inode that is in use is not given to another file
        self._names[root.stat().st_ino] = self._now(root)

    def record(self, patch: pytest.MonkeyPatch, before_event: Callable[[int], None]) -> None:
        """From now on, note what is synced, and call back before each fsync and rename, with its number."""

        def count(number: int) -> None:
            before_event(number)
            self.events = number + 1

        before_each_event(patch, count)
        counted = os.fsync

        def fsync(descriptor: int) -> None:
            counted(descriptor)
            status = os.fstat(descriptor)
            self._kept.append(os.dup(descriptor))
            path = Path(f"/proc/self/fd/{descriptor}")
            if stat.S_ISDIR(status.st_mode):
                self._names[status.st_ino] = self._now(path)
            else:
                self._data[status.st_ino] = path.read_bytes()

        patch.setattr(os, "fsync", fsync)

    def after_power_loss(self, target: Path, *, early: bool) -> None:
        """Write what would be there into `target`, a new folder."""
        self._restore(self.root, self.root.stat().st_ino, target, early)

    def close(self) -> None:
        """Give the inodes free."""
        for descriptor in self._kept:
            os.close(descriptor)

    def _restore(self, source: Path, inode: int, target: Path, early: bool) -> None:
        target.mkdir(parents=True)
        names = self._now(source) if early else self._names.get(inode, {})
        for name, (child, is_folder) in names.items():
            if is_folder:
                self._restore(source / name, child, target / name, early)
            else:
                (target / name).write_bytes(self._data.get(child, b""))

    @staticmethod
    def _now(folder: Path) -> dict[str, tuple[int, bool]]:
        found = {}
        for entry in os.scandir(folder):
            found[entry.name] = (entry.inode(), entry.is_dir(follow_symlinks=False))
        return found

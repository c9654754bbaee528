"""The answers of a worker on disk.

Each process appends to a file of its own and reads those of all others once, when it starts. Several machines can
therefore share the folder. Each line is JSON: an answer with its key and time, or the requests and characters that were
spent. A line counts as written after fsync.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from seqkd.corpus.files import atomic_write, make_folder, sync, work_error
from seqkd.corpus.locks import Part
from seqkd.interop.asking.answers import Answer
from seqkd.progress import say

_FILE = re.compile(r"(\d+)-of-(\d+)\.[0-9a-f]+\.jsonl")


@dataclass(frozen=True, slots=True)
class Stored:
    """An answer with the time at which it was received, in UTC and ISO 8601."""

    answer: Answer
    time: str


@dataclass(frozen=True, slots=True)
class Spent:
    """Requests that were made, and the characters that they contained."""

    requests: int = 0
    characters: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.requests + other.requests, self.characters + other.characters)


def utc_now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Cache:
    """The answers of one worker.

    Memory holds a number for each answer; the answers themselves stay on the disk.

    Args:
        folder: The folder of this worker's answers.
        identity: The values that answers depend on, which are written into the folder for people who look at it.
        part: The part of the shards that this process makes, or None for all.
        now: Returns the time.

    Attributes:
        own: The spending of earlier processes that made the same part of the same number of parts.
        others: The spending of processes that divided the work into another number of parts.

    Raises:
        WorkError: The folder cannot be read or written.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], part: Part | None, *, now: Callable[[], str] = utc_now
    ) -> None:
        self._folder, self._identity, self._now = folder, identity, now
        self._part = part or Part(1, 1)
        self._lock = threading.Lock()
        self._places: dict[str, tuple[int, int, int]] = {}  # by key: the file, the place in it and the length
        self._files: list[int] = []
        self._own: int | None = None
        self.own, self.others = Spent(), Spent()
        try:
            for path in sorted(folder.glob("*.jsonl")):
                self._read(path)
        except OSError as error:
            raise work_error(error, folder, "answers cannot be read") from error

    def find(self, key: str) -> Stored | None:
        """Return the answer with a key, or None if the question has not been answered."""
        with self._lock:
            place = self._places.get(key)
        if place is None:
            return None
        file, at, length = place
        values = json.loads(os.pread(self._files[file], length, at))
        return Stored(values["answer"], values["time"])

    def add(self, answers: Mapping[str, Answer], spent: Spent) -> dict[str, Stored]:
        """Write the answers of a request, by key, and the cost of the request. Return when both are on the disk.

        Raises:
            WorkError: They cannot be written, for example because the disk is full.
        """
        time = self._now()
        lines = {key: _line({"key": key, "time": time, "answer": answer}) for key, answer in answers.items()}
        try:
            with self._lock:
                file = self._open()
                at = os.lseek(self._files[file], 0, os.SEEK_END)
                spending = [_line({"spent": [spent.requests, spent.characters]})] if spent != Spent() else []
                _write(self._files[file], b"".join([*lines.values(), *spending]))
                os.fsync(self._files[file])
                for key, line in lines.items():
                    self._places[key] = (file, at, len(line))
                    at += len(line)
        except OSError as error:
            raise work_error(error, self._folder, "answers cannot be written") from error
        return {key: Stored(answer, time) for key, answer in answers.items()}

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            for file in self._files:
                os.close(file)
            self._files, self._places, self._own = [], {}, None

    def _open(self) -> int:
        """Return the number of this process's file, which exists once there is something to write."""
        if self._own is None:
            make_folder(self._folder)
            if not (self._folder / "worker.json").exists():
                text = json.dumps(self._identity, indent=2, ensure_ascii=False)
                atomic_write(self._folder / "worker.json", f"{text}\n".encode())
            name = f"{self._part.index}-of-{self._part.count}.{secrets.token_hex(6)}.jsonl"
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            self._own = len(self._files)
            self._files.append(os.open(self._folder / name, flags, 0o666))
            sync(self._folder)
        return self._own

    def _read(self, path: Path) -> None:
        named = _FILE.fullmatch(path.name)
        if named is None:
            return
        number = len(self._files)
        self._files.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        spent, damaged = Spent(), 0
        for at, line in _read_lines(path):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                values = json.loads(line)
                if "spent" in values:
                    spent += Spent(*values["spent"])
                else:
                    _ = values["time"], values["answer"]
                    self._places.setdefault(values["key"], (number, at, len(line)))
                continue
            damaged += 1
        if damaged:
            say(f"{path}: {damaged:,} damaged lines are left out; the rows are asked again")
        if int(named[2]) != self._part.count:
            self.others += spent
        elif int(named[1]) == self._part.index:
            self.own += spent


def _line(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, ensure_ascii=False) + "\n").encode()


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield whole lines and their places. A process that was killed while it wrote leaves a line without an end."""
    at = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield at, line
            at += len(line)

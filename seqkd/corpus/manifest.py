"""A stage's output folder and its manifest, which is written last: a folder that has one is whole.

Manifests hold no date, host or path: the same inputs and settings give the same bytes anywhere. The record of
the folder's cost stands beside the manifest (`seqkd.corpus.cost`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from seqkd import __version__
from seqkd.corpus.cost import Meter, is_note, write_cost
from seqkd.corpus.files import atomic_path, atomic_write, is_temporary, kept_path, make_folder, sync, work_error
from seqkd.corpus.fingerprints import Provenance, build_fingerprint
from seqkd.corpus.locks import FolderLock, Part, is_lock
from seqkd.corpus.records import (
    MANIFEST,
    Manifest,
    ShardInfo,
    damage_error,
    format_of,
    read_manifest,
    read_record,
    shard_index,
    shard_name,
    sort_shards,
    write_manifest,
)
from seqkd.corpus.sensors import Sensors, sensors
from seqkd.errors import ConflictError, CorpusError, SeqkdError, UnfinishedError
from seqkd.progress import say

__all__ = [
    "MANIFEST",
    "Manifest",
    "Provenance",
    "ShardInfo",
    "StageOutput",
    "atomic_path",
    "atomic_write",
    "build_fingerprint",
    "read_manifest",
    "shard_index",
    "shard_name",
    "sort_shards",
    "write_manifest",
]

PARTIAL = "partial.json"  # lies in a folder under way and holds the fingerprint that it is made with
_REASONS = 3  # differences in the line that says why a stage starts anew


class StageOutput:
    """A stage's output folder while the stage works on it; use as a context manager.

    `open` answers what is to be done: nothing (`complete`), go on after what is there, or start. One process holds the
    folder at a time, or several workers with a part each; of these the last one finishes it (`last`). The folder
    becomes whole with `commit`; left without it, it can be gone on with. What the system refuses on the way (OSError)
    leaves the `with` block as a WorkError.

    Attributes:
        path: The folder.
        complete: The stage has nothing to do: the folder has a manifest with the same fingerprint.
        manifest: That manifest, or the committed one.
        fingerprint: What a manifest of this folder must hold.
    """

    def __init__(self, path: Path, kind: str, made_by: Provenance) -> None:
        self.path = path
        self.kind = kind
        self.fingerprint = made_by.fingerprint
        self._made_by = made_by
        self.manifest: Manifest | None = None
        self._lock: FolderLock | None = None
        self._meter: Meter | None = None

    @property
    def complete(self) -> bool:
        """Whether the folder is whole."""
        return self.manifest is not None

    @classmethod
    def up_to_date(cls, out: Path, kind: str, made_by: Provenance, *, overwrite: bool) -> bool:
        """Whether `open` would find it complete; touches nothing.

        For checks of inputs that take long: they are not made if there is nothing to do, but before a folder is begun.

        Raises:
            ConflictError: As `open`.
            WorkError: The system refuses to read.
        """
        output = cls(out, kind, made_by)
        try:
            output._look(overwrite)
        except OSError as error:
            raise work_error(error, out, "cannot be used as output folder") from error
        return output.complete

    @classmethod
    def open(
        cls,
        out: Path,
        kind: str,
        made_by: Provenance,
        *,
        overwrite: bool,
        part: Part | None = None,
        device: str = "cpu",
        measure: Callable[[str], Sensors] = sensors,
    ) -> StageOutput:
        """Look at `out`, make it ours if there is work to do, and hold it until `close`.

        Args:
            out: The folder; made if it is not there.
            kind: The manifest's kind.
            made_by: What the output is made from.
            overwrite: Start anew, whatever seqkd wrote there: a finished folder is moved to NAME.old, or the next such
                name that is free, and an unfinished one is emptied; either is said. Not with a part.
            part: Share the folder with other workers, as the one who does this part.
            device: Where this process works, such as "cuda:1"; its energy is measured.
            measure: Gives the sensors by which the cost is measured, for a device.

        Raises:
            ConflictError: It was made or begun with another fingerprint (each differing key is named), it is not
                seqkd's and not empty, or another process is at work in it, or at this part.
            UnfinishedError: It was begun with the same fingerprint by another machine, precision or revision.
            WorkError: The system refuses: disk full, no permission.
        """
        output = cls(out, kind, made_by)
        try:
            output._look(overwrite)  # before anything is touched: a folder that is refused stays as it was
            if output.complete:
                output._tidy()
            if not output.complete:
                make_folder(out)
                output._lock = FolderLock(out, part)
                start = output._look(overwrite)  # again: it may have changed until the lock was ours
                if not output.complete:
                    if output._lock.alone:  # or another worker did it
                        output._start(start)
                    output._lock.share()
                if not output.complete:
                    name = "" if part is None else f"{part.index}-of-{part.count}"
                    output._meter = Meter(out, measure(device), name=name)
        except OSError as error:
            output.close()
            raise work_error(error, out, "cannot be used as output folder") from error
        except BaseException:
            output.close()
            raise
        if output.complete:
            output.close()
        return output

    def last(self) -> bool:
        """Whether this process is to finish the folder: it alone works there, from now on, if other workers ever did.

        On False the folder is closed: a worker that is still there will be asked the same.
        """
        assert self._lock is not None
        if self._meter is not None:
            self._meter.close()  # before somebody else may finish the folder, who reads the note
        return self._lock.hold_alone()

    def leave_out_cost(self, workers: str) -> None:
        """Say that other processes work for this one and that their cost is not measured."""
        if self._meter is not None:
            self._meter.leave_out(workers)

    def commit(self, manifest: Manifest) -> None:
        """Make the folder whole: fsync all that is in it, then write the manifest.

        Raises:
            WorkError: The system refuses: disk full, no permission.
            ValueError: The manifest is of another kind or fingerprint than the folder was opened with.
        """
        if manifest.kind != self.kind or manifest.fingerprint != self.fingerprint:
            raise ValueError("the manifest's kind and fingerprint must be those that the folder was opened with")
        if self._lock is None or not self._lock.alone:
            raise ValueError("the folder is closed, shared, or was complete from the start")
        assert self._meter is not None
        self._meter.close()
        try:
            write_cost(self.path, self._meter.all_spent())
            for folder, _, files in os.walk(self.path):
                for name in files:
                    if not Path(folder, name).is_symlink():
                        sync(Path(folder, name))
                sync(Path(folder))
            write_manifest(self.path, manifest)
            (self.path / PARTIAL).unlink(missing_ok=True)
            for entry in self.path.iterdir():
                if _is_aside(entry.name):  # those of workers that were killed, too
                    entry.unlink()
        except OSError as error:
            raise work_error(error, self.path, "cannot be finished") from error
        self.manifest = manifest

    def close(self) -> None:
        """Let go of the folder; other processes may take it."""
        if self._meter is not None:
            self._meter.close(keep=(self.path / PARTIAL).exists())  # a stage may have emptied the folder
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> StageOutput:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if isinstance(error, OSError):
            raise work_error(error, Path(error.filename or self.path), "cannot be used") from error

    def _look(self, overwrite: bool) -> _Start:
        """Refuse the folder, or find it complete, or tell what must happen to what is in it before work starts."""
        if self.path.exists() and not self.path.is_dir():
            raise ConflictError("is a file", where=str(self.path), expected="a folder, or nothing yet")
        names = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()
        if all(_is_aside(name) or is_temporary(name) for name in names):
            return _Start()
        try:
            begun = self._begun() if PARTIAL in names else None
            finished = read_manifest(self.path) if MANIFEST in names else None
        except CorpusError as error:
            raise self._foreign(f"holds a file that seqkd cannot read: {error.what}") from error
        if begun is None and finished is None:
            raise self._foreign("is not empty and was not made by seqkd")
        if begun is not None and begun["fingerprint"] is None:
            return _Start("empty", "an earlier start was interrupted")  # killed while it was being emptied
        if finished is not None:
            return self._look_at_finished(finished, overwrite)
        assert begun is not None
        self._look_at_begun(begun, overwrite)
        return _Start("empty", self._reason(begun["kind"], begun["fingerprint"])) if overwrite else _Start()

    def _look_at_finished(self, finished: Manifest, overwrite: bool) -> _Start:
        if overwrite:
            return _Start("move", self._reason(finished.kind, finished.fingerprint))
        lines = self._made_by.differences(self.kind, finished.kind, finished.fingerprint)
        if lines:
            raise ConflictError(
                "was made with other settings or inputs:\n    " + "\n    ".join(lines),
                where=str(self.path),
                hint=f"--overwrite starts anew and moves it to {kept_path(self._real())}; another --out leaves it",
            )
        if old := self._made_by.describe_outdated(finished.extra):
            _say_once(f"{self.path}: is used although an earlier revision made it ({old}); --overwrite makes it anew")
        self.manifest = finished
        return _Start()

    def _look_at_begun(self, begun: dict[str, Any], overwrite: bool) -> None:
        if overwrite:
            return
        lines = self._made_by.differences(self.kind, begun["kind"], begun["fingerprint"])
        if lines:
            raise ConflictError(
                "was begun with other settings or inputs:\n    " + "\n    ".join(lines),
                where=str(self.path),
                hint="--overwrite starts anew and deletes the unfinished folder; another --out keeps it",
            )
        if lines := self._made_by.machine_differences(begun["fingerprint"], begun["extra"]):
            raise UnfinishedError(
                "is unfinished and cannot be continued here, because the results would be mixed:\n    "
                + "\n    ".join(lines),
                where=str(self.path),
                expected="the kind of machine, the precision and the version of seqkd that it was begun with",
                hint="continue it there; or --overwrite starts anew and deletes the unfinished folder",
            )

    def _reason(self, kind: str, found: dict[str, Any]) -> str:
        """Why a folder is started anew, in a line."""
        lines = self._made_by.differences(self.kind, kind, found)
        if not lines:
            return "as --overwrite asks"
        more = f" and {len(lines) - _REASONS} more" if len(lines) > _REASONS else ""
        return f"because settings or inputs changed ({'; '.join(lines[:_REASONS])}{more})"

    def _tidy(self) -> None:
        """Delete what a process left that was killed right after the manifest, if nobody holds the folder."""
        left = [entry for entry in self.path.iterdir() if entry.name == PARTIAL or _is_aside(entry.name)]
        with contextlib.suppress(OSError, SeqkdError):
            if left:
                lock = FolderLock(self.path, None)
                for entry in left:
                    entry.unlink(missing_ok=True)
                lock.release()

    def _begun(self) -> dict[str, Any]:
        path = self.path / PARTIAL
        values = read_record(path.read_bytes(), path)
        values.setdefault("extra", {})  # format 1 had none
        kinds: dict[str, Any] = {"kind": str, "fingerprint": (dict, type(None)), "extra": dict}
        for name, kind in kinds.items():
            if not isinstance(values.get(name, ...), kind):
                raise damage_error(f"`{name}` is missing or of another type", path)
        return values

    def _foreign(self, what: str) -> ConflictError:
        return ConflictError(
            what,
            where=str(self.path),
            expected="an empty folder, none yet, or one that this stage wrote",
            hint="choose another --out, or empty the folder yourself: seqkd deletes only what it made",
        )

    def _start(self, start: _Start) -> None:
        if start.do == "move":
            self._move(start.why)
        elif start.do == "empty":
            say(f"{self.path}: starting anew {start.why}; the unfinished files in it are deleted")
            # Ours, but to be emptied: a crash from here on leaves a folder that the next run empties, not a mixture.
            self._note(None)
            (self.path / MANIFEST).unlink(missing_ok=True)
        for entry in self.path.iterdir():
            emptied = start.do == "empty" and entry.name != PARTIAL and not is_lock(entry.name)
            if emptied or is_temporary(entry.name):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        self._note(self.fingerprint)

    def _move(self, why: str) -> None:
        """Give a finished folder another name, and take an empty one in its place."""
        assert self._lock is not None
        real, kept = self._real(), kept_path(self._real())
        real.rename(kept)
        old = self._lock
        old.follow(kept)
        try:
            real.mkdir()
            self._lock = FolderLock(self.path, None)
        finally:
            old.release()
        sync(real.parent)
        say(f"{self.path}: starting anew {why}; the finished folder is now {kept}")

    def _real(self) -> Path:
        """The folder by a name that can be changed; of a link, what it points to, so that it stays on its disk."""
        return self.path.resolve() if self.path.is_symlink() or self.path.name in ("", "..") else self.path

    def _note(self, made_by: dict[str, Any] | None) -> None:
        values = {
            "format": format_of(self.kind),
            "seqkd": __version__,
            "kind": self.kind,
            "fingerprint": made_by,
            "extra": self._made_by.extra,
        }
        atomic_write(self.path / PARTIAL, (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())


@dataclass(frozen=True, slots=True)
class _Start:
    """What happens to what is in a folder before work starts, and why.

    Attributes:
        do: keep: nothing, work continues after it; empty: it is deleted; move: the folder gets another name.
        why: As a part of the line that says so.
    """

    do: Literal["keep", "empty", "move"] = "keep"
    why: str = ""


def _is_aside(name: str) -> bool:
    """Whether a file of this name lies in a folder only while processes work there."""
    return is_lock(name) or is_note(name)


@cache
def _say_once(text: str) -> None:
    """Say a line once in this process: stages look at a folder before their checks, and again when they open it."""
    say(text)

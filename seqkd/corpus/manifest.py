"""A stage's output folder and its manifest, which is written last: a folder that has one is whole.

Manifests hold no time, host or path: the same inputs and settings give the same bytes anywhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from seqkd import __version__
from seqkd.corpus.files import atomic_path, atomic_write, is_temporary, make_folder, sync, work_error
from seqkd.corpus.fingerprints import canonical, differences, fingerprint
from seqkd.corpus.locks import FolderLock, Part, is_lock
from seqkd.corpus.records import (
    FORMAT,
    Manifest,
    ShardInfo,
    damaged,
    in_order,
    parse,
    read_record,
    shard_index,
    shard_name,
)
from seqkd.errors import ConflictError, CorpusError, SeqkdError

__all__ = [
    "MANIFEST",
    "Manifest",
    "ShardInfo",
    "StageOutput",
    "atomic_path",
    "atomic_write",
    "fingerprint",
    "in_order",
    "read_manifest",
    "shard_index",
    "shard_name",
    "write_manifest",
]

MANIFEST = "manifest.json"
PARTIAL = "partial.json"  # lies in a folder under way and holds the fingerprint it is made with


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into `folder`, whole or not at all; everything else there must be written by now.

    Raises:
        WorkError: The system refuses: disk full, no permission.
        ValueError: A shard's name is none, or the shards' rows do not add up to the manifest's.
    """
    names = [shard.name for shard in manifest.shards]
    if any(shard_index(name) is None for name in names) or len(set(names)) < len(names):
        raise ValueError(f"shard names must be unique and like {shard_name(0)}: {names}")
    if manifest.shards and sum(shard.rows for shard in manifest.shards) != manifest.rows:
        raise ValueError(f"the shards' rows do not add up to {manifest.rows}")
    atomic_write(folder / MANIFEST, manifest.to_json().encode())


def read_manifest(folder: str | Path) -> Manifest:
    """Read `folder`'s manifest.

    Raises:
        CorpusError: There is no folder or no manifest, or it is damaged, not seqkd's or of a newer format.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not folder.is_dir():
        raise CorpusError(
            "not a folder" if folder.exists() else "no such folder",
            where=str(folder),
            expected=f"a folder that a seqkd stage wrote, with a {MANIFEST}",
        )
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise CorpusError(
            f"not a finished seqkd output: no {MANIFEST}",
            where=str(folder),
            expected=f"a folder that a seqkd stage wrote; its {MANIFEST} comes last",
            hint="run the stage that makes it again (it goes on where it stopped), or check the path",
        ) from None
    except OSError as error:
        raise CorpusError(
            f"cannot be read: {error.strerror}", where=str(path), hint="check its owner and permissions"
        ) from None
    return parse(read_record(text, path), path)


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
    """

    def __init__(self, path: Path, kind: str, made_by: dict[str, Any]) -> None:
        self.path = path
        self.kind = kind
        self.fingerprint = made_by
        self.manifest: Manifest | None = None
        self._lock: FolderLock | None = None

    @property
    def complete(self) -> bool:
        """Whether the folder is whole."""
        return self.manifest is not None

    @classmethod
    def up_to_date(cls, out: Path, kind: str, fingerprint: Mapping[str, Any], *, overwrite: bool) -> bool:
        """Whether `open` would find it complete; touches nothing.

        For checks of inputs that take long: not made where there is nothing to do, but before a folder is begun.

        Raises:
            ConflictError: As `open`.
            WorkError: The system refuses to read.
        """
        output = cls(out, kind, json.loads(canonical(dict(fingerprint))))
        try:
            output._look(overwrite)
        except OSError as error:
            raise work_error(error, out, "cannot be used as output folder") from error
        return output.complete

    @classmethod
    def open(
        cls, out: Path, kind: str, fingerprint: Mapping[str, Any], *, overwrite: bool, part: Part | None = None
    ) -> StageOutput:
        """Look at `out`, make it ours if there is work to do, and hold it until `close`.

        Args:
            out: The folder; made if it is not there.
            kind: The manifest's kind.
            fingerprint: What the output is made from; see `fingerprint()`.
            overwrite: Empty the folder and start anew, whatever seqkd wrote there; not with a part.
            part: Share the folder with other workers, as the one who does this part.

        Raises:
            ConflictError: It was made or begun with another fingerprint (each differing key is named), it is not
                seqkd's and not empty, or another process is at work in it, or at this part.
            WorkError: The system refuses: disk full, no permission.
        """
        output = cls(out, kind, json.loads(canonical(dict(fingerprint))))
        try:
            output._look(overwrite)  # before anything is touched: a folder that is refused stays as it was
            if output.complete:
                output._tidy()
            if not output.complete:
                make_folder(out)
                output._lock = FolderLock(out, part)
                empty = output._look(overwrite)  # again: it may have changed until the lock was ours
                if not output.complete:
                    if output._lock.alone:  # or another worker did it
                        output._start(empty)
                    output._lock.share()
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
        return self._lock.hold_alone()

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
        try:
            for folder, _, files in os.walk(self.path):
                for name in files:
                    if not Path(folder, name).is_symlink():
                        sync(Path(folder, name))
                sync(Path(folder))
            write_manifest(self.path, manifest)
            (self.path / PARTIAL).unlink(missing_ok=True)
            for entry in self.path.iterdir():
                if is_lock(entry.name):  # those of workers that were killed, too
                    entry.unlink()
        except OSError as error:
            raise work_error(error, self.path, "cannot be finished") from error
        self.manifest = manifest

    def close(self) -> None:
        """Let go of the folder; other processes may take it."""
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

    def _look(self, overwrite: bool) -> bool:
        """Refuse the folder, or find it complete, or tell whether what is in it must go before work starts."""
        if self.path.exists() and not self.path.is_dir():
            raise ConflictError("is a file", where=str(self.path), expected="a folder, or nothing yet")
        names = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()
        if all(is_lock(name) or is_temporary(name) for name in names):
            return False
        try:
            begun = self._begun() if PARTIAL in names else None
            finished = read_manifest(self.path) if MANIFEST in names else None
        except CorpusError as error:
            raise self._foreign(f"holds a file that seqkd cannot read: {error.what}") from error
        if begun is None and finished is None:
            raise self._foreign("is not empty and was not made by seqkd")
        if begun is not None and begun["fingerprint"] is None:
            return True  # killed while it was being emptied, which had been asked for
        if overwrite:
            return True
        if finished is not None:
            found = {"kind": finished.kind, **finished.fingerprint}
        else:
            assert begun is not None
            found = {"kind": begun["kind"], **begun["fingerprint"]}
        lines = differences(found, {"kind": self.kind, **self.fingerprint})
        if lines:
            raise ConflictError(
                f"was {'made' if finished else 'begun'} with other settings or inputs:\n    " + "\n    ".join(lines),
                where=str(self.path),
                hint="--overwrite starts anew and deletes what is there; another --out keeps both",
            )
        self.manifest = finished
        return False

    def _tidy(self) -> None:
        """Delete what a process left that was killed right after the manifest, if nobody holds the folder."""
        left = [entry for entry in self.path.iterdir() if entry.name == PARTIAL or is_lock(entry.name)]
        with contextlib.suppress(OSError, SeqkdError):
            if left:
                lock = FolderLock(self.path, None)
                for entry in left:
                    entry.unlink(missing_ok=True)
                lock.release()

    def _begun(self) -> dict[str, Any]:
        path = self.path / PARTIAL
        values = read_record(path.read_bytes(), path)
        if not isinstance(values.get("kind"), str) or not isinstance(values.get("fingerprint"), (dict, type(None))):
            raise damaged("`kind` or `fingerprint` is missing", path)
        return values

    def _foreign(self, what: str) -> ConflictError:
        return ConflictError(
            what,
            where=str(self.path),
            expected="an empty folder, none yet, or one that this stage wrote",
            hint="choose another --out, or empty the folder yourself: seqkd deletes only what it made",
        )

    def _start(self, empty: bool) -> None:
        if empty:
            # Ours, but to be emptied: a crash from here on leaves a folder that the next run empties, not a mixture.
            self._note(None)
            (self.path / MANIFEST).unlink(missing_ok=True)
        for entry in self.path.iterdir():
            if (empty and entry.name != PARTIAL and not is_lock(entry.name)) or is_temporary(entry.name):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        self._note(self.fingerprint)

    def _note(self, made_by: dict[str, Any] | None) -> None:
        values = {"format": FORMAT, "seqkd": __version__, "kind": self.kind, "fingerprint": made_by}
        atomic_write(self.path / PARTIAL, (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())

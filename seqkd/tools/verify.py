"""`seqkd verify`: whether a folder, and all that it was made from, is as it was written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqkd.corpus.manifest import Manifest, ShardInfo
from seqkd.corpus.reader import read_table
from seqkd.corpus.records import shard_index
from seqkd.corpus.row_ids import row_ids
from seqkd.corpus.schema import KINDS
from seqkd.errors import CorpusError, SeqkdError
from seqkd.progress import Progress
from seqkd.selection.lists import one_array
from seqkd.text.vocabularies import SOURCE_VOCABULARY, VOCABULARY
from seqkd.tools.verify_chain import Link, Shelf, chain

NAMED = 5  # ids in a message
BUCKET_IDS = 4_000_000  # ids looked at together: 32 MB, and as much again to sort them

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Verified:
    """What was looked at, and what is wrong.

    Attributes:
        folders: Each with what it holds, inputs after what was made from them.
        problems: One line each; none: everything is as it was written.
        notes: What could not be looked at.
    """

    folders: list[tuple[Path, str]]
    problems: list[str]
    notes: list[str]


def verify(path: str | Path, inputs: Sequence[str | Path] = (), *, bucket_ids: int = BUCKET_IDS) -> Verified:
    """Check a folder and the folders that it was made from, back to the gold corpus and the checkpoints.

    Of shards: that they are there, of their size, rows and SHA-256, readable, and each id comes once. Of models: the
    files' SHA-256. Of inputs: that a folder with the digest that the fingerprint names is there, and that rows and
    sources are the same in both. What is held does not grow with the corpus: two shards and some 64 MB of ids.

    Args:
        path: Output folder of a stage, a model folder, or a folder with such folders in it.
        inputs: Where the folders are that it was made from, beside the run that it lies in.
        bucket_ids: Ids that are compared with each other at a time, if they are not in rising order.

    Raises:
        CorpusError: There is nothing that seqkd made.
    """
    path = Path(path)
    shelf = Shelf(path, [Path(folder) for folder in inputs])
    links, problems, notes = chain(path, shelf)
    size = sum(link.bytes for link in links)
    folders = []
    with Progress("verify", size, "bytes") as progress:
        for link in links:
            progress.note(str(link.path))
            if link.forgotten:
                notes.append(f"{link.path}: its rows were deleted on purpose, by `seqkd forget`")
                folders.append((link.path, f"{_holds(link)}, forgotten"))
                continue
            found = _shards(link, shelf, progress, bucket_ids) if link.kind in KINDS else list(_files(link, progress))
            problems += found
            folders.append((link.path, f"{_holds(link)}{', damaged' if found else ''}"))
    return Verified(folders, problems, notes)


def show(found: Verified) -> str:
    """What was verified, for a person.

    Raises:
        CorpusError: Something is wrong; all of it in one message.
    """
    width = max(len(str(path)) for path, _ in found.folders)
    lines = [f"{path!s:<{width}}  {what}" for path, what in found.folders]
    lines += [f"not looked at: {note}" for note in found.notes]
    if found.problems:
        what = f"{len(found.problems)} problem{'s' * (len(found.problems) > 1)}:\n    " + "\n    ".join(found.problems)
        raise CorpusError(
            what,
            where=str(found.folders[0][0]),
            hint="copy the damaged folder again, or make it again: the stage's command with --overwrite",
        )
    return "\n".join([*lines, "everything is as it was written"])


def _holds(link: Link) -> str:
    manifest = link.manifest
    if manifest is None:
        return f"model, {link.bytes / 1e6:,.1f} MB, no manifest"
    shards = f", {len(manifest.shards):,} shards" if manifest.kind in KINDS else ""
    rows = f", {manifest.rows:,} rows" if manifest.rows else ""
    return f"{manifest.kind}{rows}{shards}, {link.bytes / 1e6:,.1f} MB"


# --- shards -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Ids:
    """Whether ids come once in all shards; in the usual case, ascending ids, told without a second look."""

    last: int | None = None
    ascending: bool = True

    def add(self, ids: Ids) -> None:
        if len(ids):
            after = self.last is None or int(ids[0]) > self.last
            self.ascending &= after and bool((ids[1:] > ids[:-1]).all())
            self.last = int(ids[-1])


def _shards(link: Link, shelf: Shelf, progress: Progress, bucket_ids: int) -> list[str]:
    manifest = link.manifest
    assert manifest is not None
    listed = {shard.name for shard in manifest.shards}
    problems = [
        f"{entry}: not in the manifest"
        for entry in sorted(link.path.iterdir())
        if shard_index(entry.name) is not None and entry.name not in listed
    ]
    ids, sound = _Ids(), []
    for shard in manifest.shards:
        try:
            table = read_table(link.path / shard.name, shard, manifest.kind)
        except CorpusError as error:
            problems.append(_why(error, link, shard, shelf))
        else:
            ids.add(_id_column(table))
            sound.append(shard)
            problems += _joined(link, shard, table)
        progress.advance(shard.bytes)
    if not ids.ascending:
        problems += _repeated(link, sound, bucket_ids)
    return problems


def _why(error: CorpusError, link: Link, shard: ShardInfo, shelf: Shelf) -> str:
    """The error in one line, with what lies in the shard's place where that is known."""
    path = link.path / shard.name
    text = f"{path}: {error.what}"
    if not path.is_file():
        return text
    digest = _digest(path)
    if digest == shard.sha256:  # its bytes are what was written; what was written is wrong
        return text
    assert link.manifest is not None
    for other in link.manifest.shards:
        if other.sha256 == digest:
            return f"{text}; in its place lies this folder's {other.name}"
    if found := shelf.shard(digest):
        return f"{text}; in its place lies {found}, a shard of another run"
    return text


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _id_column(table: pa.Table) -> Ids:
    ids: Ids = table.column("id").to_numpy()
    return ids


def _repeated(link: Link, shards: Sequence[ShardInfo], bucket_ids: int) -> list[str]:
    """Name the ids that come more than once.

    Ids are looked at by their hash, a part of them at a time, so that memory does not grow with the corpus.
    """
    assert link.manifest is not None
    parts = -(-sum(shard.rows for shard in shards) // bucket_ids)
    problems: list[str] = []
    for part in range(parts):
        found: list[Ids] = []
        for shard in shards:
            ids = _id_column(read_table(link.path / shard.name, shard, link.manifest.kind, checked=True))
            found.append(ids[_bucket(ids, parts) == part])
        values, times = np.unique(np.concatenate(found), return_counts=True)
        problems += [f"{value} ({count} times)" for value, count in zip(values, times, strict=True) if count > 1]
        if len(problems) > NAMED:
            break
    if not problems:
        return []
    more = " and more" if len(problems) > NAMED else ""
    return [f"{link.path}: ids that come more than once: {', '.join(problems[:NAMED])}{more}"]


def _bucket(ids: Ids, parts: int) -> npt.NDArray[np.uint64]:
    """A part number for each id, spread evenly whatever the ids are."""
    mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing; wraps around
    return (mixed >> np.uint64(32)) % np.uint64(parts)


def _joined(link: Link, shard: ShardInfo, table: pa.Table) -> Iterator[str]:
    """Compare a shard with those that it was made from: shards line up, by number, and rows by id."""
    here = f"{link.path / shard.name}"
    ids = _id_column(table)
    for role, origin in link.rows_from.items():
        assert origin.manifest is not None
        if origin.forgotten:
            continue
        theirs = {other.name: other for other in origin.manifest.shards}.get(shard.name)
        there = origin.path / shard.name
        if theirs is None:
            yield f"{here}: {origin.path}, the {role} that it was made from, has no such shard"
            continue
        try:
            other = read_table(there, theirs, origin.manifest.kind)
        except CorpusError:
            continue  # told where that folder is looked at
        found = _id_column(other)
        # Rows with weights may be further hypotheses of a row; their ids say of which one.
        owners = row_ids(ids) if link.kind == "corpus" and "weight" in table.column_names else ids
        strangers = ids[~np.isin(owners, found)]
        if len(strangers):
            yield f"{here}: ids that {there} does not have: {_named(strangers)}; swapped, or of another run"
            continue
        # Every row of the gold corpus has its k-best list; later stages leave rows out.
        if link.kind == "kbest" and len(missing := np.setdiff1d(found, ids)):
            yield f"{here}: no rows for ids of {there}: {_named(missing)}"
        column, theirs_column = _same_text(link)
        if theirs_column not in other.column_names:
            continue
        order = np.argsort(found, kind="stable")
        rows = order[np.searchsorted(found, owners, sorter=order)]
        mine, ours = one_array(table.column(column)), one_array(other.column(theirs_column).take(pa.array(rows)))
        if not mine.equals(ours):
            pairs = zip(ids.tolist(), mine, ours, strict=True)
            changed = [row for row, one, two in pairs if not one.equals(two)]
            yield f"{here}: rows with another {column} than in {there}: {_named(changed)}; of another run"


def _same_text(link: Link) -> tuple[str, str]:
    """The column of a folder that it has from the folder that its rows are from, and that column's name there."""
    if link.kind == "soft":
        return "target_ids", "target_ids"  # soft targets hold no source; their targets are the corpus' own
    assert link.manifest is not None
    config = link.manifest.fingerprint.get("config")
    turned = isinstance(config, dict) and config.get("reverse") is True
    return ("target_ids" if turned else "source_ids"), "source_ids"  # back-translations: the text became the targets


def _named(ids: Sequence[int] | Ids) -> str:
    return ", ".join(str(row) for row in ids[:NAMED]) + (f" and {len(ids) - NAMED:,} more" if len(ids) > NAMED else "")


# --- folders without shards ---------------------------------------------------------------------------------------


def _files(link: Link, progress: Progress) -> Iterator[str]:
    if link.kind == "model":
        yield from _model(link)
    elif link.kind == "prepared" and link.manifest is not None:
        yield from _vocabularies(link.path, link.manifest)
    progress.advance(link.bytes)


def _model(link: Link) -> Iterator[str]:
    # torch is not loaded for folders that hold no model
    from seqkd.models.checkpoint import changed_files, check_model, model_files

    try:
        changed = changed_files(link.path, model_files(link.path))
        yield from (f"{link.path}: {line}" for line in changed)
        if not changed:
            check_model(link.path)
    except SeqkdError as error:
        yield f"{error.where or link.path}: {error.what}"


def _vocabularies(folder: Path, manifest: Manifest) -> Iterator[str]:
    source = manifest.extra.get("source_vocabulary", manifest.vocabulary)
    files = {VOCABULARY: manifest.vocabulary}
    if source != manifest.vocabulary:
        files[SOURCE_VOCABULARY] = source
    for name, expected in files.items():
        try:
            digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            yield f"{folder / name}: cannot be read: {error.strerror}"
            continue
        if digest != expected:
            yield f"{folder / name}: SHA-256 {digest[:12]}... is not the manifest's {str(expected)[:12]}..."

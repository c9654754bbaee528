"""`seqkd verify`: a check that a folder, and the folders it was made from, are as they were written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqkd.corpus.manifest import Manifest, ShardInfo
from seqkd.corpus.records import shard_index
from seqkd.corpus.row_ids import row_ids
from seqkd.corpus.schema import KINDS
from seqkd.corpus.tables import read_table
from seqkd.errors import CorpusError, SeqkdError
from seqkd.progress import Progress
from seqkd.selection.lists import one_array
from seqkd.text.vocabularies import Vocabularies
from seqkd.tools.verify_chain import Link, Shelf, find_chain

NAMED = 5  # the most ids in a message
BUCKET_IDS = 4_000_000  # ids compared together: 32 MB, and as much again to sort them

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of a verification.

    Attributes:
        folders: The folders that were checked, with a description of each; inputs follow the folders made from them.
        problems: One line for each problem; empty if everything is as it was written.
        notes: One line for each thing that could not be checked.
    """

    folders: list[tuple[Path, str]]
    problems: list[str]
    notes: list[str]


def verify(path: str | Path, inputs: Sequence[str | Path] = (), *, bucket_ids: int = BUCKET_IDS) -> Verification:
    """Check a folder and the folders that it was made from, back to the gold corpus and the checkpoints.

    The checks cover the size, rows and SHA-256 of shards, and that each id occurs once; the SHA-256 of the files of
    models; and for inputs that a folder with the digest in the fingerprint exists, with the same rows and sources.
    Memory does not grow with the corpus: two shards and some 64 MB of ids.

    Args:
        path: Output folder of a stage, a model folder, or a folder with such folders in it.
        inputs: Folders in which to look for inputs, besides the run folder.
        bucket_ids: Ids that are compared with each other at a time, if they are not in ascending order.

    Raises:
        CorpusError: The folder contains nothing that seqkd made.
    """
    path = Path(path)
    shelf = Shelf(path, [Path(folder) for folder in inputs])
    links, problems, notes = find_chain(path, shelf)
    size = sum(link.bytes for link in links)
    folders = []
    with Progress("verify", size, "bytes") as progress:
        for link in links:
            progress.note(str(link.path))
            if link.forgotten:
                notes.append(f"{link.path}: its rows were deleted on purpose, by `seqkd forget`")
                folders.append((link.path, f"{_describe(link)}, forgotten"))
                continue
            found = (
                _check_shards(link, shelf, progress, bucket_ids)
                if link.kind in KINDS
                else list(_check_files(link, progress))
            )
            problems += found
            folders.append((link.path, f"{_describe(link)}{', damaged' if found else ''}"))
    return Verification(folders, problems, notes)


def format_result(found: Verification) -> str:
    """Format the result for people.

    Raises:
        CorpusError: There are problems; one message lists all of them.
    """
    width = max(len(str(path)) for path, _ in found.folders)
    lines = [f"{path!s:<{width}}  {what}" for path, what in found.folders]
    lines += [f"not checked: {note}" for note in found.notes]
    if found.problems:
        what = f"{len(found.problems)} problem{'s' * (len(found.problems) > 1)}:\n    " + "\n    ".join(found.problems)
        raise CorpusError(
            what,
            where=str(found.folders[0][0]),
            hint="copy the damaged folder again, or make it again with the command of the stage and --overwrite",
        )
    return "\n".join([*lines, "everything is as it was written"])


def _describe(link: Link) -> str:
    manifest = link.manifest
    if manifest is None:
        return f"model, {link.bytes / 1e6:,.1f} MB, no manifest"
    shards = f", {len(manifest.shards):,} shards" if manifest.kind in KINDS else ""
    rows = f", {manifest.rows:,} rows" if manifest.rows else ""
    return f"{manifest.kind}{rows}{shards}, {link.bytes / 1e6:,.1f} MB"


# --- shards -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Ids:
    """Whether ids ascend over all shards, so that each occurs once. Otherwise a second pass compares them."""

    last: int | None = None
    ascending: bool = True

    def add(self, ids: Ids) -> None:
        if len(ids):
            after = self.last is None or int(ids[0]) > self.last
            self.ascending &= after and bool((ids[1:] > ids[:-1]).all())
            self.last = int(ids[-1])


def _check_shards(link: Link, shelf: Shelf, progress: Progress, bucket_ids: int) -> list[str]:
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
            problems.append(_explain(error, link, shard, shelf))
        else:
            ids.add(_get_ids(table))
            sound.append(shard)
            problems += _compare_rows(link, shard, table)
        progress.advance(shard.bytes)
    if not ids.ascending:
        problems += _find_repeated(link, sound, bucket_ids)
    return problems


def _explain(error: CorpusError, link: Link, shard: ShardInfo, shelf: Shelf) -> str:
    """Write the error in one line, with the origin of the file in place of the shard if it is known."""
    path = link.path / shard.name
    text = f"{path}: {error.what}"
    if not path.is_file():
        return text
    digest = _hash_file(path)
    if digest == shard.sha256:  # the bytes are those that were written, so they were wrong from the start
        return text
    assert link.manifest is not None
    for other in link.manifest.shards:
        if other.sha256 == digest:
            return f"{text}; the file is {other.name} of this folder"
    if found := shelf.find_shard(digest):
        return f"{text}; the file is {found}, a shard of another run"
    return text


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _get_ids(table: pa.Table) -> Ids:
    ids: Ids = table.column("id").to_numpy()
    return ids


def _find_repeated(link: Link, shards: Sequence[ShardInfo], bucket_ids: int) -> list[str]:
    """Find the ids that occur more than once.

    Ids are compared by parts of their hashes, so that memory does not grow with the corpus.
    """
    assert link.manifest is not None
    parts = -(-sum(shard.rows for shard in shards) // bucket_ids)
    problems: list[str] = []
    for part in range(parts):
        found: list[Ids] = []
        for shard in shards:
            ids = _get_ids(read_table(link.path / shard.name, shard, link.manifest.kind, checked=True))
            found.append(ids[_assign_parts(ids, parts) == part])
        values, times = np.unique(np.concatenate(found), return_counts=True)
        problems += [f"{value} ({count} times)" for value, count in zip(values, times, strict=True) if count > 1]
        if len(problems) > NAMED:
            break
    if not problems:
        return []
    more = " and more" if len(problems) > NAMED else ""
    return [f"{link.path}: ids that occur more than once: {', '.join(problems[:NAMED])}{more}"]


def _assign_parts(ids: Ids, parts: int) -> npt.NDArray[np.uint64]:
    """Assign each id to a part, evenly for any ids."""
    mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing; wraps around
    return (mixed >> np.uint64(32)) % np.uint64(parts)


def _compare_rows(link: Link, shard: ShardInfo, table: pa.Table) -> Iterator[str]:
    """Compare a shard with the shards that it was made from. Shards correspond by number, and rows by id."""
    here = f"{link.path / shard.name}"
    ids = _get_ids(table)
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
            continue  # reported when that folder is checked
        found = _get_ids(other)
        # Rows with weights may be further hypotheses of a row, which their ids name.
        owners = row_ids(ids) if link.kind == "corpus" and "weight" in table.column_names else ids
        strangers = ids[~np.isin(owners, found)]
        if len(strangers):
            yield f"{here}: ids that {there} does not have: {_name_ids(strangers)}; swapped, or of another run"
            continue
        # Every row of the gold corpus has a k-best list; later stages leave rows out.
        if link.kind == "kbest" and len(missing := np.setdiff1d(found, ids)):
            yield f"{here}: no rows for ids of {there}: {_name_ids(missing)}"
        column, theirs_column = _find_shared_columns(link)
        if theirs_column not in other.column_names:
            continue
        order = np.argsort(found, kind="stable")
        rows = order[np.searchsorted(found, owners, sorter=order)]
        mine, ours = one_array(table.column(column)), one_array(other.column(theirs_column).take(pa.array(rows)))
        if not mine.equals(ours):
            pairs = zip(ids.tolist(), mine, ours, strict=True)
            changed = [row for row, one, two in pairs if not one.equals(two)]
            yield f"{here}: rows with another {column} than in {there}: {_name_ids(changed)}; of another run"


def _find_shared_columns(link: Link) -> tuple[str, str]:
    """Find the column that a folder shares with the folder of its inputs, and the name of that column there."""
    if link.kind == "soft":
        return "target_ids", "target_ids"  # soft targets hold no sources; their targets are those of the corpus
    assert link.manifest is not None
    config = link.manifest.fingerprint.get("config")
    turned = isinstance(config, dict) and config.get("reverse") is True
    return ("target_ids" if turned else "source_ids"), "source_ids"  # in back-translations the text became the targets


def _name_ids(ids: Sequence[int] | Ids) -> str:
    return ", ".join(str(row) for row in ids[:NAMED]) + (f" and {len(ids) - NAMED:,} more" if len(ids) > NAMED else "")


# --- folders without shards ---------------------------------------------------------------------------------------


def _check_files(link: Link, progress: Progress) -> Iterator[str]:
    if link.kind == "model":
        yield from _check_model(link)
    elif link.kind == "prepared" and link.manifest is not None:
        yield from _check_vocabularies(link.path, link.manifest)
    progress.advance(link.bytes)


def _check_model(link: Link) -> Iterator[str]:
    # torch is loaded only if a folder holds a model
    from seqkd.models.checkpoint import changed_files, check_model, model_files

    try:
        changed = changed_files(link.path, model_files(link.path))
        yield from (f"{link.path}: {line}" for line in changed)
        if not changed:
            check_model(link.path)
    except SeqkdError as error:
        yield f"{error.where or link.path}: {error.what}"


def _check_vocabularies(folder: Path, manifest: Manifest) -> Iterator[str]:
    expected = {"target": manifest.vocabulary, "source": manifest.extra.get("source_vocabulary", manifest.vocabulary)}
    try:
        found = Vocabularies.load(folder)
    except SeqkdError as error:
        yield f"{error.where or folder}: {error.what}"
        return
    for side, vocabulary in found.sides()[: 1 if found.source is found.target else 2]:
        if vocabulary.digest != expected[side]:
            yield (
                f"{vocabulary.path}: SHA-256 is {vocabulary.digest[:12]}..., but {str(expected[side])[:12]}... in the "
                "manifest"
            )

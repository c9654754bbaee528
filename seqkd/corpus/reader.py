"""Reading of finished folders of shards. The memory in use does not grow with the corpus.

Corpora are memory-mapped: a table that is read is the file itself. K-best lists and soft targets are compressed, so a
table of theirs takes memory of its own.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from seqkd.corpus.manifest import Manifest, ShardInfo, read_manifest
from seqkd.corpus.records import FORGOTTEN, shard_index
from seqkd.corpus.schema import COMPRESSED, KINDS, LOOKED_UP, exchange_sides
from seqkd.corpus.tables import AGAIN, check_size, columns_error, read_table
from seqkd.errors import CorpusError
from seqkd.text.vocabularies import Vocabularies

MAPPED_SHARDS = 128  # shards that stay open for random access, well below the usual limit of 1024 open files
# The largest size on disk up to which all shards of soft targets are decompressed once and held. For larger folders,
# random access decompresses the batches of rows that it needs each time.
HELD_BYTES = 1 << 29


def reverse_manifest(manifest: Manifest, exchanged: bool) -> Manifest:
    """Exchange the sides in a corpus' manifest; `exchanged` says whether the result is the other direction."""
    return dataclasses.replace(
        manifest,
        source_tokens=manifest.target_tokens,
        target_tokens=manifest.source_tokens,
        vocabulary=manifest.extra.get("source_vocabulary", manifest.vocabulary),
        extra=manifest.extra | {"source_vocabulary": manifest.vocabulary, "reversed": exchanged},
    )


class Corpus:
    """A finished folder of shards: a corpus, k-best lists or soft targets. Open it with `Corpus.open`.

    A row has a position, from 0 to rows - 1 in the order of the shards, and an id, which survives every stage.

    Attributes:
        path: The folder.
        manifest: The manifest of the folder.
        schema: The columns of the shards.
    """

    def __init__(
        self, path: Path, manifest: Manifest, schema: pa.Schema, *, mapped_shards: int, held_bytes: int
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.schema = schema
        self._exchanged = False
        self._limits = {"mapped_shards": mapped_shards, "held_bytes": held_bytes}
        self._held = manifest.kind not in LOOKED_UP or sum(shard.bytes for shard in manifest.shards) <= held_bytes
        # K-best lists are read shard by shard, so no more than one is decompressed at a time.
        self._most = 1 if manifest.kind in COMPRESSED - LOOKED_UP else mapped_shards
        self._mapped: OrderedDict[int, pa.Table] = OrderedDict()
        self._checked: set[int] = set()  # shards whose contents were compared with the manifest
        # Shard i has the positions starts[i] to starts[i + 1] - 1.
        self._starts = np.cumsum([0, *(shard.rows for shard in manifest.shards)], dtype=np.int64)

    @classmethod
    def open(
        cls,
        path: str | Path,
        kind: str | None = None,
        *,
        mapped_shards: int = MAPPED_SHARDS,
        held_bytes: int = HELD_BYTES,
    ) -> Corpus:
        """Open a folder after checking its manifest and the existence and size of each shard.

        The contents of a shard are compared with its SHA-256 when it is first read, not here. A folder whose shards
        were deleted by `seqkd forget` can be opened for its manifest only.

        Args:
            path: The folder.
            kind: The kind that the folder must have; None for any kind.
            mapped_shards: The largest number of shards that are open at once; of k-best lists it is one.
            held_bytes: The largest size on disk up to which all shards of soft targets are decompressed and held.

        Raises:
            CorpusError: The folder is not finished or is of another kind, or a shard is missing, truncated, not Arrow
                or not in the manifest.
        """
        path = Path(path)
        manifest = read_manifest(path)
        expected = [kind] if kind is not None else sorted(KINDS)
        if manifest.kind not in expected:
            raise CorpusError(
                f"is of kind {manifest.kind!r}", where=str(path), expected=f"kind {' or '.join(expected)}"
            )
        listed = {shard.name for shard in manifest.shards}
        for entry in sorted(path.iterdir()):
            if shard_index(entry.name) is not None and entry.name not in listed:
                raise CorpusError("not in the manifest", where=str(entry), hint=AGAIN)
        corpus = cls(path, manifest, KINDS[manifest.kind], mapped_shards=mapped_shards, held_bytes=held_bytes)
        if manifest.extra.get(FORGOTTEN):
            return corpus
        for shard in manifest.shards:
            check_size(path / shard.name, shard)
        if manifest.shards:
            corpus.schema = corpus._map(0).schema
        return corpus

    def reversed(self) -> Corpus:
        """Return the same rows with source and target exchanged, for a model of the other direction.

        The manifest is exchanged, too, and records it, so its digest differs.

        Raises:
            ValueError: The folder holds k-best lists or soft targets, which cannot be reversed.
        """
        if self.manifest.kind != "corpus":
            raise ValueError(f"kind {self.manifest.kind!r} cannot be reversed")
        corpus = Corpus(self.path, reverse_manifest(self.manifest, not self._exchanged), self.schema, **self._limits)
        corpus._exchanged = not self._exchanged
        return corpus

    def check_rows(self) -> None:
        """Check that the rows were not deleted by `seqkd forget`.

        Raises:
            CorpusError: The rows were deleted.
        """
        if self.manifest.extra.get(FORGOTTEN):
            raise CorpusError(
                "its rows were deleted by `seqkd forget`",
                where=str(self.path),
                expected="a folder with its shards",
                hint="delete the folder and run its stage, or Make, to make it again; to keep the outputs that were "
                "made from it up to date, leave the folder as it is",
            )

    @property
    def rows(self) -> int:
        """The number of rows in all shards."""
        return self.manifest.rows

    @property
    def shards(self) -> list[ShardInfo]:
        """The shards in order."""
        return self.manifest.shards

    @property
    def paths(self) -> list[str]:
        """The shard files in order, for readers such as `pyarrow.dataset.dataset(corpus.paths, format="ipc")`."""
        return [str(self.path / shard.name) for shard in self.shards]

    def read_shard(self, i: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read shard `i`. The first read compares it with the manifest; see `read_table`.

        Args:
            i: The number of the shard, from 0 to len(shards) - 1.
            columns: The columns to read, in this order; None for all.

        Raises:
            CorpusError: The shard is missing or damaged, or lacks one of the columns.
        """
        self._check_columns(columns)
        table = self._map(i)
        return table if columns is None else table.select(list(columns))

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the tables of all shards in order; see `read_shard`."""
        self._check_columns(columns)
        for i in range(len(self.shards)):
            yield self.read_shard(i, columns)

    def take(self, rows: npt.NDArray[np.integer[Any]], columns: Sequence[str] | None = None) -> pa.Table:
        """Copy the rows at these positions, in this order. A position may occur twice.

        Args:
            rows: Positions `[n]`.
            columns: The columns to read, in this order; None for all.

        Raises:
            CorpusError: A shard is missing or damaged, or lacks one of the columns.
            IndexError: A position is outside 0 to rows - 1.
        """
        self._check_columns(columns)
        positions = np.asarray(rows, dtype=np.int64)
        if positions.size and (positions.min() < 0 or positions.max() >= self.rows):
            raise IndexError(f"positions {positions.min()} to {positions.max()} of {self.rows} rows")
        # Rows are taken shard by shard in file order and then put into the requested order, because Arrow's own `take`
        # over many chunks would first copy all of them into one.
        order = np.argsort(positions, kind="stable")
        ascending = positions[order]
        cuts = np.searchsorted(ascending, self._starts)
        parts = []
        for i, (low, high) in enumerate(itertools.pairwise(cuts)):
            if low < high:
                wanted = ascending[low:high] - self._starts[i]
                parts.append(
                    self.read_shard(i, columns).take(pa.array(wanted)) if self._held else self._some(i, wanted, columns)
                )
        if not parts:
            schema = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
            return schema.empty_table()
        back = np.empty_like(order)
        back[order] = np.arange(order.size)
        return pa.concat_tables(parts).combine_chunks().take(pa.array(back)).combine_chunks()

    def lengths(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return the ids and the subword counts of all rows, by position, without reading any text.

        Returns:
            Ids `[rows]` int64, source lengths `[rows]` int32 and target lengths `[rows]` int32, without special ids.

        Raises:
            CorpusError: The kind lacks one of the sides, or a shard is missing or damaged.
        """
        columns = ["id", "source_ids", "target_ids"]
        self._check_columns(columns)
        ids = np.empty(self.rows, dtype=np.int64)
        sources = np.empty(self.rows, dtype=np.int32)
        targets = np.empty(self.rows, dtype=np.int32)
        for i, table in enumerate(self.tables(columns)):
            rows = slice(int(self._starts[i]), int(self._starts[i + 1]))
            ids[rows] = table.column("id").to_numpy()
            sources[rows] = pc.list_value_length(table.column("source_ids")).to_numpy()
            targets[rows] = pc.list_value_length(table.column("target_ids")).to_numpy()
        return ids, sources, targets

    def check_vocabularies(self, vocabularies: Vocabularies, of: str, *, hint: str) -> None:
        """Check that the corpus was made with these vocabularies. Its ids mean nothing in others.

        Args:
            vocabularies: The vocabularies of source and target.
            of: The owner of the vocabularies, for the message.
            hint: The action for the message if they differ.

        Raises:
            CorpusError: The corpus was made with another vocabulary.
        """
        made_with = {"target": self.manifest.vocabulary, "source": self.manifest.extra.get("source_vocabulary")}
        for side, wanted in vocabularies.sides():
            found = made_with[side]
            if found is not None and found != wanted.digest:
                raise CorpusError(
                    f"was made with a {side} vocabulary other than {of}",
                    where=str(self.path),
                    expected=f"vocabulary {wanted.digest[:12]}..., found {found[:12]}...",
                    hint=hint,
                )

    def check_ids(self, column: str, size: int, shards: Iterable[int] | None = None) -> None:
        """Check that a column of lists contains valid ids only, because kernels look them up without a check.

        Args:
            column: `source_ids` or `target_ids`.
            size: Number of pieces in the vocabulary.
            shards: Numbers of the shards to check; None for all.

        Raises:
            CorpusError: An id is negative, or `size` or larger; or a shard is missing or damaged.
        """
        for i in range(len(self.shards)) if shards is None else shards:
            for lists in self.read_shard(i, [column]).column(column).chunks:
                span = pc.min_max(lists.flatten()).as_py()
                if span["min"] is not None and not 0 <= span["min"] <= span["max"] < size:
                    raise CorpusError(
                        f"{column} contains ids from {span['min']} to {span['max']}",
                        where=str(self.path / self.shards[i].name),
                        expected=f"ids of its vocabulary, 0 to {size - 1}",
                        hint=AGAIN,
                    )

    def repeats(self, column: str) -> npt.NDArray[np.int32]:
        """Count, for each row, the ids in a column that equal the id before them: `[rows]`, by position.

        Raises:
            CorpusError: The kind lacks this column, or a shard is missing or damaged.
        """
        counts = [np.empty(0, dtype=np.int32)]
        for table in self.tables([column]):
            for lists in table.column(column).chunks:
                ids = lists.flatten().to_numpy()
                lengths = pc.list_value_length(lists).to_numpy()
                ends = np.cumsum(lengths, dtype=np.int64)
                # Repeats up to each id, including those across rows. No row counts a repeat at its first id.
                before = np.zeros(len(ids) + 1, dtype=np.int64)
                np.cumsum(ids[1:] == ids[:-1], out=before[2:])
                counts.append((before[ends] - before[np.minimum(ends - lengths + 1, ends)]).astype(np.int32))
        return np.concatenate(counts)

    def __reduce__(self) -> tuple[Callable[..., Corpus], tuple[Path, str, bool]]:
        """Pickle the path, not the contents of the mapped shards."""
        return (_reopen, (self.path, self.manifest.kind, self._exchanged))

    def _check_columns(self, columns: Sequence[str] | None) -> None:
        missing = [name for name in columns or () if name not in self.schema.names]
        if missing:
            raise CorpusError(
                f"has no column {', '.join(missing)}",
                where=str(self.path),
                expected=f"one of the columns of this {self.manifest.kind}: {', '.join(self.schema.names)}",
            )

    def _map(self, i: int) -> pa.Table:
        if i in self._mapped:
            self._mapped.move_to_end(i)
            return self._mapped[i]
        table = self._read(i)
        table = exchange_sides(table) if self._exchanged else table
        if self._held:
            # Combine the batches of a shard into one chunk, in which rows are found faster.
            self._mapped[i] = table = table.combine_chunks() if self.manifest.kind in LOOKED_UP else table
        if len(self._mapped) > self._most:
            self._mapped.popitem(last=False)
        return table

    def _read(self, i: int) -> pa.Table:
        self.check_rows()
        path = self.path / self.shards[i].name
        table = read_table(path, self.shards[i], self.manifest.kind, checked=i in self._checked)
        if i and not table.schema.equals(self.schema):
            raise columns_error(table, path, self.manifest.kind)
        self._checked.add(i)
        return table

    def _some(self, i: int, rows: npt.NDArray[np.int64], columns: Sequence[str] | None) -> pa.Table:
        """Read rows of shard `i`, in ascending order, from the batches that contain them. Nothing is cached."""
        if i not in self._checked:
            self._read(i)
        path = self.path / self.shards[i].name
        check_size(path, self.shards[i])  # it may have changed; reading beyond the end of a mapped file crashes
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        size = file.get_batch(0).num_rows  # all batches but the last have this size
        parts = []
        for batch in np.unique(rows // size):
            table = pa.Table.from_batches([file.get_batch(int(batch))])
            parts.append(table.take(pa.array(rows[rows // size == batch] - batch * size)))
        table = pa.concat_tables(parts)
        return table if columns is None else table.select(list(columns))


def _reopen(path: Path, kind: str, reverse: bool) -> Corpus:
    corpus = Corpus.open(path, kind)
    return corpus.reversed() if reverse else corpus

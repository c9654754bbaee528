"""Stored soft targets for training, looked up by row id."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from seqkd.corpus.reader import Corpus
from seqkd.corpus.soft import read_positions, to_floats
from seqkd.errors import CorpusError
from seqkd.objectives.base import SoftTargets

_NAMED = 10  # rows that an error message names
_AGAIN = "write the soft targets again"
_COLUMNS = ("sizes", "entries", "spans", "tail_logprob")
_COLUMNS_1 = ("topk_ids", "topk_logprobs", "tail_logprob")


class SoftTable:
    """The soft targets of the rows of a corpus.

    Args:
        corpus: A folder of kind "soft".

    Raises:
        CorpusError: A shard is missing or damaged.
    """

    def __init__(self, corpus: Corpus) -> None:
        self.path = corpus.path
        self._corpus = corpus
        samples = corpus.manifest.extra.get("samples")
        self._samples = samples if isinstance(samples, int) else None
        pieces = corpus.manifest.extra.get("pieces")
        self._pieces = pieces if isinstance(pieces, int) else None
        self._packed = "entries" in corpus.schema.names
        if self._packed and self._pieces is None:
            raise CorpusError("`pieces` is missing in its manifest", where=str(corpus.path), hint=_AGAIN)
        by_position = "sizes" if self._packed else "topk_ids"
        ids, positions = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        for table in corpus.tables(["id", by_position]):
            ids.append(table.column("id").to_numpy())
            positions.append(pc.list_value_length(table.column(by_position)).to_numpy().astype(np.int64))
        found = np.concatenate(ids)
        self._order = np.argsort(found, kind="stable")
        self._ids = found[self._order]
        self._positions = np.concatenate(positions)[self._order]

    def check(self, ids: npt.NDArray[np.int64], targets: npt.NDArray[np.integer[Any]]) -> None:
        """Check that every position of these rows exists.

        Args:
            ids: `[rows]` row ids.
            targets: `[rows]` numbers of target tokens, without end of sentence, which has a position, too.

        Raises:
            CorpusError: Rows are missing or have another number of positions. The message names the first of them.
        """
        places = np.searchsorted(self._ids, ids)
        there = places < len(self._ids)
        there[there] = self._ids[places[there]] == ids[there]
        if not there.all():
            raise CorpusError(
                f"{int((~there).sum()):,} training rows have no soft targets: {_name_rows(ids[~there])}",
                where=str(self.path),
                expected="soft targets of every row on which the student can be trained",
                hint="give the student no larger model.max_positions than the teacher's, or write the soft targets "
                "again",
            )
        wrong = self._positions[places] != targets.astype(np.int64) + 1
        if wrong.any():
            raise CorpusError(
                f"{int(wrong.sum()):,} rows differ from their targets in length: {_name_rows(ids[wrong])}",
                where=str(self.path),
                expected="one position for each target token, and one for end of sentence",
                hint=_AGAIN,
            )

    def of(self, ids: npt.NDArray[np.int64]) -> SoftTargets:
        """Return the soft targets of these rows' positions, row after row without padding; `check` has checked them."""
        if not len(ids):
            return SoftTargets(torch.zeros(0, 1, dtype=torch.long), torch.zeros(0, 1), None)
        rows = self._order[np.searchsorted(self._ids, ids)]
        return self._unpack(rows) if self._packed else self._read_first_version(rows)

    def _unpack(self, rows: npt.NDArray[np.int64]) -> SoftTargets:
        """Return the soft targets of the rows at these positions of the folder.

        Raises:
            CorpusError: The entries of a row are damaged.
        """
        assert self._pieces is not None
        table = self._corpus.take(rows, list(_COLUMNS))
        try:
            found = read_positions(table, pieces=self._pieces, samples=self._samples)
        except ValueError as error:
            raise CorpusError(f"damaged entries: {error}", where=str(self.path), hint=_AGAIN) from None
        tail = torch.from_numpy(found.tail) if self._samples is None else None
        return SoftTargets(torch.from_numpy(found.ids), torch.from_numpy(found.logprobs), tail)

    def _read_first_version(self, rows: npt.NDArray[np.int64]) -> SoftTargets:
        """Return the soft targets of the rows at these positions of a folder that an earlier version wrote."""
        table = self._corpus.take(rows, list(_COLUMNS_1))
        lists = [pa.concat_arrays(table.column(name).chunks).flatten() for name in _COLUMNS_1]
        sizes = pc.list_value_length(lists[0]).to_numpy().astype(np.int64)
        flat_ids = lists[0].flatten().to_numpy().astype(np.int64)
        flat_logprobs, tail = to_floats(lists[1].flatten()), to_floats(lists[2])
        inside = np.arange(int(sizes.max())) < sizes[:, None]
        found = np.zeros(inside.shape, dtype=np.int64)
        logprobs = np.full(inside.shape, -np.inf, dtype=np.float32)
        found[inside], logprobs[inside] = flat_ids, flat_logprobs
        if self._samples is None:
            # After rounding they no longer sum to one.
            total = np.logaddexp(np.logaddexp.reduce(logprobs, axis=1), tail)
            return SoftTargets(
                torch.from_numpy(found),
                torch.from_numpy(logprobs - total[:, None]),
                torch.from_numpy(tail - total),
            )
        # Even rounded, they determine how often each id was drawn.
        with np.errstate(divide="ignore"):
            logprobs = np.log(np.rint(np.exp(logprobs) * self._samples) / self._samples).astype(np.float32)
        return SoftTargets(torch.from_numpy(found), torch.from_numpy(logprobs), None)


def _name_rows(ids: npt.NDArray[np.int64]) -> str:
    more = f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else ""
    return "row " + ", ".join(str(row) for row in ids[:_NAMED].tolist()) + more

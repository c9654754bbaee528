"""The rows of several corpora, numbered as those of one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.nn import functional

from seqkd.corpus.batches import Rows
from seqkd.objectives.base import Batch, SoftTargets
from seqkd.text.ranges import list_ranges
from seqkd.training.data import RIVAL_IDS, RIVAL_MARGIN, WEIGHT, CorpusData
from seqkd.training.noise import Noise


class JoinedRows:
    """The rows of several corpora, numbered as those of one, which batches are loaded by.

    The number of a row is its position in the concatenated corpora. Row ids are not used, because distilled corpora
    share the ids of the gold corpus. If the sources of a corpus get noise, the number also holds how often the row was
    drawn before: `draws * rows + position`, where `rows` counts the rows of all corpora. Each draw then has a noise of
    its own.

    Args:
        parts: The corpora, with one collation. Either all have soft targets, with equal numbers of pieces, or none.
        noises: The noise of the sources of each corpus, or None; empty if no corpus has one.
        groups: The data set of each corpus, or None if there is only one.
    """

    def __init__(
        self,
        parts: Sequence[CorpusData],
        *,
        noises: Sequence[Noise | None] = (),
        groups: Sequence[str] | None = None,
    ) -> None:
        self.parts = tuple(parts)
        self.noises = tuple(noises) or (None,) * len(self.parts)
        # Corpus n has the positions starts[n] to starts[n + 1] - 1.
        self._starts = np.cumsum([0, *(part.corpus.rows for part in parts)], dtype=np.int64)
        self._names = np.array([str(part.corpus.path) for part in parts])
        self._groups = None if groups is None else np.array(groups)

    def number(self, part: int, rows: Rows, draws: npt.NDArray[np.int64] | None = None) -> Rows:
        """Number rows of a corpus.

        Args:
            part: The number of the corpus, from 0.
            rows: Positions in the corpus `[rows]`.
            draws: How often each row was drawn before `[rows]`, for a corpus with noise.
        """
        found: Rows = self._starts[part] + rows
        return found if draws is None else found + draws * self._starts[-1]

    def load(self, rows: Rows) -> Batch:
        """Make the batch of the rows with these numbers, each with the folder of its corpus, and its group if any."""
        draws, rows = np.divmod(rows, max(int(self._starts[-1]), 1))
        which = np.searchsorted(self._starts, rows, side="right") - 1
        used = [(n, part) for n, part in enumerate(self.parts) if not len(rows) or (which == n).any()]
        tables = []
        for n, part in used:
            table, noise = part.read(rows[which == n] - self._starts[n]), self.noises[n]
            tables.append(table if noise is None else noise.apply(table, draws[which == n]))
        places = np.argsort(np.argsort(which, kind="stable"))
        batch = self.parts[0].collate(pa.concat_tables(_fill_rivals(_fill_weights(tables))).take(pa.array(places)))
        soft = [part.find_soft(table.column("id").to_numpy()) for (_, part), table in zip(used, tables, strict=True)]
        lengths = np.concatenate([_count_positions(table) for table in tables])
        batch = batch._replace(origins=self._names[which], soft=_join_soft(soft, lengths, places))
        return batch if self._groups is None else batch._replace(groups=self._groups[which])


def _count_positions(table: pa.Table) -> npt.NDArray[np.int64]:
    """Count the target positions of each row, end of sentence included."""
    lengths: npt.NDArray[np.int64] = pc.list_value_length(table.column("target_ids")).to_numpy().astype(np.int64)
    return lengths + 1


def _join_soft(
    parts: Sequence[SoftTargets | None], lengths: npt.NDArray[np.int64], places: npt.NDArray[np.int64]
) -> SoftTargets | None:
    """Join the soft targets of several corpora in the order of a batch.

    Args:
        parts: Those of each corpus; None for a corpus without.
        lengths: `[rows]`, the positions of each row, corpus after corpus.
        places: `[rows]`, the place of each row of the batch in `lengths`.
    """
    found = [part for part in parts if part is not None]
    if not found:
        return None
    width = max(part.ids.size(1) for part in found)

    def widen(values: Tensor, fill: float) -> Tensor:
        return functional.pad(values, (0, width - values.size(1)), value=fill)

    taken = lengths[places]
    firsts = (np.cumsum(lengths) - lengths)[places]
    at = torch.from_numpy(list_ranges(firsts, taken))
    tails = [part.tail for part in found if part.tail is not None]
    return SoftTargets(
        torch.cat([widen(part.ids, 0) for part in found])[at],
        torch.cat([widen(part.logprobs, -math.inf) for part in found])[at],
        torch.cat(tails)[at] if tails else None,
    )


def _fill_weights(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Give weight 1 to all rows without a weight if some rows have one."""
    if not any(WEIGHT in table.column_names for table in tables):
        return list(tables)
    return [
        table
        if WEIGHT in table.column_names
        else table.append_column(WEIGHT, pa.array(np.ones(table.num_rows, dtype=np.float32)))
        for table in tables
    ]


def _fill_rivals(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Make the targets of rows without rivals their own rivals if some rows have rivals."""
    if not any(RIVAL_IDS in table.column_names for table in tables):
        return list(tables)
    found = []
    for table in tables:
        if RIVAL_IDS not in table.column_names:
            margins = pa.array(np.zeros(table.num_rows, dtype=np.float32))
            table = table.append_column(RIVAL_IDS, table.column("target_ids")).append_column(RIVAL_MARGIN, margins)
        found.append(table.select(sorted(table.column_names)))
    return found

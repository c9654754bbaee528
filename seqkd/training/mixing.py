"""Training on several corpora as one, each with a weight."""

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

from seqkd.corpus.batches import Rows, plan_epoch
from seqkd.objectives.base import Batch, SoftTargets
from seqkd.training.data import RIVAL_IDS, RIVAL_MARGIN, WEIGHT, CorpusData


class MixedData:
    """Rows of several corpora in batches. On average, an epoch contains each row of a corpus `weight` times.

    Weights of single rows are different: they define how much a drawn row counts.

    Each epoch contains round(weight * n) of a corpus' n rows, at least one: all rows as often as the integer part of
    the weight, and the rest as a new draw without replacement. The draw depends only on the seed, the epoch and the
    position of the corpus, so a resumed run and all ranks see the same rows. A batch may contain rows of several
    corpora.

    Args:
        parts: The corpora, with one collation. Either all have soft targets, with equal numbers of pieces, or none.
        weights: The weight of each corpus, above 0.
        batch_tokens: Largest product of a batch's rows and its longest sentence.
        window: Rows that are shuffled and sorted together.
        seed: The seed of draws and shuffles.
        groups: The data set of each corpus, or None if there is only one.
        rank: The number of this process among `world` processes.
        world: Number of processes that share the corpora.

    Raises:
        ValueError: The numbers of weights and corpora differ.
    """

    def __init__(
        self,
        parts: Sequence[CorpusData],
        weights: Sequence[float],
        *,
        batch_tokens: int,
        window: int,
        seed: int,
        groups: Sequence[str] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._parts = [(part, weight) for part, weight in zip(parts, weights, strict=True)]
        # Rows are identified by position, because distilled corpora share the ids of the gold corpus. Corpus n has the
        # positions starts[n] to starts[n + 1] - 1.
        self._starts = np.cumsum([0, *(part.corpus.rows for part in parts)], dtype=np.int64)
        self._names = np.array([str(part.corpus.path) for part in parts])
        self._groups = None if groups is None else np.array(groups)
        self._batch_tokens, self._window, self._seed = batch_tokens, window, seed
        self._rank, self._world = rank, world

    def plan(self, epoch: int) -> list[Rows]:
        """Plan this rank's batches of one epoch, as positions in the concatenated corpora."""
        rows, sources, targets = [], [], []
        for n, (part, weight) in enumerate(self._parts):
            drawn = draw(part.rows, weight, np.random.default_rng([self._seed, epoch, n + 1]))
            rows.append(self._starts[n] + part.positions[drawn])
            sources.append(part.source_lengths[drawn])
            targets.append(part.target_lengths[drawn])
        positions = np.concatenate(rows)
        batches = plan_epoch(
            np.concatenate(sources),
            np.concatenate(targets),
            batch_tokens=self._batch_tokens,
            seed=self._seed,
            epoch=epoch,
            window=self._window,
            rank=self._rank,
            world=self._world,
        )
        return [positions[batch] for batch in batches]

    def load(self, rows: Rows) -> Batch:
        """Make the batch of these positions, each row with the folder of its corpus, and its group if there are any."""
        which = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(which, kind="stable")
        used = [(n, part) for n, (part, _) in enumerate(self._parts) if not len(rows) or (which == n).any()]
        tables = [part.read(rows[which == n] - self._starts[n]) for n, part in used]
        places = np.argsort(order)
        batch = self._parts[0][0].collate(pa.concat_tables(_fill_rivals(_fill_weights(tables))).take(pa.array(places)))
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
    order = np.arange(int(taken.sum())) + np.repeat(firsts - (np.cumsum(taken) - taken), taken)
    at = torch.from_numpy(order)
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


def draw(rows: int, weight: float, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw the rows of a corpus for an epoch, `[round(weight * rows)]`, at least one, some possibly repeated."""
    whole, rest = divmod(max(1, round(weight * rows)), rows)
    some = random.permutation(rows)[:rest].astype(np.int64)
    return np.concatenate([np.tile(np.arange(rows, dtype=np.int64), whole), np.sort(some)])

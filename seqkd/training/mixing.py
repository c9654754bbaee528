"""Training on several corpora as one, each with a weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqkd.corpus.batches import Rows, plan_epoch
from seqkd.objectives.base import Batch
from seqkd.training.data import RIVAL_IDS, RIVAL_MARGIN, WEIGHT, CorpusData


class MixedData:
    """Rows of several corpora in batches. On average, an epoch contains each row of a corpus `weight` times.

    Weights of single rows are different: they define how much a drawn row counts.

    Each epoch contains round(weight * n) of a corpus' n rows, at least one: all rows as often as the integer part of
    the weight, and the rest as a new draw without replacement. The draw depends only on the seed, the epoch and the
    position of the corpus, so a resumed run and all ranks see the same rows. A batch may contain rows of several
    corpora.

    Args:
        parts: The corpora, with one collation and without soft targets.
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
        tables = [
            part.read(rows[which == n] - self._starts[n])
            for n, (part, _) in enumerate(self._parts)
            if not len(rows) or (which == n).any()
        ]
        table = pa.concat_tables(_fill_rivals(_fill_weights(tables))).take(pa.array(np.argsort(order)))
        batch = self._parts[0][0].collate(table)._replace(origins=self._names[which])
        return batch if self._groups is None else batch._replace(groups=self._groups[which])


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

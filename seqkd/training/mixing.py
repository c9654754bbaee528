"""Several corpora trained on as one, each with a weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqkd.corpus.batches import Rows, plan_epoch
from seqkd.objectives.base import Batch
from seqkd.training.data import WEIGHT, CorpusData


class MixedData:
    """Rows of several corpora in batches: an epoch has each row of a corpus `weight` times in the mean.

    Weights of single rows are another thing: they say how much a row counts where it is drawn.

    Of a corpus with n rows, round(weight * n) are in each epoch, and at least one: all rows as often as the weight's
    integer part says, and of the rest some without replacement, drawn anew each epoch. The draw depends on seed, epoch
    and the corpus' place alone, so that a resumed run and every rank see the same. A batch holds rows of any corpus.

    Args:
        parts: The corpora, with one collation and without soft targets.
        weights: Of each, above 0.
        batch_tokens: Rows of a batch times its longest sentence, at most.
        window: Rows shuffled and sorted together.
        seed: Of the draws and shuffles.
        rank: Which of `world` processes this is.
        world: Processes that share the corpora.

    Raises:
        ValueError: Not as many weights as corpora.
    """

    def __init__(
        self,
        parts: Sequence[CorpusData],
        weights: Sequence[float],
        *,
        batch_tokens: int,
        window: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._parts = [(part, weight) for part, weight in zip(parts, weights, strict=True)]
        # Rows are told apart by position, never by id: distilled corpora have the ids of the gold one. Positions of
        # corpus n are starts[n] to starts[n + 1] - 1.
        self._starts = np.cumsum([0, *(part.corpus.rows for part in parts)], dtype=np.int64)
        self._names = np.array([str(part.corpus.path) for part in parts])
        self._batch_tokens, self._window, self._seed = batch_tokens, window, seed
        self._rank, self._world = rank, world

    def plan(self, epoch: int) -> list[Rows]:
        """This rank's batches of one epoch, as positions in all corpora one after another."""
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
        """The batch of these positions, each row with its corpus' folder."""
        which = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(which, kind="stable")
        tables = [
            part.read(rows[which == n] - self._starts[n])
            for n, (part, _) in enumerate(self._parts)
            if not len(rows) or (which == n).any()
        ]
        table = pa.concat_tables(_weighted(tables)).take(pa.array(np.argsort(order)))
        return self._parts[0][0].collated(table)._replace(origins=self._names[which])


def _weighted(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Where some rows have a weight, the others have 1."""
    if not any(WEIGHT in table.column_names for table in tables):
        return list(tables)
    return [
        table
        if WEIGHT in table.column_names
        else table.append_column(WEIGHT, pa.array(np.ones(table.num_rows, dtype=np.float32)))
        for table in tables
    ]


def draw(rows: int, weight: float, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Which of a corpus' rows an epoch has, some of them more than once: `[round(weight * rows)]`, at least one."""
    whole, rest = divmod(max(1, round(weight * rows)), rows)
    some = random.permutation(rows)[:rest].astype(np.int64)
    return np.concatenate([np.tile(np.arange(rows, dtype=np.int64), whole), np.sort(some)])

"""Training on several corpora as one, each with a weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from seqkd.corpus.batches import Rows, plan_epoch
from seqkd.objectives.base import Batch
from seqkd.training.data import CorpusData
from seqkd.training.joined import JoinedRows
from seqkd.training.noise import Noise


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
        noises: The noise of the sources of each corpus, or None; empty if no corpus has one.

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
        noises: Sequence[Noise | None] = (),
    ) -> None:
        self._parts = [(part, weight) for part, weight in zip(parts, weights, strict=True)]
        self._rows = JoinedRows(parts, noises=noises, groups=groups)
        self._batch_tokens, self._window, self._seed = batch_tokens, window, seed
        self._rank, self._world = rank, world

    def plan(self, epoch: int) -> list[Rows]:
        """Plan this rank's batches of one epoch, as numbers of rows; see `JoinedRows`."""
        rows, sources, targets = [], [], []
        for n, (part, weight) in enumerate(self._parts):
            drawn = draw(part.rows, weight, np.random.default_rng([self._seed, epoch, n + 1]))
            noisy = self._rows.noises[n] is not None
            draws = epoch * (int(weight) + 1) + _count_earlier(drawn) if noisy else None
            rows.append(self._rows.number(n, part.positions[drawn], draws))
            sources.append(part.source_lengths[drawn])
            targets.append(part.target_lengths[drawn])
        numbers = np.concatenate(rows)
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
        return [numbers[batch] for batch in batches]

    def load(self, rows: Rows) -> Batch:
        """Make the batch of the rows with these numbers, each with the folder of its corpus, and its group if any."""
        return self._rows.load(rows)


def draw(rows: int, weight: float, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw the rows of a corpus for an epoch, `[round(weight * rows)]`, at least one, some possibly repeated."""
    whole, rest = divmod(max(1, round(weight * rows)), rows)
    some = random.permutation(rows)[:rest].astype(np.int64)
    return np.concatenate([np.tile(np.arange(rows, dtype=np.int64), whole), np.sort(some)])


def _count_earlier(drawn: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Count for each drawn row how often it is drawn before, `[drawn]`."""
    order = np.argsort(drawn, kind="stable")
    ranks = np.arange(len(drawn)) - np.searchsorted(drawn[order], drawn[order], side="left")
    found = np.empty(len(drawn), dtype=np.int64)
    found[order] = ranks
    return found

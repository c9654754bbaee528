"""Conversion of a corpus on disk to batches of padded tensors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from seqkd.corpus.batches import Rows, plan_epoch
from seqkd.corpus.reader import Corpus
from seqkd.errors import CorpusError
from seqkd.extensions import resolve
from seqkd.models.protocol import Marks, PairLengths
from seqkd.objectives.base import Batch, SoftTargets
from seqkd.training.soft import SoftTable
from seqkd.training.task import TRANSLATION, Collator, Task

WEIGHT = "weight"  # optional
RIVAL_IDS, RIVAL_MARGIN = "rival_ids", "rival_margin"  # optional, and read by some objectives only
NAMED_IDS = 20  # ids of each corpus that an error message names
AHEAD = 4  # groups of batches read while the device works on one

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialIds:
    """The special ids that collation adds to the ids of a corpus.

    Attributes:
        pad: Padding on the right.
        eos: The end of every source and target.
        start: The id that the decoder reads first.
    """

    pad: int
    eos: int
    start: int


class TrainingData(Protocol):
    """The data of the training loop."""

    def plan(self, epoch: int) -> Sequence[Rows]:
        """Plan this rank's batches of one epoch, as row positions. Every rank has the same number of batches."""
        ...

    def load(self, rows: Rows) -> Batch:
        """The batch of these positions."""
        ...


class CorpusData:
    """The rows of a corpus in batches, without the rows on which the model cannot be trained.

    Args:
        corpus: The corpus, gold or distilled.
        special: See `SpecialIds`.
        unusable: The method `SequenceModel.unusable` of the model.
        batch_tokens: Largest product of a batch's rows and its longest sentence.
        window: Rows that are shuffled and sorted together.
        seed: The seed of the shuffles.
        rank: The number of this process among `world` processes.
        world: Number of processes that share the corpus.
        soft: Stored soft targets of the rows, of which each batch gets its part.
        task: The task, which defines the columns of a row and the collation of rows.
        rivals: Whether batches get the rivals of targets, if the corpus has them.

    Raises:
        CorpusError: `soft` lacks a usable row or one of its positions, or a weight is negative or not a number.

    Attributes:
        corpus: The corpus.
        special: The special ids.
        rows: Number of usable rows.
        positions: `[rows]`, their positions in the corpus.
        source_lengths: `[rows]`, their source subwords, without end of sentence.
        target_lengths: `[rows]`, their target subwords, or those of their rivals if these are more, without end of
            sentence.
        source_tokens: The sum of the source lengths.
        target_tokens: The sum of their target subwords.
        skipped: The ids of the unusable rows, by reason.
    """

    def __init__(
        self,
        corpus: Corpus,
        special: SpecialIds,
        *,
        unusable: Callable[[PairLengths], dict[str, Marks]],
        batch_tokens: int,
        window: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        soft: SoftTable | None = None,
        task: Task = TRANSLATION,
        rivals: bool = False,
    ) -> None:
        ids, sources, targets = corpus.lengths()
        rivals = rivals and RIVAL_IDS in corpus.schema.names
        longer = np.maximum(targets, _count_rival_ids(corpus)) if rivals else targets
        reasons = unusable(PairLengths(sources, longer, corpus.repeats("target_ids")))
        self.skipped: dict[str, list[int]] = {}
        fits = np.ones(len(ids), dtype=np.bool_)
        for reason, marks in reasons.items():
            self.skipped[reason] = ids[fits & marks].tolist()
            fits &= ~marks
        if soft is not None:
            soft.check(ids[fits], targets[fits])
        self._columns = [*task.columns, *([WEIGHT] if WEIGHT in corpus.schema.names else [])]
        self._columns += [RIVAL_IDS, RIVAL_MARGIN] if rivals else []
        _check_weights(corpus, self._columns)
        self.corpus, self.special, self._soft = corpus, special, soft
        self._collate: Collator = resolve(task.collate)
        self.positions = np.flatnonzero(fits)
        self.source_lengths, self.target_lengths = sources[fits], longer[fits]
        self._batch_tokens, self._window, self._seed = batch_tokens, window, seed
        self._rank, self._world = rank, world
        self.rows = len(self.positions)
        self.source_tokens = int(self.source_lengths.sum(dtype=np.int64))
        self.target_tokens = int(targets[fits].sum(dtype=np.int64))

    def plan(self, epoch: int) -> list[Rows]:
        """Plan this rank's batches of one epoch, as positions in the corpus."""
        batches = plan_epoch(
            self.source_lengths,
            self.target_lengths,
            batch_tokens=self._batch_tokens,
            seed=self._seed,
            epoch=epoch,
            window=self._window,
            rank=self._rank,
            world=self._world,
        )
        return [self.positions[batch] for batch in batches]

    def read(self, rows: Rows) -> pa.Table:
        """Read the rows at these positions, for `collated` takes them."""
        return self.corpus.take(rows, self._columns)

    def collate(self, table: pa.Table) -> Batch:
        """Make the batch of these rows."""
        return self._collate(table, self.special)

    def find_soft(self, ids: npt.NDArray[np.int64]) -> SoftTargets | None:
        """Find the stored soft targets of rows, row after row without padding; None if there are none."""
        return None if self._soft is None else self._soft.of(ids)

    def load(self, rows: Rows) -> Batch:
        """The batch of these positions."""
        batch = self.collate(self.read(rows))
        return batch._replace(soft=self.find_soft(batch.ids))


def _count_rival_ids(corpus: Corpus) -> npt.NDArray[np.int32]:
    """Return the number of subwords of each rival, by position."""
    counts = [pc.list_value_length(table.column(RIVAL_IDS)).to_numpy() for table in corpus.tables([RIVAL_IDS])]
    return np.concatenate([np.empty(0, dtype=np.int32), *counts])


def _check_weights(corpus: Corpus, columns: Sequence[str]) -> None:
    for table in corpus.tables(["id", WEIGHT]) if WEIGHT in columns else ():
        weights = table.column(WEIGHT).to_numpy()  # null is NaN
        wrong = ~((weights >= 0) & (weights < np.inf))
        if wrong.any():
            rows = table.column("id").to_numpy()[wrong][:NAMED_IDS].tolist()
            raise CorpusError(
                f"the weights of {int(wrong.sum()):,} rows are invalid: {', '.join(map(str, rows))}",
                where=str(corpus.path),
                expected="finite numbers of at least 0 in the column `weight`",
                hint="run `seqkd select` again, or correct the column",
            )


def name_rows(batches: Sequence[Batch]) -> str:
    """Name row ids for an error message, with their corpora if several are mixed: `1, 2 of gold/train; 1 of kd`."""
    ids: dict[str, list[int]] = {}
    for batch in batches:
        origins = [""] * len(batch.ids) if batch.origins is None else batch.origins.tolist()
        for row, origin in zip(batch.ids.tolist(), origins, strict=True):
            ids.setdefault(origin, []).append(row)
    named = []
    for origin, rows in ids.items():
        more = f" and {len(rows) - NAMED_IDS} more" * (len(rows) > NAMED_IDS)
        named.append(", ".join(map(str, rows[:NAMED_IDS])) + more + (f" of {origin}" if origin else ""))
    return "; ".join(named)


def read_ahead(load: Callable[[T], Batch], groups: Iterable[Sequence[T]]) -> Generator[list[Batch]]:
    """Load groups of batches in a thread, a few groups ahead of their use, in order."""

    def load_all(group: Sequence[T]) -> list[Batch]:
        return [load(item) for item in group]

    waiting: deque[Future[list[Batch]]] = deque()
    with ThreadPoolExecutor(1) as thread:
        try:
            for group in groups:
                waiting.append(thread.submit(load_all, group))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

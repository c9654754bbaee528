"""From a corpus on disk to padded tensors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa

from seqkd.corpus.batches import Rows, plan_epoch
from seqkd.corpus.reader import Corpus
from seqkd.errors import CorpusError
from seqkd.extensions import resolve
from seqkd.models.protocol import Marks, PairLengths
from seqkd.objectives.base import Batch
from seqkd.training.soft import SoftTable
from seqkd.training.task import TRANSLATION, Collate, Task

WEIGHT = "weight"  # optional
NAMED_IDS = 20  # in an error message, of each corpus
AHEAD = 4  # groups of batches read while the device works on one

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialIds:
    """What a collater adds to a corpus' ids.

    Attributes:
        pad: Fills rows up on the right.
        eos: Ends every source and target.
        start: What the decoder reads first.
    """

    pad: int
    eos: int
    start: int


class TrainingData(Protocol):
    """What the loop trains on."""

    def plan(self, epoch: int) -> Sequence[Rows]:
        """This rank's batches of one epoch, as row positions; equal in number on every rank."""
        ...

    def load(self, rows: Rows) -> Batch:
        """The batch of these positions."""
        ...


class CorpusData:
    """A corpus' rows in batches; those that the model cannot be trained on are left out.

    Args:
        corpus: Gold or distilled.
        special: See `SpecialIds`.
        unusable: The model's `SequenceModel.unusable`.
        batch_tokens: Rows of a batch times its longest sentence, at most.
        window: Rows shuffled and sorted together.
        seed: Of the shuffles.
        rank: Which of `world` processes this is.
        world: Processes that share the corpus.
        soft: What a teacher gave the rows; each batch brings its part.
        task: Says which columns make a row, and how rows become a batch.

    Raises:
        CorpusError: `soft` lacks a row that fits, or one of its positions; a weight is no number, or negative.

    Attributes:
        corpus: As given.
        special: Likewise.
        rows: How many rows fit.
        positions: Where they are in the corpus `[rows]`.
        source_lengths: Their subwords, without ends of sentences `[rows]`.
        target_lengths: Likewise.
        source_tokens: Of these rows, without ends of sentences.
        target_tokens: Likewise.
        skipped: By reason, the ids of the rows that do not.
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
    ) -> None:
        ids, sources, targets = corpus.lengths()
        reasons = unusable(PairLengths(sources, targets, corpus.repeats("target_ids")))
        self.skipped: dict[str, list[int]] = {}
        fits = np.ones(len(ids), dtype=np.bool_)
        for reason, marks in reasons.items():
            self.skipped[reason] = ids[fits & marks].tolist()
            fits &= ~marks
        if soft is not None:
            soft.check(ids[fits], targets[fits])
        self._columns = [*task.columns, *([WEIGHT] if WEIGHT in corpus.schema.names else [])]
        _check_weights(corpus, self._columns)
        self.corpus, self.special, self._soft = corpus, special, soft
        self._collate: Collate = resolve(task.collate)
        self.positions = np.flatnonzero(fits)
        self.source_lengths, self.target_lengths = sources[fits], targets[fits]
        self._batch_tokens, self._window, self._seed = batch_tokens, window, seed
        self._rank, self._world = rank, world
        self.rows = len(self.positions)
        self.source_tokens = int(self.source_lengths.sum(dtype=np.int64))
        self.target_tokens = int(self.target_lengths.sum(dtype=np.int64))

    def plan(self, epoch: int) -> list[Rows]:
        """This rank's batches of one epoch, as positions in the corpus."""
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
        """The rows at these positions, as `collated` takes them."""
        return self.corpus.take(rows, self._columns)

    def collated(self, table: pa.Table) -> Batch:
        """The batch of the task for these rows."""
        return self._collate(table, self.special)

    def load(self, rows: Rows) -> Batch:
        """The batch of these positions."""
        batch = self.collated(self.read(rows))
        return batch if self._soft is None else batch._replace(soft=self._soft.of(batch.ids))


def _check_weights(corpus: Corpus, columns: Sequence[str]) -> None:
    for table in corpus.tables(["id", WEIGHT]) if WEIGHT in columns else ():
        weights = table.column(WEIGHT).to_numpy()  # null is NaN
        wrong = ~((weights >= 0) & (weights < np.inf))
        if wrong.any():
            rows = table.column("id").to_numpy()[wrong][:NAMED_IDS].tolist()
            raise CorpusError(
                f"the weights of {int(wrong.sum()):,} rows cannot be trained with: {', '.join(map(str, rows))}",
                where=str(corpus.path),
                expected="finite numbers, 0 or more, in the column `weight`",
                hint="select again, or write the column anew",
            )


def name_rows(batches: Sequence[Batch]) -> str:
    """Row ids for an error message, with their corpora where these are mixed: `1, 2 of gold/train; 1 of kd`."""
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
    """Load groups of batches in a thread, a few ahead of where they are used; in order."""

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

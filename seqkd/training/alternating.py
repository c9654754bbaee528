"""Training on several corpora in turn, in blocks of updates."""

from __future__ import annotations

from collections.abc import Sequence

from seqkd.corpus.batches import Rows
from seqkd.objectives.base import Batch
from seqkd.training.data import CorpusData
from seqkd.training.joined import JoinedRows


class AlternatingData:
    """Rows of several corpora in blocks of updates, each on one corpus; after the last block follows the first.

    An epoch of the training loop is one round of all blocks. Each corpus has epochs of its own besides, in the order
    that it has when a model is trained on it alone. A block begins with the batch that follows the last one of the
    block before on the same corpus, and the first batch of a corpus' next epoch follows the last one of an epoch, also
    within an update. No row is left out or repeated between blocks. The order depends only on the settings and the
    seed, so a resumed run sees the same rows. All ranks are in the same block, because all have the same number of
    batches of each epoch.

    With blocks of n and m updates, n of n + m updates are on the first corpus, as they are on average if the corpora
    are mixed in these shares.

    Args:
        parts: The corpora as for `JoinedRows`, each with at least one row.
        updates: The updates of the block on each corpus, at least one.
        accumulate: Batches in an update, on each process.
        groups: The data set of each corpus, or None if there is only one.

    Raises:
        ValueError: The numbers of blocks and corpora differ.
    """

    def __init__(
        self,
        parts: Sequence[CorpusData],
        updates: Sequence[int],
        *,
        accumulate: int,
        groups: Sequence[str] | None = None,
    ) -> None:
        self._blocks = [(_Stream(part), size * accumulate) for part, size in zip(parts, updates, strict=True)]
        self._rows = JoinedRows(parts, groups=groups)

    def plan(self, epoch: int) -> list[Rows]:
        """Plan this rank's batches of one round of the blocks, as numbers of rows; see `JoinedRows`."""
        return [
            self._rows.number(n, rows)
            for n, (stream, size) in enumerate(self._blocks)
            for rows in stream.take(epoch * size, size)
        ]

    def load(self, rows: Rows) -> Batch:
        """Make the batch of the rows with these numbers, each with the folder of its corpus, and its group if any."""
        return self._rows.load(rows)


class _Stream:
    """The batches of all epochs of a corpus, one epoch after the other.

    Epochs differ in their numbers of batches. Therefore a resumed run plans all epochs again from the first one.
    """

    def __init__(self, part: CorpusData) -> None:
        self._part = part
        self._start()

    def _start(self) -> None:
        self._epoch, self._before = 0, 0  # the planned epoch, and the number of batches before it
        self._batches = self._part.plan(0)

    def take(self, first: int, count: int) -> list[Rows]:
        """Return `count` batches, the first of which has the number `first`, from 0."""
        if first < self._before:
            self._start()
        found: list[Rows] = []
        while len(found) < count:
            at = first + len(found) - self._before
            found += self._batches[at : at + count - len(found)]
            if len(found) < count:
                self._before += len(self._batches)
                self._epoch += 1
                self._batches = self._part.plan(self._epoch)
        return found

"""The sentences that a search has before it: longest first, in batches that fit in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from seqkd.errors import WorkError
from seqkd.progress import say


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence.

    Attributes:
        row: Its id.
        source: Ids without end of sentence.
        prefix: Target ids that its outputs open with.
    """

    row: int
    source: list[int]
    prefix: list[int] = field(default_factory=list)


class Intake:
    """Sentences that wait to be decoded.

    Args:
        sentences: In any order.
        max_positions: The model's longest source in tokens, end of sentence counted.
        batch_tokens: Source tokens, padding and end of sentence counted, that are decoded together.

    Attributes:
        empty: Row ids of sentences without tokens, which need no decoding.
        too_long: Row ids of those that do not fit the model's positions, which cannot be decoded.
        queue: The others, longest first.
        batch_tokens: As given, or what was found to fit.
    """

    def __init__(self, sentences: Iterable[Sentence], *, max_positions: int, batch_tokens: int) -> None:
        self.empty: list[int] = []
        self.too_long: list[int] = []
        self.batch_tokens = batch_tokens
        waiting = []
        for sentence in sentences:
            if not sentence.source:
                self.empty.append(sentence.row)
            elif len(sentence.source) >= max_positions:
                self.too_long.append(sentence.row)
            else:
                waiting.append(sentence)
        self.queue = deque(longest_first(waiting))

    @property
    def width(self) -> int:
        """Tokens of the longest sentence that waits, end of sentence counted."""
        return len(self.queue[0].source) + 1

    @property
    def count(self) -> int:
        """How many of those that wait are a batch."""
        return max(1, min(self.batch_tokens // self.width, len(self.queue)))

    def put_back(
        self, error: BaseException, sentences: Iterable[Sentence], *, count: int, width: int, device: torch.device
    ) -> None:
        """Let sentences wait again whose batch did not fit in memory; batches are half as large from now on.

        Args:
            error: What decoding them came to. Raised again if it is something else.
            sentences: Those of the batch that are not done; longer than all that wait.
            count: Sentences of the batch.
            width: Tokens of its longest.
            device: Where it was.

        Raises:
            WorkError: It was one sentence alone.
        """
        if not out_of_memory(error):
            raise error
        self.queue.extendleft(reversed(longest_first(sentences)))
        if count == 1:
            raise WorkError(
                "one sentence alone does not fit in memory",
                where=f"row {self.queue[0].row}",
                hint="use a smaller beam or fewer candidates, a shorter maximum length or a device with more memory",
            ) from error
        self.batch_tokens = max(1, count * width // 2)
        say(f"search: out of memory at {count} sentences; going on with {self.batch_tokens:,} tokens a batch")
        if device.type == "cuda":
            torch.cuda.empty_cache()


def longest_first(sentences: Iterable[Sentence]) -> list[Sentence]:
    """Ties go to the lower row id."""
    return sorted(sentences, key=lambda sentence: (-len(sentence.source), sentence.row))


def out_of_memory(error: BaseException) -> bool:
    """Whether this is a device or host allocation that failed; torch has no one type for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)

"""The queue of sentences of a search, longest first, in batches that fit in memory."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from seqkd.errors import WorkError
from seqkd.progress import say

Result = TypeVar("Result")
# The memory of the logits of a step on CUDA devices. Short sentences would fill a batch with so many rows that the
# logits of a large vocabulary need more than everything else.
LOGITS_BYTES = 2_000_000_000
# Libraries that allocate beside torch's allocator raise a RuntimeError, or AcceleratorError, with one of these texts.
NO_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED", "ALLOCATION_FAILED")


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence.

    Attributes:
        row: The row id.
        source: Source ids without end of sentence.
        prefix: Target ids with which its outputs begin.
    """

    row: int
    source: list[int]
    prefix: list[int] = field(default_factory=list)


class Intake:
    """Sentences that wait to be decoded.

    Args:
        sentences: The sentences in any order.
        max_positions: The longest source of the model in tokens, including end of sentence.
        batch_tokens: Source tokens for which the caches of a batch have room, including padding and end of sentence.
        most: Sentences that are decoded together at most; None for any number.
        cache_width: Returns the source tokens for which caches have room, given those of the longest sentence.

    Attributes:
        empty: Row ids of sentences without tokens, which need no decoding.
        too_long: Row ids of sentences that are too long for the model, which cannot be decoded.
        queue: All other sentences, longest first.
        batch_tokens: The given number, or the number that was found to fit.
    """

    def __init__(
        self,
        sentences: Iterable[Sentence],
        *,
        max_positions: int,
        batch_tokens: int,
        most: int | None = None,
        cache_width: Callable[[int], int] = int,
    ) -> None:
        self.empty: list[int] = []
        self.too_long: list[int] = []
        self.batch_tokens = batch_tokens
        self.most = most
        self._cache_width = cache_width
        self._failed = False
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
        """The source tokens for which the caches of a batch have room.

        They are those of the longest waiting sentence, including end of sentence, or more if the model has few widths.
        """
        return self._cache_width(len(self.queue[0].source) + 1)

    @property
    def count(self) -> int:
        """The number of waiting sentences that form a batch."""
        fitting = min(self.batch_tokens // self.width, len(self.queue))
        return max(1, fitting if self.most is None else min(fitting, self.most))

    def drain(
        self,
        decode: Callable[[], Iterator[Result]],
        *,
        empty_cache: Callable[[], None] = torch.cuda.empty_cache,
    ) -> Iterator[Result]:
        """Decode batches until no sentence is waiting.

        Args:
            decode: Decodes waiting sentences, and calls `put_back` if memory does not suffice.
            empty_cache: Gives memory that torch keeps for later back to the device, where other libraries can get it.

        Yields:
            The results of `decode`.
        """
        while self.queue:
            yield from decode()
            if self._failed:
                # Only here have the frames of the failed batch, and their tensors, gone with the error.
                gc.collect()
                empty_cache()
                self._failed = False

    def put_back(self, error: BaseException, sentences: Iterable[Sentence], *, count: int, width: int) -> None:
        """Put sentences back whose batch did not fit in memory, and halve the size of batches.

        Args:
            error: The error of the batch. It is raised again if memory is not its cause.
            sentences: The unfinished sentences of the batch, which are longer than all waiting ones.
            count: Number of sentences in the batch.
            width: The width of the batch's caches.

        Raises:
            WorkError: The batch was a single sentence.
        """
        if not out_of_memory(error):
            raise error
        self.queue.extendleft(reversed(longest_first(sentences)))
        if count == 1:
            raise WorkError(
                "one sentence alone does not fit in memory",
                where=f"row {self.queue[0].row}",
                hint="a smaller batch_tokens does not help; use a smaller beam or fewer candidates, a shorter maximum "
                "length or a device with more memory",
            ) from error
        self.batch_tokens = max(1, count * width // 2)
        say(f"search: out of memory with {count} sentences; continuing with {self.batch_tokens:,} tokens a batch")
        self._failed = True


def most_together(device: torch.device, *, vocab: int, beam: int) -> int | None:
    """Return the number of sentences whose logits, in float32, fit in `LOGITS_BYTES`; None on devices without limit.

    The number is a power of two, as the sizes of steps on such devices are.
    """
    if device.type != "cuda":
        return None
    return 1 << (max(1, LOGITS_BYTES // (4 * vocab * beam)).bit_length() - 1)


def longest_first(sentences: Iterable[Sentence]) -> list[Sentence]:
    """Sort sentences by length, longest first. Ties go to the lower row id."""
    return sorted(sentences, key=lambda sentence: (-len(sentence.source), sentence.row))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is a failed allocation on the device or the host, for which torch has no single type."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)

"""Division of an epoch into batches under a token budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Lengths = npt.NDArray[np.integer[Any]]
Rows = npt.NDArray[np.int64]


def plan_epoch(
    source_lengths: Lengths,
    target_lengths: Lengths,
    *,
    batch_tokens: int,
    seed: int,
    epoch: int,
    window: int,
    rank: int = 0,
    world: int = 1,
) -> list[Rows]:
    """Plan the batches of one rank for one epoch, as positions of rows.

    Rows are shuffled and cut into windows. Each window is sorted by target length, then by source length, and cut into
    batches, and the batches are shuffled. The number of rows of a batch times its longest sentence, on either side and
    with EOS, stays within the budget. This counts the padded batch that memory must hold, also for a short target with
    a long source. A row longer than the budget is a batch of its own.

    Every row is in exactly one batch of one rank. All ranks get the same number of batches: the largest batches are
    halved until their number is a multiple of `world`. Only if there are too few rows are the last batches of some
    ranks empty arrays. A training step on an empty batch contributes nothing, but must still take part in the sum of
    the gradients.

    The plan needs about 50 bytes of memory a row. It depends on the lengths and the settings only.

    Args:
        source_lengths: Source subwords without EOS `[rows]`.
        target_lengths: Target subwords without EOS `[rows]`.
        batch_tokens: The budget.
        seed: The seed of the run, not negative.
        epoch: The epoch, not negative. Each epoch has its own shuffle.
        window: Rows that are shuffled and sorted together.
        rank: The process, of `world`, for which the plan is made.
        world: Number of processes that share the epoch.

    Returns:
        Arrays of positions `[rows in batch]`, int64.

    Raises:
        ValueError: The numbers of lengths differ, or a setting is out of range.
    """
    if source_lengths.ndim != 1 or source_lengths.shape != target_lengths.shape:
        raise ValueError(f"lengths must both be [rows], got {source_lengths.shape} and {target_lengths.shape}")
    if batch_tokens < 1 or window < 1:
        raise ValueError(f"batch_tokens {batch_tokens} and window {window} must be at least 1")
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} must be in 0 to {world - 1}")
    random = np.random.default_rng([seed, epoch])
    shuffled = random.permutation(len(target_lengths)).astype(np.int64, copy=False)
    batches: list[Rows] = []
    for start in range(0, len(shuffled), window):
        rows = shuffled[start : start + window]
        rows = rows[np.lexsort((source_lengths[rows], target_lengths[rows]))]  # stable: equal lengths stay shuffled
        widths = np.maximum(source_lengths[rows], target_lengths[rows]).astype(np.int64) + 1
        batches.extend(_cut(rows, widths, batch_tokens))
    _even_out(batches, world)
    order = random.permutation(len(batches))
    return _share([batches[i] for i in order], rank, world)


def _cut(rows: Rows, widths: Rows, budget: int) -> list[Rows]:
    """Cut rows into batches, each with as many rows as fit."""
    batches = []
    start = 0
    while start < len(rows):
        most = max(1, budget // int(widths[start]))  # an upper bound: the longest row decides
        longest = np.maximum.accumulate(widths[start : start + most])
        # The product grows strictly, so the rows that fit form a prefix.
        fits = int(np.count_nonzero(longest * np.arange(1, len(longest) + 1) <= budget))
        end = start + max(1, fits)
        batches.append(rows[start:end])
        start = end
    return batches


def _even_out(batches: list[Rows], world: int) -> None:
    """Halve the largest batches, in place, until their number is a multiple of `world` or all are single rows."""
    for _ in range(-len(batches) % world):
        largest = max(range(len(batches)), key=lambda i: len(batches[i]))
        half = len(batches[largest]) // 2
        if half == 0:
            return
        batches.append(batches[largest][half:])
        batches[largest] = batches[largest][:half]


def _share(batches: list[Rows], rank: int, world: int) -> list[Rows]:
    empty = np.empty(0, dtype=np.int64)
    steps = -(-len(batches) // world)
    return [batches[i] if i < len(batches) else empty for i in range(rank, steps * world, world)]

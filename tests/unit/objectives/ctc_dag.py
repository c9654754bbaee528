"""Batches for the objectives' tests."""

from __future__ import annotations

import numpy as np
import torch

from seqkd.objectives.base import Batch

PAD, EOS = 1, 2


def batch_of(
    source: list[list[int]], target: list[list[int]], *, progress: float = 0.0, source_room: int = 0, room: int = 0
) -> Batch:
    """Rows of ids without end of sentence, padded on the right to the longest or further."""

    def padded(rows: list[list[int]], width: int) -> torch.Tensor:
        width = max(width, *(len(row) + 1 for row in rows))
        return torch.tensor([[*row, EOS] + [PAD] * (width - len(row) - 1) for row in rows])

    out = padded(target, room)
    target_in = torch.cat([torch.full((len(out), 1), EOS), out[:, :-1]], 1)
    target_in[:, 1:][target_in[:, 1:].eq(EOS)] = PAD
    kept = out.flatten().ne(PAD).nonzero()[:, 0]
    return Batch(np.arange(len(out)), padded(source, source_room), target_in, out, kept, len(kept), progress)


def empty_batch() -> Batch:
    """What a rank that has run out of rows is given."""
    return Batch(
        np.empty(0, dtype=np.int64),
        torch.tensor([[EOS]]),
        torch.tensor([[EOS]]),
        torch.tensor([[PAD]]),
        torch.empty(0, dtype=torch.long),
        0,
    )

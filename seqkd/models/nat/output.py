"""The output layer over many positions, in chunks, so that the logits of all positions are never in memory together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from seqkd.kernels import products as native

# Number of logits in a chunk.
CHUNK_ELEMENTS = 1 << 21
CHUNK_ELEMENTS_CUDA = 1 << 27


def marked_places(marks: Tensor, count: int) -> Tensor:
    """Return the flat places of the marks that are True, in order.

    Args:
        marks: Bool of any shape.
        count: Number of marks that are True. An index of bools would ask the device for it, and so wait for all work
            that is queued there.

    Returns:
        `[count]` int64.
    """
    return marks.flatten().nonzero_static(size=count)[:, 0]


def top_pieces(
    features: Tensor, weight: Tensor, count: int, banned: Sequence[int] = (), *, elements: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the likeliest pieces of `softmax(features @ weight.T)`.

    Args:
        features: `[rows, dim]`.
        weight: `[vocab, dim]`.
        count: Pieces for each row, or fewer if the vocabulary has no more.
        banned: Ids that are never returned. They keep their share of the probability.
        elements: Number of logits in a chunk; None for a number that suits the device.

    Returns:
        Logits `[rows, count]` float32, descending; their ids `[rows, count]`; the log-sum-exp `[rows]` float32.
    """
    count = min(count, len(weight) - len(banned))
    logits, ids, sums = [], [], []
    for chunk in _logits(features, weight, elements):
        sums.append(chunk.logsumexp(-1))
        for piece in banned:
            chunk[:, piece].fill_(-torch.inf)
        best = chunk.max(-1, keepdim=True) if count == 1 else chunk.topk(count)
        logits.append(best[0])
        ids.append(best[1])
    return torch.cat(logits), torch.cat(ids), torch.cat(sums)


def best_pieces(features: Tensor, weight: Tensor, *, elements: int | None = None) -> Tensor:
    """Find the likeliest piece `[rows]` for features `[rows, dim]`; see `top_pieces` for `elements`."""
    if native.can_multiply(features, weight):
        return native.argmax_logits(features.detach().float().contiguous(), weight.detach())
    return torch.cat([chunk.argmax(-1) for chunk in _logits(features, weight, elements)])


def _logits(features: Tensor, weight: Tensor, elements: int | None) -> Iterator[Tensor]:
    limit = elements or (CHUNK_ELEMENTS if features.device.type == "cpu" else CHUNK_ELEMENTS_CUDA)
    for part in torch.split(features, max(1, limit // len(weight))):
        yield functional.linear(part, weight).float()

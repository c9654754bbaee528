"""Random choices of positions, and a loss over some positions that weighs as much as one over all."""

from __future__ import annotations

import torch
from torch import Tensor

from seqkd.objectives.projection import projected_nll


def draw_positions(real: Tensor, count: Tensor) -> Tensor:
    """Draw positions uniformly, without replacement.

    Args:
        real: `[batch, length]` bool, where positions may be drawn.
        count: `[batch]` int64, how many; all where a row has fewer.

    Returns:
        `[batch, length]` bool.
    """
    lots = torch.rand(real.shape, device=real.device).masked_fill(~real, 2.0)
    ranks = lots.argsort(dim=1).argsort(dim=1)
    return (ranks < count[:, None]) & real


def nll_at(
    features: Tensor, weight: Tensor, target: Tensor, places: Tensor, smoothing: float, tokens: int
) -> tuple[Tensor, Tensor]:
    """Label-smoothed cross-entropy at some positions, times `tokens` over their number.

    The loop divides a loss by the batch's target tokens; so scaled, it gets the mean over the positions, and a batch
    with few of them has its full say.

    Args:
        features: `[batch, target, dim]`.
        weight: `[vocab, dim]`, the output layer.
        target: `[batch, target]` ids.
        places: `[positions]` int64, where `target.flatten()` is to be learned.
        smoothing: See `projected_nll`.
        tokens: Of the batch.

    Returns:
        The loss, and the unsmoothed negative log-likelihood without gradient; scalars in float32.
    """
    rows = features.flatten(0, 1).index_select(0, places)
    loss, nll = projected_nll(rows, weight, target.flatten().index_select(0, places), smoothing)
    scale = tokens / max(len(places), 1)
    return loss * scale, nll * scale

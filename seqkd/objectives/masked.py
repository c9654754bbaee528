"""Random choices of positions, and a loss over some positions with the same scale as a loss over all positions."""

from __future__ import annotations

import torch
from torch import Tensor

from seqkd.objectives.projection import projected_nll


def draw_positions(real: Tensor, count: Tensor) -> Tensor:
    """Draw positions uniformly, without replacement.

    Args:
        real: `[batch, length]` bool, True at positions that may be drawn.
        count: `[batch]` int64, the number of positions to draw. If a row has fewer, all are drawn.

    Returns:
        `[batch, length]` bool.
    """
    lots = torch.rand(real.shape, device=real.device).masked_fill(~real, 2.0)
    ranks = lots.argsort(dim=1).argsort(dim=1)
    return (ranks < count[:, None]) & real


def nll_at(
    features: Tensor, weight: Tensor, target: Tensor, places: Tensor, smoothing: float, tokens: int
) -> tuple[Tensor, Tensor]:
    """Compute the label-smoothed cross-entropy at some positions, multiplied by `tokens` and divided by their number.

    The training loop divides a loss by the batch's target tokens. With this scale the result is the mean over the
    positions, and a batch with few positions has the same influence as others.

    Args:
        features: `[batch, target, dim]`.
        weight: `[vocab, dim]`, the output layer.
        target: `[batch, target]` ids.
        places: `[positions]` int64, the positions of `target.flatten()` to learn.
        smoothing: See `projected_nll`.
        tokens: Number of target tokens in the batch.

    Returns:
        The loss, and the unsmoothed negative log-likelihood without gradient; scalars in float32.
    """
    rows = features.flatten(0, 1).index_select(0, places)
    loss, nll = projected_nll(rows, weight, target.flatten().index_select(0, places), smoothing)
    scale = tokens / max(len(places), 1)
    return loss * scale, nll * scale

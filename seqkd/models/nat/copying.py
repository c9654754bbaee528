"""Decoder inputs copied from the source (Gu et al. 2018): evenly, or by fertility."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform_places(source: Tensor, target: Tensor, width: int) -> Tensor:
    """Source positions spread evenly over the target: first on first, last on last, the nearest between.

    Position t of T reads position (S - 1) * t / (T - 1) of S, rounded, halves up.

    Args:
        source: `[batch]` int64 source lengths, at least 1.
        target: `[batch]` int64 target lengths, at least 1.
        width: Positions of the result, at least the longest target.

    Returns:
        `[batch, width]` int64; beyond a row's target the last source position.
    """
    steps = torch.arange(width, device=source.device)
    last, gaps = (source - 1)[:, None], (target - 1).clamp(min=1)[:, None]
    return torch.minimum((2 * steps * last + gaps) // (2 * gaps), last)


def fertile_places(fertilities: Tensor, width: int) -> Tensor:
    """Each source position as often as its fertility says, in order.

    Args:
        fertilities: `[batch, source]` int64, 0 at padding.
        width: Positions of the result.

    Returns:
        `[batch, width]` int64 source positions; beyond the fertilities' sum the last position.
    """
    ends = fertilities.cumsum(1)
    steps = torch.arange(width, device=ends.device).expand(len(ends), width).contiguous()
    return torch.searchsorted(ends, steps, right=True).clamp(max=fertilities.size(1) - 1)


def copy_states(embedded: Tensor, places: Tensor) -> Tensor:
    """`[batch, source, dim]` at `places` `[batch, target]`: `[batch, target, dim]`."""
    return embedded.gather(1, places[..., None].expand(-1, -1, embedded.size(2)))

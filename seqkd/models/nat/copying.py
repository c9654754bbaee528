"""Decoder inputs that are copied from the source (Gu et al. 2018), evenly or by fertility."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform_places(source: Tensor, target: Tensor, width: int) -> Tensor:
    """Return source positions that are spread evenly over the target, from the first to the last.

    Target position t of T reads source position (S - 1) * t / (T - 1) of S. It is rounded, and halves are rounded up.

    Args:
        source: `[batch]` int64 source lengths, at least 1.
        target: `[batch]` int64 target lengths, at least 1.
        width: Number of positions of the result, at least the longest target.

    Returns:
        `[batch, width]` int64. Positions after a row's target hold the last source position.
    """
    steps = torch.arange(width, device=source.device)
    last, gaps = (source - 1)[:, None], (target - 1).clamp(min=1)[:, None]
    return torch.minimum((2 * steps * last + gaps) // (2 * gaps), last)


def fertile_places(fertilities: Tensor, width: int) -> Tensor:
    """Return the source positions in order, each as many times as its fertility.

    Args:
        fertilities: `[batch, source]` int64, 0 at padding.
        width: Number of positions of the result.

    Returns:
        `[batch, width]` int64 source positions. Positions after the sum of a row's fertilities hold the last position.
    """
    ends = fertilities.cumsum(1)
    steps = torch.arange(width, device=ends.device).expand(len(ends), width).contiguous()
    return torch.searchsorted(ends, steps, right=True).clamp(max=fertilities.size(1) - 1)


def copy_states(embedded: Tensor, places: Tensor) -> Tensor:
    """Gather states `[batch, source, dim]` at `places` `[batch, target]`, giving `[batch, target, dim]`."""
    return embedded.gather(1, places[..., None].expand(-1, -1, embedded.size(2)))

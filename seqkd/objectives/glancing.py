"""Glancing training: how much of the target a model may see (Qian et al. 2021, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor


def shown(real: Tensor, distance: Tensor, ratio: float) -> Tensor:
    """Draw the positions whose target is shown to the decoder.

    Args:
        real: `[batch, length]` bool, the positions to draw from.
        distance: `[batch]` int64, how far the model's own output is from the target.
        ratio: Share of the distance.

    Returns:
        `[batch, length]` bool: `round(ratio * distance)` real positions of each row, drawn uniformly.
    """
    draws = torch.rand(real.shape, device=real.device).masked_fill(~real, torch.inf)
    ranks = draws.argsort(dim=1).argsort(dim=1)
    count = (ratio * distance.double()).round()
    return (ranks < count[:, None]) & real

"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimSettings:
    """Settings of the optimiser and the learning-rate schedule.

    Attributes:
        optimizer: adam (Kingma and Ba 2015) or adamw (Loshchilov and Hutter 2019).
        learning_rate: The schedule's peak.
        betas: Decay of the two moments.
        weight_decay: Weight decay of matrices. Biases and norms never decay.
        schedule: inverse_sqrt (Vaswani et al. 2017, eq. 3, scaled to the peak) or cosine, which ends at 0.
        warmup_updates: The update until which the rate grows linearly.
        max_updates: The update at which the cosine ends.
    """

    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0
    schedule: Literal["inverse_sqrt", "cosine"] = "inverse_sqrt"
    warmup_updates: int = 4000
    max_updates: int


def learning_rate(settings: OptimSettings, update: int) -> float:
    """Return the learning rate of an update. The first update has number 1."""
    peak, warmup = settings.learning_rate, settings.warmup_updates
    if update <= warmup:
        return peak * update / warmup
    if settings.schedule == "inverse_sqrt":
        return peak * math.sqrt(warmup / update)
    done = (update - warmup) / max(1, settings.max_updates - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class OptimizerBuilder(Protocol):
    """A function that makes an optimiser, such as `build_optimizer`."""

    def __call__(
        self, parameters: Iterable[nn.Parameter], settings: OptimSettings, *, fused: bool
    ) -> torch.optim.Optimizer:
        """See `build_optimizer`."""
        ...


def build_optimizer(
    parameters: Iterable[nn.Parameter], settings: OptimSettings, *, fused: bool
) -> torch.optim.Optimizer:
    """Build the optimiser of `parameters`.

    Args:
        parameters: The parameters, each once.
        settings: See `OptimSettings`.
        fused: Whether one kernel updates all weights. It cannot be combined with a gradient scaler (fp16) and clipping.
    """
    listed = list(parameters)
    groups = [
        {"params": [p for p in listed if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in listed if p.dim() <= 1], "weight_decay": 0.0},
    ]
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.learning_rate, betas=settings.betas, fused=fused)

"""Negative log-likelihood of held-out pairs."""

from __future__ import annotations

from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from seqkd.objectives.loss import Loss
from seqkd.training.data import TrainingData


def held_out_nll(fabric: Fabric, model: nn.Module, loss: Loss, data: TrainingData) -> float:
    """Return nats per target token, including end of sentence, over all ranks' batches of epoch 0.

    Args:
        fabric: Device, precision and processes.
        model: The model itself, not its wrapper, in evaluation mode.
        loss: The objective, whose `measure` computes the likelihood.
        data: The held-out corpus.
    """
    total = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad(), fabric.autocast():
        for rows in data.plan(0):
            batch = data.load(rows).to(fabric.device)
            nll, count = loss.nll(model, batch)
            total += torch.tensor([float(nll), count], dtype=torch.float64)
    if fabric.world_size > 1:
        total = cast(Tensor, fabric.all_reduce(total.to(fabric.device), reduce_op="sum")).cpu()
    return float(total[0] / total[1].clamp(min=1))

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from seqkd.training.optim import OptimSettings, build_optimizer, learning_rate


def test_inverse_square_root() -> None:
    settings = OptimSettings(learning_rate=1e-3, warmup_updates=100, max_updates=10_000)
    assert learning_rate(settings, 1) == pytest.approx(1e-5)
    assert learning_rate(settings, 50) == pytest.approx(5e-4)
    assert learning_rate(settings, 100) == pytest.approx(1e-3)
    assert learning_rate(settings, 400) == pytest.approx(5e-4)
    assert learning_rate(settings, 10_000) == pytest.approx(1e-4)


def test_cosine() -> None:
    settings = OptimSettings(learning_rate=2.0, warmup_updates=10, max_updates=110, schedule="cosine")
    assert learning_rate(settings, 5) == pytest.approx(1.0)
    assert learning_rate(settings, 10) == pytest.approx(2.0)
    assert learning_rate(settings, 35) == pytest.approx(1 + math.cos(math.pi / 4))
    assert learning_rate(settings, 60) == pytest.approx(1.0)
    assert learning_rate(settings, 110) == pytest.approx(0.0, abs=1e-12)
    rates = [learning_rate(settings, update) for update in range(10, 111)]
    assert rates == sorted(rates, reverse=True)


def test_warm_up_longer_than_training() -> None:
    settings = OptimSettings(learning_rate=1.0, warmup_updates=100, max_updates=10, schedule="cosine")
    assert learning_rate(settings, 10) == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("fused", [True, False])
def test_only_matrices_decay(name: str, fused: bool) -> None:
    layer = nn.Linear(3, 2)
    nn.init.ones_(layer.weight)
    nn.init.ones_(layer.bias)
    settings = OptimSettings(optimizer=name, learning_rate=0.1, weight_decay=0.5, max_updates=1)  # type: ignore[arg-type]
    optimizer = build_optimizer(layer.parameters(), settings, fused=fused)
    for weight in layer.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert float(layer.bias.detach().min()) == 1.0
    assert float(layer.weight.detach().max()) < 1.0

"""Simple recurrent units are what the papers say. See also test_recurrent.py."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from seqkd.models.sru import SimplerUnit, SimpleUnit


def test_the_simpler_unit_is_its_equations() -> None:
    torch.manual_seed(0)
    unit, x = SimplerUnit(4), torch.randn(2, 6, 4)
    torch.nn.init.normal_(unit.products.bias)
    cell, expected = torch.zeros(2, 4), []
    for t in range(6):
        gate, value = unit.products(x[:, t]).chunk(2, dim=-1)
        forget = gate.sigmoid()
        cell = forget * cell + (1 - forget) * value
        expected.append(functional.relu(cell))
    torch.testing.assert_close(unit(x), torch.stack(expected, dim=1))


def test_the_simple_unit_is_its_equations() -> None:
    torch.manual_seed(0)
    unit, x = SimpleUnit(4), torch.randn(2, 6, 4)
    torch.nn.init.normal_(unit.products.bias)
    torch.nn.init.normal_(unit.peepholes)
    forget_peephole, reset_peephole = unit.peepholes
    cell, expected = torch.zeros(2, 4), []
    for t in range(6):
        gate, value, reset = unit.products(x[:, t]).chunk(3, dim=-1)
        forget = torch.sigmoid(gate + forget_peephole * cell)
        reset = torch.sigmoid(reset + reset_peephole * cell)
        cell = forget * cell + (1 - forget) * value
        expected.append(reset * cell + (1 - reset) * x[:, t] * math.sqrt(3))
    torch.testing.assert_close(unit(x), torch.stack(expected, dim=1))

"""Simple recurrent units are what the papers say. See also test_recurrent.py."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from seqkd.models.settings import TransformerSettings, stored_settings
from seqkd.models.sru import SimplerUnit, SimpleUnit, SruSettings


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


def test_the_simpler_unit_without_a_value_bias_is_the_papers() -> None:
    torch.manual_seed(0)
    unit, biased, x = SimplerUnit(4, value_bias=False), SimplerUnit(4), torch.randn(2, 6, 4)
    assert unit.gate_bias is not None
    torch.nn.init.normal_(unit.gate_bias)
    biased.load_state_dict({"products.weight": unit.products.weight, "products.bias": unit.bias})
    torch.testing.assert_close(unit(x), biased(x))
    cell = torch.zeros(2, 4)
    for t in range(6):
        output, cell = unit.step(x[:, t], cell)
        torch.testing.assert_close(output, unit(x)[:, t])


def test_a_student_that_is_compatible_with_marian_has_its_options() -> None:
    found = stored_settings(SruSettings(compatible_with="marian"))
    later = ("start", "position_offset", "norm_epsilon", "value_bias")
    assert [found[name] for name in later] == ["zero", 0, 1e-6, False]
    assert not {*later, "compatible_with"} & stored_settings(SruSettings()).keys()
    assert SruSettings(**found) == SruSettings(compatible_with="marian")
    assert TransformerSettings(compatible_with="marian", activation="swish").start == "zero"


def test_options_that_marian_does_not_have_are_all_named() -> None:
    with pytest.raises(ValueError, match=r"positions is 'learned', and must be 'sinusoidal'; cell is 'sru'.*swiglu"):
        SruSettings(compatible_with="marian", cell="sru", positions="learned", activation="swiglu")
    with pytest.raises(ValueError, match="start is 5, and must be 'zero'; embedding_norm is True, and must be False"):
        TransformerSettings(compatible_with="marian", start=5, embedding_norm=True)
    with pytest.raises(ValueError, match="only the cell ssru"):
        SruSettings(cell="sru", value_bias=False)

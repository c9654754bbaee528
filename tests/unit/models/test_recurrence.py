"""Fused recurrences equal their definitions, and so do their gradients."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from seqkd.models.recurrence import gated_averages, leaky_sums
from tests.properties import examples


def numbers(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw, dtype=torch.double).requires_grad_()


def sums_by_definition(keep: Tensor, update: Tensor) -> Tensor:
    state, states = torch.zeros_like(update[:, 0]), []
    for t in range(update.size(1)):
        state = keep[:, t] * state + update[:, t]
        states.append(state)
    return torch.stack(states, dim=1)


def averages_by_definition(gate: Tensor, value: Tensor, peephole: Tensor) -> Tensor:
    state, states = torch.zeros_like(value[:, 0]), []
    for t in range(value.size(1)):
        forget = torch.sigmoid(gate[:, t] + peephole * state)
        state = forget * state + (1 - forget) * value[:, t]
        states.append(state)
    return torch.stack(states, dim=1)


@examples(20)
@given(batch=st.integers(1, 4), length=st.integers(1, 9), dim=st.integers(1, 5), seed=st.integers(0, 99))
def test_equal_their_definitions(batch: int, length: int, dim: int, seed: int) -> None:
    a, b = numbers(batch, length, dim, seed=seed), numbers(batch, length, dim, seed=seed + 1)
    v = numbers(dim, seed=seed + 2)
    torch.testing.assert_close(leaky_sums(a, b), sums_by_definition(a, b))
    torch.testing.assert_close(gated_averages(a, b, v), averages_by_definition(a, b, v))


def test_gradients() -> None:
    a, b, v = numbers(2, 5, 3), numbers(2, 5, 3, seed=1), numbers(3, seed=2)
    assert gradcheck(leaky_sums, (a, b))
    assert gradcheck(gated_averages, (a, b, v))
    assert gradcheck(leaky_sums, (a[:, :1], b[:, :1]))
    assert gradcheck(gated_averages, (a[:, :1], b[:, :1], v))


def test_views_are_read_as_what_they_show() -> None:
    both = numbers(2, 6, 8)
    keep, update = both.chunk(2, dim=-1)
    torch.testing.assert_close(leaky_sums(keep, update), leaky_sums(keep.contiguous(), update.contiguous()))
    turned = numbers(6, 2, 4).transpose(0, 1)
    torch.testing.assert_close(leaky_sums(keep, turned), sums_by_definition(keep, turned))
    torch.testing.assert_close(
        gated_averages(keep, turned, both[0, 0, :4]), averages_by_definition(keep, turned, both[0, 0, :4])
    )

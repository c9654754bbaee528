"""Elementwise recurrences over time. All products are computed before, so that a step is a few vector operations.

Backward passes are written by hand, because torch would record and replay the operations of every step.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor


def leaky_sums(keep: Tensor, update: Tensor) -> Tensor:
    """Compute `c_t = keep_t * c_{t-1} + update_t` elementwise, with `c_{-1} = 0`.

    Args:
        keep: `[batch, length, dim]`.
        update: `[batch, length, dim]`, of the same type as `keep`.

    Returns:
        `[batch, length, dim]`.
    """
    return cast(Tensor, _LeakySums.apply(keep, update))  # type: ignore[no-untyped-call]


def gated_averages(gate: Tensor, value: Tensor, peephole: Tensor) -> Tensor:
    """Compute the states of the simple recurrent unit (Lei et al. 2018, equations 1 and 2).

    They are `c_t = f_t * c_{t-1} + (1 - f_t) * value_t` with `f_t = sigmoid(gate_t + peephole * c_{t-1})` and
    `c_{-1} = 0`.

    Args:
        gate: `[batch, length, dim]`.
        value: `[batch, length, dim]`, of the same type as `gate`.
        peephole: `[dim]`.

    Returns:
        `[batch, length, dim]`.
    """
    return cast(Tensor, _GatedAverages.apply(gate, value, peephole))  # type: ignore[no-untyped-call]


class _LeakySums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keep: Tensor, update: Tensor) -> Tensor:
        states = torch.empty_like(update, memory_format=torch.contiguous_format)
        states[:, :1] = update[:, :1]
        for t in range(1, update.size(1)):
            torch.addcmul(update[:, t], keep[:, t], states[:, t - 1], out=states[:, t])
        ctx.save_for_backward(keep, states)
        return states

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        keep, states = ctx.saved_tensors
        to_update = grads[0].clone(memory_format=torch.contiguous_format)
        for t in range(keep.size(1) - 1, 0, -1):
            to_update[:, t - 1].addcmul_(keep[:, t], to_update[:, t])
        to_keep = torch.zeros_like(to_update)
        torch.mul(to_update[:, 1:], states[:, :-1], out=to_keep[:, 1:])
        return to_keep, to_update


class _GatedAverages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, value: Tensor, peephole: Tensor) -> Tensor:
        states = torch.empty_like(value, memory_format=torch.contiguous_format)
        keep = torch.empty_like(states)
        before = torch.zeros_like(value[:, 0])
        for t in range(value.size(1)):
            torch.addcmul(gate[:, t], before, peephole, out=keep[:, t]).sigmoid_()
            torch.lerp(value[:, t], before, keep[:, t], out=states[:, t])
            before = states[:, t]
        ctx.save_for_backward(keep, value, peephole, states)
        return states

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keep, value, peephole, states = ctx.saved_tensors
        # `slope` is the derivative of a state by its gate. Its gradient also needs that of the state, which depends on
        # the steps after it and is computed in the loop.
        before = torch.zeros_like(states)
        before[:, 1:] = states[:, :-1]
        slope = (before - value).mul_(keep).mul_(1 - keep)
        through = torch.addcmul(keep, slope, peephole)
        to_states = grads[0].clone(memory_format=torch.contiguous_format)
        for t in range(value.size(1) - 1, 0, -1):
            to_states[:, t - 1].addcmul_(through[:, t], to_states[:, t])
        to_gate = slope.mul_(to_states)
        return to_gate, to_states.mul_(1 - keep), (to_gate * before).flatten(0, 1).sum(0).to(peephole.dtype)

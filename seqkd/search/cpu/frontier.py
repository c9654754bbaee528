"""The step of beam search as one call: torch would dispatch some forty small operations for it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

_NUMBERS = ("slots", "beam", "max_target", "eos", "pad", "exact", "favours_length")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierNumbers:
    """What does not change between steps; the names are those of `Frontier` and its settings.

    Attributes:
        slots: Sentences.
        beam: Hypotheses of each.
        max_target: Steps that there is room for.
        eos: End of sentence.
        pad: Padding, which is never continued with.
        exact: Whether the search goes on until no live hypothesis can beat the finished ones.
        favours_length: Whether longer outputs can have better scores for the same log-probability.
    """

    slots: int
    beam: int
    max_target: int
    eos: int
    pad: int
    exact: bool
    favours_length: bool


class NativeFrontier:
    """Tensors of a `Frontier` on the CPU, bound to the kernel that steps them in place.

    Args:
        kernels: From `seqkd.kernels.decoding.kernels`.
        numbers: See there.
        tensors: All contiguous, in the kernel's order: live, last, tokens, parents, positions, minimums, limits, count,
            done, bad, then scores, logprobs, steps, parents and forced of the finished ones, then `[lengths]` float32,
            what a log-probability of that many tokens is divided by.
    """

    def __init__(self, kernels: ctypes.CDLL, numbers: FrontierNumbers, tensors: list[Tensor]) -> None:
        assert all(tensor.is_contiguous() for tensor in tensors)
        self._kernels, self._tensors = kernels, tensors  # held: the kernel knows their addresses only
        self._shape = (numbers.slots, numbers.beam)
        values = [int(getattr(numbers, name)) for name in _NUMBERS] + [tensor.data_ptr() for tensor in tensors]
        self._state = (ctypes.c_int64 * len(values))(*values)

    def advance(self, lse: Tensor, values: Tensor, ids: Tensor, eos: Tensor) -> Tensor:
        """One step.

        Args:
            lse: `[slots, beam]` float32.
            values: `[slots, beam, count]` float32.
            ids: `[slots, beam, count]` int64.
            eos: `[slots, beam]` float32.

        Returns:
            Parents `[slots, beam]` int64.
        """
        parents = torch.empty(self._shape, dtype=torch.long)
        inputs = [tensor.contiguous() for tensor in (lse, values, ids, eos)]
        self._kernels.seqkd_frontier_advance(
            self._state, ids.size(-1), *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (*inputs, parents))
        )
        return parents

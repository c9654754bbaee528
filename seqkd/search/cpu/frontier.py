"""The step of beam search as one call of a C++ kernel, where torch would dispatch some forty small operations."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

_NUMBERS = ("slots", "beam", "max_target", "eos", "pad", "exact", "favours_length")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierNumbers:
    """The numbers that do not change between steps.

    Attributes:
        slots: Number of sentences.
        beam: Hypotheses of each sentence.
        max_target: Number of target positions in the tensors.
        eos: Id of end of sentence.
        pad: Id of padding, which never continues a hypothesis.
        exact: Whether the search continues until no live hypothesis can beat the finished ones.
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
    """The tensors of a `Frontier` on the CPU, bound to the kernel that changes them in place.

    Args:
        kernels: The library that `seqkd.kernels.decoding.kernels` returns.
        numbers: See `FrontierNumbers`.
        tensors: Contiguous tensors in the kernel's order: live, last, tokens, parents, positions, minimums, limits,
            count, done, bad; then scores, logprobs, steps, parents and forced of the finished hypotheses; then
            `[lengths]` float32, the divisor of a log-probability for each number of tokens.
    """

    def __init__(self, kernels: ctypes.CDLL, numbers: FrontierNumbers, tensors: list[Tensor]) -> None:
        assert all(tensor.is_contiguous() for tensor in tensors)
        self._kernels, self._tensors = kernels, tensors  # kept alive: the kernel only has their addresses
        self._shape = (numbers.slots, numbers.beam)
        values = [int(getattr(numbers, name)) for name in _NUMBERS] + [tensor.data_ptr() for tensor in tensors]
        self._state = (ctypes.c_int64 * len(values))(*values)

    def advance(self, lse: Tensor, values: Tensor, ids: Tensor, eos: Tensor) -> Tensor:
        """Take one step, as `Frontier.advance` does.

        Args:
            lse: `[slots, beam]` float32; see `RowCandidates`.
            values: `[slots, beam, count]` float32.
            ids: `[slots, beam, count]` int64.
            eos: `[slots, beam]` float32.

        Returns:
            Parents `[slots, beam]` int64 of the new live hypotheses.
        """
        parents = torch.empty(self._shape, dtype=torch.long)
        inputs = [tensor.contiguous() for tensor in (lse, values, ids, eos)]
        self._kernels.seqkd_frontier_advance(
            self._state, ids.size(-1), *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (*inputs, parents))
        )
        return parents

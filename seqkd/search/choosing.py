"""How continuations are chosen from a model's logits: in torch, or with Triton kernels on CUDA devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from seqkd.search.candidates import RowCandidates, top_candidates
from seqkd.search.frontier import Frontier
from seqkd.search.gpu.requirements import kernels_on
from seqkd.search.sampling import Draw, draw


@dataclass(frozen=True, slots=True, kw_only=True)
class Choosing:
    """The parts of a step that follow the model's own, for models that do not take the step themselves.

    Attributes:
        candidates: Reduces logits `[slots, beam, vocab]`, given the number of candidates and the id of end of sentence;
            see `top_candidates`.
        advance: Takes the step of a frontier and returns the parents; see `Frontier.advance`.
        draw: Draws samples; see `seqkd.search.sampling.draw`.
    """

    candidates: Callable[[Tensor, int, int], RowCandidates]
    advance: Callable[[Frontier, RowCandidates], Tensor]
    draw: Draw


TORCH = Choosing(candidates=top_candidates, advance=Frontier.advance, draw=draw)


def choosing_on(device: torch.device, *, runs_on: Callable[[torch.device], bool] = kernels_on) -> Choosing:
    """Return the fastest functions for a device. `runs_on` tells whether Triton kernels run there."""
    if not runs_on(device):
        return TORCH
    from seqkd.search.gpu.choosing import TRITON  # Triton may be missing elsewhere

    return TRITON

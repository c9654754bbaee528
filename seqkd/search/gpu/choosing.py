"""The functions of `seqkd.search.choosing` as Triton kernels, for any model's logits."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from seqkd.search.candidates import RowCandidates
from seqkd.search.choosing import Choosing
from seqkd.search.frontier import Frontier
from seqkd.search.gpu.frontier import advance
from seqkd.search.gpu.output import candidates
from seqkd.search.gpu.sampling import draw


def _on(tensor: Tensor) -> AbstractContextManager[object]:
    """Make the device of a tensor the current one, on which Triton launches kernels."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def choose_candidates(logits: Tensor, count: int, eos_id: int) -> RowCandidates:
    """See `Choosing.candidates`."""
    slots, beam, _ = logits.shape
    with _on(logits):
        found = candidates(logits.flatten(0, 1).contiguous(), count, eos_id)
    fields = (found.lse, found.values, found.ids, found.eos)
    return RowCandidates(*(field.view(slots, beam, *field.shape[1:]) for field in fields))


def take_step(frontier: Frontier, candidates: RowCandidates) -> Tensor:
    """See `Choosing.advance`."""
    parents = torch.empty_like(frontier.last)
    with _on(parents):
        advance(frontier, candidates, parents)
    return parents


def draw_tokens(logprobs: Tensor, numbers: Tensor, *, count: int, mass: float) -> Tensor:
    """See `Choosing.draw`."""
    with _on(logprobs):
        return draw(logprobs, numbers, count=count, mass=mass)


TRITON = Choosing(candidates=choose_candidates, advance=take_step, draw=draw_tokens)

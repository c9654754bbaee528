"""What a step of beam search reads and writes: tensors that stay where they are while sentences come and go.

They are changed in place and nothing else: a CUDA graph knows their addresses only, and so does the CPU's kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqkd.search.constraints import NEVER, Clock


@dataclass(slots=True)
class FinishedHypotheses:
    """Finished hypotheses of all slots; column `beam` is where rejected ones are written.

    Attributes:
        scores: `[slots, beam + 1]` float32, length-normalised.
        logprobs: `[slots, beam + 1]` float32.
        steps: `[slots, beam + 1]` int64: position at which the end of sentence was chosen.
        parents: `[slots, beam + 1]` int64: the hypothesis that it ended.
        forced: `[slots, beam + 1]` bool.
    """

    scores: Tensor
    logprobs: Tensor
    steps: Tensor
    parents: Tensor
    forced: Tensor

    def columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """All of it, in the order of the fields."""
        return self.scores, self.logprobs, self.steps, self.parents, self.forced


@dataclass(slots=True)
class FrontierState:
    """Live and finished hypotheses of `slots` sentences. All tensors are contiguous, one row a slot.

    Attributes:
        live: `[slots, beam]` float32: log-probabilities of the live hypotheses, -inf where there is none.
        last: `[slots, beam]` int64: the newest token of each.
        tokens: `[slots, max_target, beam]` int64: what each position's hypotheses were continued by.
        parents: `[slots, max_target, beam]` int64: and which ones they continued.
        clock: Where each sentence stands.
        count: `[slots]` int64: finished hypotheses, at most `beam`.
        done: `[slots]` bool: nothing more will change here.
        bad: `[slots]` bool: the model returned logits that are NaN or infinite.
        finished: The finished hypotheses.
    """

    live: Tensor
    last: Tensor
    tokens: Tensor
    parents: Tensor
    clock: Clock
    count: Tensor
    done: Tensor
    bad: Tensor
    finished: FinishedHypotheses

    @classmethod
    def idle(cls, slots: int, beam: int, max_target: int, device: torch.device) -> FrontierState:
        """All slots done; the first token of the vocabulary stands where there is none yet."""

        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        def never(*shape: int) -> Tensor:
            return torch.full(shape, NEVER, device=device)

        return cls(
            live=never(slots, beam),
            last=zeros(slots, beam),
            tokens=zeros(slots, max_target, beam),
            parents=zeros(slots, max_target, beam),
            clock=Clock.idle(slots, device),
            count=zeros(slots),
            done=torch.ones(slots, dtype=torch.bool, device=device),
            bad=zeros(slots, dtype=torch.bool),
            finished=FinishedHypotheses(
                scores=never(slots, beam + 1),
                logprobs=never(slots, beam + 1),
                steps=zeros(slots, beam + 1),
                parents=zeros(slots, beam + 1),
                forced=zeros(slots, beam + 1, dtype=torch.bool),
            ),
        )

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> FrontierState:
        """From what `fields` gives."""
        live, last, tokens, parents, positions, minimums, limits, count, done, bad = tensors[:10]
        clock = Clock(positions, minimums, limits)
        return cls(live, last, tokens, parents, clock, count, done, bad, FinishedHypotheses(*tensors[10:]))

    def fields(self) -> list[Tensor]:
        """All tensors, in the order in which the kernels take them."""
        clock = (self.clock.positions, self.clock.minimums, self.clock.limits)
        live = (self.live, self.last, self.tokens, self.parents)
        return [*live, *clock, self.count, self.done, self.bad, *self.finished.columns()]

    def first(self, slots: int) -> FrontierState:
        """The same tensors, of the first slots alone."""
        return self.of([field[:slots] for field in self.fields()])

    def select_slots(self, slots: Tensor) -> FrontierState:
        """Move these slots, `[n]` int64, to the front, in this order; the places behind them are idle."""
        count = len(slots)
        for field in self.fields():
            field[:count] = field[slots]
        self.done[count:] = True
        return self.first(count)

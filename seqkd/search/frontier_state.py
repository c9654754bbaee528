"""The tensors that a step of beam search reads and writes. They stay in place while sentences come and go.

The tensors are only changed in place, because a CUDA graph and the CPU kernel hold their addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqkd.search.constraints import NEVER, Clock


@dataclass(slots=True)
class FinishedHypotheses:
    """Finished hypotheses of all slots. The last column, `beam`, receives the rejected ones.

    Attributes:
        scores: `[slots, beam + 1]` float32, length-normalised.
        logprobs: `[slots, beam + 1]` float32.
        steps: `[slots, beam + 1]` int64: position of the end of sentence.
        parents: `[slots, beam + 1]` int64: the live hypothesis that ended.
        forced: `[slots, beam + 1]` bool: the end of sentence was forced at the limit.
    """

    scores: Tensor
    logprobs: Tensor
    steps: Tensor
    parents: Tensor
    forced: Tensor

    def columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return all tensors in the order of the fields."""
        return self.scores, self.logprobs, self.steps, self.parents, self.forced


@dataclass(slots=True)
class FrontierState:
    """Live and finished hypotheses of `slots` sentences. All tensors are contiguous, with one row for each slot.

    Attributes:
        live: `[slots, beam]` float32: log-probabilities of the live hypotheses, -inf for a missing hypothesis.
        last: `[slots, beam]` int64: the newest token of each live hypothesis.
        tokens: `[slots, max_target, beam]` int64: the token that each hypothesis received at each position.
        parents: `[slots, max_target, beam]` int64: the hypothesis of the previous position that it continued.
        clock: The position of each sentence.
        count: `[slots]` int64: number of finished hypotheses, at most `beam`.
        done: `[slots]` bool: the sentence is finished, and its results no longer change.
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
        """Return a state whose slots are all done. Places without a token hold id 0."""

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
        """Build a state from the tensors that `fields` returns."""
        live, last, tokens, parents, positions, minimums, limits, count, done, bad = tensors[:10]
        clock = Clock(positions, minimums, limits)
        return cls(live, last, tokens, parents, clock, count, done, bad, FinishedHypotheses(*tensors[10:]))

    def fields(self) -> list[Tensor]:
        """Return all tensors in the order that the kernels expect."""
        clock = (self.clock.positions, self.clock.minimums, self.clock.limits)
        live = (self.live, self.last, self.tokens, self.parents)
        return [*live, *clock, self.count, self.done, self.bad, *self.finished.columns()]

    def first(self, slots: int) -> FrontierState:
        """Return views of the first `slots` slots."""
        return self.of([field[:slots] for field in self.fields()])

    def select_slots(self, slots: Tensor) -> FrontierState:
        """Move these slots, `[n]` int64, to the front, in this order, and return views of them.

        The slots behind them are marked as done.
        """
        count = len(slots)
        for field in self.fields():
            field[:count] = field[slots]
        self.done[count:] = True
        return self.first(count)

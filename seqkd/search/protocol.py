"""The interface of models that beam search uses.

The search decodes a fixed number of *slots*, one sentence each, with `beam` hypotheses a slot. A finished sentence
frees its slot for a waiting one, so slots are at different target positions, and the model keeps one position for each
slot. Caches are never copied to reorder beams: after each step the search passes the parent of each beam, which the
model follows.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from seqkd.search.frontier import Frontier
from seqkd.search.settings import BeamSettings


class SearchModel(Protocol):
    """A model that decodes left to right: a Transformer, an RNN, an ensemble, an imported teacher."""

    target_vocab: int
    pad_id: int
    eos_id: int
    unk_id: int
    start_id: int
    max_positions: int
    device: torch.device

    def new_state(self, slots: int, beam: int, max_source: int, max_target: int) -> Any:
        """Make empty caches for `slots` sentences of at most `max_source` tokens and `max_target` steps."""
        ...

    def admit(self, state: Any, slots: Tensor, source: Tensor) -> None:
        """Encode sentences into slots and set these slots to target position 0.

        Args:
            state: The result of `new_state`.
            slots: `[n]` int64 slot numbers, on the host. `seqkd.search.pace.send` copies them to the device without
                waiting for it.
            source: `[n, length]` ids with end of sentence, padded on the right, on the model's device.
        """
        ...

    def step(self, state: Any, tokens: Tensor) -> Tensor:
        """Read one token per hypothesis and advance every slot by one position.

        Args:
            state: The result of `new_state`.
            tokens: `[slots, beam]` int64: the last token of each hypothesis.

        Returns:
            Logits or log-probabilities `[slots, beam, target_vocab]` of any float type.
        """
        ...

    def reorder(self, state: Any, parents: Tensor) -> None:
        """Continue beam j of slot s from the hypothesis `parents[s, j]`, `[slots, beam]` int64."""
        ...

    def release(self, state: Any, slots: Tensor) -> None:
        """Release finished slots, `[n]` int64 on the host.

        Results for them are ignored until they are admitted again.
        """
        ...

    def shrink(self, state: Any, slots: Tensor) -> None:
        """Keep only these slots, `[n]` int64 on the host, in this order."""
        ...


@runtime_checkable
class FusedSearchModel(Protocol):
    """A model that can also reduce its output layer, so that logits are never written to memory."""

    def step_candidates(
        self, state: Any, tokens: Tensor, count: int, live: Tensor | None = None, closing: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Take a step as `SearchModel.step` does, and reduce the logits.

        Args:
            state: The result of `new_state`.
            tokens: `[slots, beam]` int64: the last token of each hypothesis.
            count: Number of continuations of each hypothesis.
            live: `[slots, beam]` float32, the scores of the hypotheses before this step. If it is given, the end of a
                row or a whole row may be omitted (as logits of -inf) if at least `beam` continuations of its sentence
                other than padding and end of sentence score better: the search continues with at most that many, and
                an end of sentence counts only if it ranks among them. The log-sum-exp of an omitted row is 0.
            closing: `[slots]` bool, sentences whose hypotheses all end with this step. None of them may be omitted.

        Returns:
            Log-sum-exp `[slots, beam]`, the `count` largest logits `[slots, beam, count]` in descending order (ties to
            the lower id), their ids (int64), and the logit of end of sentence `[slots, beam]`; floats are float32.
        """
        ...


@runtime_checkable
class RoundingModel(Protocol):
    """A model whose caches have few widths, so that batches of all lengths share what is prepared for a width."""

    def cache_width(self, width: int) -> int:
        """Return the source tokens for which caches have room if the longest sentence has `width` of them."""
        ...


@runtime_checkable
class SteppingModel(Protocol):
    """A model that can also take the step of the search on its own device, at the end of its own step.

    The chosen tokens are then in place for the next step.
    """

    def frontier(self, state: Any, settings: BeamSettings) -> Frontier:
        """Return the frontier of this state's idle slots, at the addresses that `advance` uses."""
        ...

    def advance(self, state: Any, frontier: Frontier) -> None:
        """Do `step_candidates`, `Frontier.advance` and `reorder` in one call.

        Args:
            state: The result of `new_state`.
            frontier: The result of `frontier`. It must be shrunk whenever the state is.
        """
        ...

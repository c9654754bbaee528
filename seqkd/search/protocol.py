"""What beam search asks of a model.

The search decodes a fixed number of *slots*, one sentence each, with `beam` hypotheses a slot. A sentence that is done
frees its slot and a waiting one moves in, so slots stand at different target positions; the model keeps one position a
slot. Caches are never copied to reorder beams: after each step the search says which hypothesis each beam continues,
and the model follows those parents.
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
        """Caches for `slots` sentences of at most `max_source` tokens and `max_target` steps; nothing admitted yet."""
        ...

    def admit(self, state: Any, slots: Tensor, source: Tensor) -> None:
        """Encode sentences into slots and put those at target position 0.

        Args:
            state: From `new_state`.
            slots: `[n]` int64 slot numbers.
            source: `[n, length]` ids with end of sentence, padded on the right.
        """
        ...

    def step(self, state: Any, tokens: Tensor) -> Tensor:
        """Read one token per hypothesis and move every slot one position on.

        Args:
            state: From `new_state`.
            tokens: `[slots, beam]` int64: the last token of each hypothesis.

        Returns:
            Logits `[slots, beam, target_vocab]`, or log-probabilities; any float type.
        """
        ...

    def reorder(self, state: Any, parents: Tensor) -> None:
        """Beam j of slot s goes on from the hypothesis `parents[s, j]`, `[slots, beam]` int64."""
        ...

    def release(self, state: Any, slots: Tensor) -> None:
        """These slots, `[n]` int64, are done; until they are admitted again, what is returned for them is ignored."""
        ...

    def shrink(self, state: Any, slots: Tensor) -> None:
        """Keep only these slots, `[n]` int64, in this order."""
        ...


@runtime_checkable
class FusedSearchModel(Protocol):
    """A model that can also reduce its own output layer, so that logits are never written to memory."""

    def step_candidates(
        self, state: Any, tokens: Tensor, count: int, live: Tensor | None = None, closing: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `SearchModel.step`, reduced.

        Args:
            state: From `new_state`.
            tokens: As `SearchModel.step`.
            count: Continuations wanted of each hypothesis.
            live: `[slots, beam]` float32, the hypotheses' scores before this step. Where it is given, the end of a row,
                or all of it, may be left out, as logits of -inf, if at least `beam` continuations of its sentence, no
                padding and no end of sentence among them, score better than what is left out: the search goes on with
                that many at most, and lets an end of sentence count only if it ranks among them. The log-sum-exp of a
                row that is left out is 0.
            closing: `[slots]` bool, sentences whose hypotheses all end with this step: none of them may be left out.

        Returns:
            Log-sum-exp `[slots, beam]`, the `count` largest logits `[slots, beam, count]` in descending order (ties to
            the lower id), their ids (int64), and the logit of end of sentence `[slots, beam]`; floats are float32.
        """
        ...


@runtime_checkable
class SteppingModel(Protocol):
    """A model that can also take the search's step at the end of its own, where its caches are.

    Nothing then lies between two steps: what was chosen is in place for the next one.
    """

    def frontier(self, state: Any, settings: BeamSettings) -> Frontier:
        """The frontier of this state's slots, at the addresses that `advance` works on; all of them idle."""
        ...

    def advance(self, state: Any, frontier: Frontier) -> None:
        """`step_candidates`, `Frontier.advance` and `reorder` in one.

        Args:
            state: From `new_state`.
            frontier: From `frontier`, shrunk whenever the state was.
        """
        ...

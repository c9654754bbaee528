"""A `SummaryGru` one target position at a time: what a hypothesis remembers is one vector."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seqkd.search.pace import send
from seqkd_plugins.architecture import SummaryGru


@dataclass(slots=True)
class State:
    """What a decode remembers.

    Attributes:
        cells: `[slots, beam, dim]`.
    """

    cells: Tensor


class IncrementalSummaryGru:
    """Lets search drive a `SummaryGru`; see `seqkd.search.protocol.SearchModel` for the meaning of the methods."""

    def __init__(self, model: SummaryGru) -> None:
        self.model = model.eval()
        self.target_vocab = model.target_vocab
        self.pad_id, self.eos_id, self.unk_id = model.pad_id, model.eos_id, model.unk_id
        self.start_id, self.max_positions = model.start_id, model.max_positions
        self.device = model.output_weight.device

    def new_state(self, slots: int, beam: int, max_source: int, max_target: int) -> State:  # noqa: ARG002
        """See `SearchModel.new_state`."""
        return State(self.model.output_weight.new_zeros(slots, beam, self.model.dim))

    @torch.inference_mode()
    def admit(self, state: State, slots: Tensor, source: Tensor) -> None:
        """See `SearchModel.admit`."""
        state.cells[send(slots, self.device)] = self.model.open(source, self.model.encode(source)).unsqueeze(1)

    @torch.inference_mode()
    def step(self, state: State, tokens: Tensor) -> Tensor:
        """See `SearchModel.step`."""
        read = self.model.target_embedding(tokens).flatten(0, 1).unsqueeze(1)
        features, after = self.model.cell(read, state.cells.flatten(0, 1).unsqueeze(0).contiguous())
        state.cells = after.view_as(state.cells)
        logits: Tensor = self.model.project(features)
        return logits.view(*tokens.shape, -1)

    @torch.inference_mode()
    def reorder(self, state: State, parents: Tensor) -> None:
        """See `SearchModel.reorder`."""
        state.cells = state.cells.gather(1, parents.unsqueeze(-1).expand(-1, -1, self.model.dim))

    def release(self, state: State, slots: Tensor) -> None:
        """See `SearchModel.release`."""

    @torch.inference_mode()
    def shrink(self, state: State, slots: Tensor) -> None:
        """See `SearchModel.shrink`."""
        state.cells = state.cells[send(slots, self.device)]

"""Decoding with an `Lstm` one target position at a time, for search."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from seqkd.models.lstm import CarriedState, Lstm
from seqkd.search.pace import send


@dataclass(slots=True, kw_only=True)
class LstmState:
    """The state of a decode.

    Attributes:
        carried: `[2 * layers + 1, slots * beam, dim]`, float32 or wider: the layers' cells, their outputs and the
            features of the last step, in one tensor so that beams move in one copy.
        keys: `[slots, max_source, dim]`.
        values: `[slots, max_source, dim]`.
        mask: `[slots, 1, max_source]`: 0 at real tokens, -inf elsewhere.
        source_lengths: `[slots]` on the host: width of the source batch with which each slot was filled.
    """

    carried: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor
    source_lengths: Tensor


class IncrementalLstm:
    """Lets search drive an `Lstm`; see `seqkd.search.protocol.SearchModel` for the meaning of the methods."""

    def __init__(self, model: Lstm) -> None:
        self.model = model.eval()
        self.layers = model.decoder.layers
        self.target_vocab = model.target_vocab
        self.pad_id, self.eos_id, self.unk_id = model.pad_id, model.eos_id, model.unk_id
        self.start_id, self.max_positions = model.start_id, model.max_positions
        self.device = model.output_weight.device
        self.dtype = model.output_weight.dtype

    def new_state(self, slots: int, beam: int, max_source: int, max_target: int) -> LstmState:  # noqa: ARG002
        """See `SearchModel.new_state`."""
        dim, device = self.model.dim, self.device
        wide = torch.promote_types(self.dtype, torch.float32)
        mask = torch.full((slots, 1, max_source), -math.inf, dtype=self.dtype, device=device)
        mask[..., 0] = 0  # one visible (zero) key keeps the softmax of an empty slot finite
        return LstmState(
            carried=torch.zeros(2 * self.layers + 1, slots * beam, dim, dtype=wide, device=device),
            keys=torch.zeros(slots, max_source, dim, dtype=self.dtype, device=device),
            values=torch.zeros(slots, max_source, dim, dtype=self.dtype, device=device),
            mask=mask,
            source_lengths=torch.ones(slots, dtype=torch.long),
        )

    @torch.inference_mode()
    def admit(self, state: LstmState, slots: Tensor, source: Tensor) -> None:
        """See `SearchModel.admit`."""
        model, width, there = self.model, source.size(1), send(slots, self.device)
        memory, lengths = model.encode(source), model.lengths(source)
        keys, values = model.decoder.keys_values(memory)
        state.keys[there, :width] = keys
        state.values[there, :width] = values
        places = torch.arange(state.mask.size(-1), device=self.device)
        state.mask[there] = torch.where(places < lengths[:, None, None], 0.0, -math.inf).to(self.dtype)
        cells = model.decoder.first_cells(memory, lengths)[:, :, None].to(state.carried.dtype)
        carried = self._by_slot(state)
        carried[: self.layers, there] = cells
        carried[self.layers : -1, there] = cells.tanh()
        # index_fill_ passes its value with the kernel launch; an assignment would copy it to the device.
        carried[-1].index_fill_(0, there, 0)
        state.source_lengths[slots] = width

    def _by_slot(self, state: LstmState) -> Tensor:
        """Return a view of `carried` as `[2 * layers + 1, slots, beam, dim]`."""
        return state.carried.view(len(state.carried), len(state.keys), -1, self.model.dim)

    @torch.inference_mode()
    def step(self, state: LstmState, tokens: Tensor) -> Tensor:
        """See `SearchModel.step`."""
        model, width = self.model, int(state.source_lengths.max())
        x = functional.embedding(tokens, model.target_embedding) * model.scale
        before = CarriedState(state.carried[: self.layers], state.carried[self.layers : -1], state.carried[-1])
        mask = state.mask[..., :width]
        after = model.decoder.step(x, before, state.keys[:, :width], state.values[:, :width], mask)
        state.carried = torch.cat((after.cells, after.outputs, after.features[None]))
        return model.project(after.features.to(self.dtype).view(*tokens.shape, -1))

    @torch.inference_mode()
    def reorder(self, state: LstmState, parents: Tensor) -> None:
        """See `SearchModel.reorder`."""
        slots, beam = parents.shape
        if beam > 1:
            rows = parents + torch.arange(0, slots * beam, beam, device=self.device)[:, None]
            state.carried = state.carried.index_select(1, rows.flatten())

    @torch.inference_mode()
    def release(self, state: LstmState, slots: Tensor) -> None:
        """See `SearchModel.release`. The width of a free slot is reset, so that steps read no more keys than needed."""
        state.source_lengths[slots] = 1

    @torch.inference_mode()
    def shrink(self, state: LstmState, slots: Tensor) -> None:
        """See `SearchModel.shrink`."""
        there = send(slots, self.device)
        state.carried = self._by_slot(state)[:, there].flatten(1, 2)
        state.keys, state.values, state.mask = state.keys[there], state.values[there], state.mask[there]
        state.source_lengths = state.source_lengths[slots]

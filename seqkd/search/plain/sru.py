"""Decoding with an `Sru` one target position at a time, for search. A hypothesis keeps one vector for each layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seqkd.models.sru import RecurrentLayer, Sru
from seqkd.search.pace import send


@dataclass(slots=True, kw_only=True)
class SruState:
    """The state of a decode.

    Attributes:
        positions: `[slots, 1]` int64, tokens read so far.
        cells: `[slots, beam, layers * dim]`, float32 or wider: all layers in one row, so that beams move in one copy.
        cross_keys: For each layer `[slots, heads, max_source, head_dim]`.
        cross_values: For each layer `[slots, heads, max_source, head_dim]`.
        source_mask: `[slots, 1, 1, max_source]`, True at real tokens.
        source_lengths: `[slots]` on the host: width of the source batch with which each slot was filled.
    """

    positions: Tensor
    cells: Tensor
    cross_keys: list[Tensor]
    cross_values: list[Tensor]
    source_mask: Tensor
    source_lengths: Tensor


class IncrementalSru:
    """Lets search drive an `Sru`; see `seqkd.search.protocol.SearchModel` for the meaning of the methods."""

    def __init__(self, model: Sru) -> None:
        self.model = model.eval()
        self.target_vocab = model.target_vocab
        self.pad_id, self.eos_id, self.unk_id = model.pad_id, model.eos_id, model.unk_id
        self.start_id, self.max_positions = model.start_id, model.max_positions
        self.device = model.output_weight.device
        self.dtype = model.output_weight.dtype

    def new_state(self, slots: int, beam: int, max_source: int, max_target: int) -> SruState:  # noqa: ARG002
        """See `SearchModel.new_state`."""
        model, layers, device = self.model, len(self.model.decoder), self.device
        shape = (slots, model.heads, max_source, model.dim // model.heads)
        wide = torch.promote_types(self.dtype, torch.float32)
        return SruState(
            positions=torch.zeros(slots, 1, dtype=torch.long, device=device),
            cells=torch.zeros(slots, beam, layers * model.dim, dtype=wide, device=device),
            cross_keys=[torch.zeros(shape, dtype=self.dtype, device=device) for _ in range(layers)],
            cross_values=[torch.zeros(shape, dtype=self.dtype, device=device) for _ in range(layers)],
            # One visible (zero) key keeps the softmax of an empty slot finite.
            source_mask=torch.arange(max_source, device=device).eq(0).expand(slots, 1, 1, -1).clone(),
            source_lengths=torch.ones(slots, dtype=torch.long),
        )

    @torch.inference_mode()
    def admit(self, state: SruState, slots: Tensor, source: Tensor) -> None:
        """See `SearchModel.admit`."""
        memory = self.model.encode(source)
        width, there = source.size(1), send(slots, self.device)
        for index, layer in enumerate(self.model.decoder):
            assert isinstance(layer, RecurrentLayer)
            key, value = layer.cross.keys_values(memory)
            state.cross_keys[index][there, :, :width] = key
            state.cross_values[index][there, :, :width] = value
        # index_fill_ passes its value with the kernel launch; an assignment would copy it to the device.
        for field in (state.source_mask, state.positions, state.cells):
            field.index_fill_(0, there, 0)
        state.source_mask[there, ..., :width] = self.model.memory_mask(source)
        state.source_lengths[slots] = width

    @torch.inference_mode()
    def step(self, state: SruState, tokens: Tensor) -> Tensor:
        """See `SearchModel.step`."""
        model = self.model
        width = int(state.source_lengths.max())
        mask = state.source_mask[..., :width]
        x = model.embed_target(tokens, state.positions)
        for index, layer in enumerate(model.decoder):
            assert isinstance(layer, RecurrentLayer)
            cell = state.cells[..., index * model.dim : (index + 1) * model.dim]
            key, value = state.cross_keys[index][:, :, :width], state.cross_values[index][:, :, :width]
            x, after = layer.step(x, cell, key, value, mask)
            cell.copy_(after)
        # Slots of finished sentences keep advancing until they are refilled; the clamp keeps them within the table.
        state.positions.add_(1).clamp_(max=model.max_positions - 1)
        return model.project(model.decoder_norm(x))

    @torch.inference_mode()
    def reorder(self, state: SruState, parents: Tensor) -> None:
        """See `SearchModel.reorder`."""
        slots, beam = parents.shape
        if beam > 1:
            rows = parents + torch.arange(0, slots * beam, beam, device=self.device)[:, None]
            state.cells = state.cells.flatten(0, 1).index_select(0, rows.flatten()).view_as(state.cells)

    @torch.inference_mode()
    def release(self, state: SruState, slots: Tensor) -> None:
        """See `SearchModel.release`. The width of a free slot is reset, so that steps read no more keys than needed."""
        state.source_lengths[slots] = 1

    @torch.inference_mode()
    def shrink(self, state: SruState, slots: Tensor) -> None:
        """See `SearchModel.shrink`."""
        there = send(slots, self.device)
        for group in (state.cross_keys, state.cross_values):
            for index, buffer in enumerate(group):
                group[index] = buffer[there]
        state.positions, state.cells = state.positions[there], state.cells[there]
        state.source_mask = state.source_mask[there]
        state.source_lengths = state.source_lengths[slots]

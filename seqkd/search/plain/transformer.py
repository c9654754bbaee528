"""Decoding with a Transformer one target position at a time, for search, in plain torch on any device.

The keys and values of all beams of a sentence are in one cache, whose entries are written once and never copied. A
small table of ancestors tells which entries a hypothesis may see. Attention reads the entries of all beams and masks
those of other hypotheses, so that the beams are additional queries of one product, in self-attention and in
cross-attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from seqkd.models.transformer import DecoderLayer, Transformer, merge_heads, split_heads
from seqkd.search.pace import send


@dataclass(slots=True, kw_only=True)
class TransformerState:
    """Caches of a decode.

    Attributes:
        positions: `[slots]` int64, tokens read so far.
        ancestors: `[slots, beam, max_target]` int64: the beam that wrote position p of hypothesis k.
        keys: For each layer `[slots, max_target, beam, dim]`.
        values: For each layer `[slots, max_target, beam, dim]`.
        cross_keys: For each layer `[slots, heads, max_source, head_dim]`.
        cross_values: For each layer `[slots, heads, max_source, head_dim]`.
        source_mask: `[slots, 1, 1, max_source]`, True at real tokens.
        host_positions: A copy of `positions` on the host, so that no step waits for the device.
        source_lengths: `[slots]` on the host: width of the source batch with which each slot was filled.
    """

    positions: Tensor
    ancestors: Tensor
    keys: list[Tensor]
    values: list[Tensor]
    cross_keys: list[Tensor]
    cross_values: list[Tensor]
    source_mask: Tensor
    host_positions: Tensor
    source_lengths: Tensor


class IncrementalTransformer:
    """Lets search drive a `Transformer`; see `seqkd.search.protocol.SearchModel` for the meaning of the methods."""

    def __init__(self, model: Transformer) -> None:
        self.model = model.eval()
        self.target_vocab = model.target_vocab
        self.pad_id, self.eos_id, self.unk_id = model.pad_id, model.eos_id, model.unk_id
        self.start_id, self.max_positions = model.start_id, model.max_positions
        self.device = model.output_weight.device
        self.dtype = model.output_weight.dtype

    def new_state(self, slots: int, beam: int, max_source: int, max_target: int) -> TransformerState:
        """See `SearchModel.new_state`."""
        model, layers = self.model, len(self.model.decoder)
        head_dim = model.dim // model.heads

        def buffers(*shape: int) -> list[Tensor]:
            return [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in range(layers)]

        return TransformerState(
            positions=torch.zeros(slots, dtype=torch.long, device=self.device),
            ancestors=torch.zeros(slots, beam, max_target, dtype=torch.long, device=self.device),
            keys=buffers(slots, max_target, beam, model.dim),
            values=buffers(slots, max_target, beam, model.dim),
            cross_keys=buffers(slots, model.heads, max_source, head_dim),
            cross_values=buffers(slots, model.heads, max_source, head_dim),
            # One visible (zero) key keeps the softmax of an empty slot finite.
            source_mask=torch.arange(max_source, device=self.device).eq(0).expand(slots, 1, 1, -1).clone(),
            host_positions=torch.zeros(slots, dtype=torch.long),
            source_lengths=torch.ones(slots, dtype=torch.long),
        )

    @torch.inference_mode()
    def admit(self, state: TransformerState, slots: Tensor, source: Tensor) -> None:
        """See `SearchModel.admit`."""
        memory = self.model.encode(source)
        width, there = source.size(1), send(slots, self.device)
        for index, layer in enumerate(self.model.decoder):
            assert isinstance(layer, DecoderLayer)
            key, value = layer.cross.keys_values(memory)
            state.cross_keys[index][there, :, :width] = key
            state.cross_values[index][there, :, :width] = value
        mask = torch.zeros(len(slots), 1, 1, state.source_mask.size(-1), dtype=torch.bool, device=self.device)
        mask[..., :width] = self.model.memory_mask(source)
        state.source_mask[there] = mask
        # index_fill_ passes its value with the kernel launch; an assignment would copy it to the device.
        state.positions.index_fill_(0, there, 0)
        state.host_positions[slots] = 0
        state.source_lengths[slots] = width

    @torch.inference_mode()
    def step(self, state: TransformerState, tokens: Tensor) -> Tensor:
        """See `SearchModel.step`."""
        model = self.model
        features = self._features(state, tokens)
        return model.project(features)

    def _features(self, state: TransformerState, tokens: Tensor) -> Tensor:
        """Map `[slots, beam]` tokens to features `[slots, beam, dim]`, fill the caches and advance every slot."""
        model = self.model
        slots, beam = tokens.shape
        rows = torch.arange(slots, device=self.device)
        beams = torch.arange(beam, device=self.device)
        seen = int(state.host_positions.max()) + 1
        width = int(state.source_lengths.max())
        state.ancestors[rows, :, state.positions] = beams
        # [slots, beam, seen, beam]: the entry of beam j at position p belongs to hypothesis k and is not in the future
        visible = state.ancestors[:, :, :seen, None].eq(beams)
        visible &= (torch.arange(seen, device=self.device) <= state.positions[:, None])[:, None, :, None]
        mask = visible.reshape(slots, 1, beam, seen * beam)
        source_mask = state.source_mask[..., :width]

        x = model.embed_target(tokens, state.positions[:, None])
        for index, layer in enumerate(model.decoder):
            assert isinstance(layer, DecoderLayer)
            read = layer.attention_norm(x) if layer.pre else x
            query, key, value = layer.attention.qkv(read).chunk(3, dim=-1)
            state.keys[index][rows, state.positions] = key
            state.values[index][rows, state.positions] = value
            attended = functional.scaled_dot_product_attention(
                split_heads(query, model.heads),
                split_heads(state.keys[index][:, :seen].reshape(slots, seen * beam, -1), model.heads),
                split_heads(state.values[index][:, :seen].reshape(slots, seen * beam, -1), model.heads),
                attn_mask=mask,
            )
            x = x + layer.attention.out(merge_heads(attended))
            x = x if layer.pre else layer.attention_norm(x)
            read = layer.cross_norm(x) if layer.pre else x
            cross_key = state.cross_keys[index][:, :, :width]
            cross_value = state.cross_values[index][:, :, :width]
            x = x + layer.cross(read, cross_key, cross_value, source_mask)
            x = x if layer.pre else layer.cross_norm(x)
            x = x + layer.ffn(layer.ffn_norm(x) if layer.pre else x)
            x = x if layer.pre else layer.ffn_norm(x)
        # Slots of finished sentences keep advancing until they are refilled; the clamp keeps them within the cache.
        last = state.ancestors.size(2) - 1
        state.positions.add_(1).clamp_(max=last)
        state.host_positions.add_(1).clamp_(max=last)
        return model.decoder_norm(x)  # type: ignore[no-any-return]

    @torch.inference_mode()
    def reorder(self, state: TransformerState, parents: Tensor) -> None:
        """See `SearchModel.reorder`. Only the table of ancestors is reordered."""
        seen = int(state.host_positions.max())
        table = state.ancestors[:, :, :seen]
        state.ancestors[:, :, :seen] = table.gather(1, parents[:, :, None].expand(-1, -1, seen))

    @torch.inference_mode()
    def release(self, state: TransformerState, slots: Tensor) -> None:
        """See `SearchModel.release`. The lengths of a free slot are reset, so that steps read a shorter cache."""
        state.positions.index_fill_(0, send(slots, self.device), 0)
        state.host_positions[slots] = 0
        state.source_lengths[slots] = 1

    @torch.inference_mode()
    def shrink(self, state: TransformerState, slots: Tensor) -> None:
        """See `SearchModel.shrink`."""
        there = send(slots, self.device)
        for group in (state.keys, state.values, state.cross_keys, state.cross_values):
            for index, buffer in enumerate(group):
                group[index] = buffer[there]
        state.positions, state.ancestors = state.positions[there], state.ancestors[there]
        state.source_mask = state.source_mask[there]
        state.host_positions, state.source_lengths = state.host_positions[slots], state.source_lengths[slots]

"""A Transformer whose decoder uses simple recurrent units in place of self-attention.

A decoding step costs the same at every position and keeps one vector for each layer. Training still computes all
positions together, because only elementwise recurrences run along time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from seqkd.models.functional import Dropout, linear
from seqkd.models.protocol import Marks, PairLengths, too_long
from seqkd.models.recurrence import gated_averages, leaky_sums
from seqkd.models.settings import MARIAN_SRU, Compatible, Layers, StackSettings, set_compatible
from seqkd.models.transformer import (
    CrossAttention,
    EncoderLayer,
    FeedForward,
    embedding_tables,
    last_norm,
    layer_norm,
    position_table,
)
from seqkd.text.vocabulary import EOS_ID, PAD_ID, UNK_ID

# Lei et al. 2018, section 3.2: it preserves the variance through the highway while the reset gate's bias is near zero.
HIGHWAY_SCALE = math.sqrt(3)


def _wide(x: Tensor) -> Tensor:
    """Convert cells to float32 or a wider type, because they are means over many steps."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


Cell = Literal["ssru", "sru"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SruSettings(StackSettings):
    """The settings of a Transformer and the kind of the recurrent unit.

    Attributes:
        encoder_layers: Encoder depth.
        decoder_layers: Decoder depth.
        cell: ssru: `SimplerUnit`; sru: `SimpleUnit`.
        start: The first input of the decoder. eos: the embedding of the end of sentence; zero: a vector of zeros.
        value_bias: Whether the value of the unit `ssru` has a bias.
        compatible_with: The toolkit that can run the model after an export. It sets the options that this needs.

    Raises:
        ValueError: The cell `sru` is to have no value bias, or an option has a value that the toolkit does not have.
    """

    encoder_layers: Layers = 6
    decoder_layers: Layers = 2
    cell: Annotated[Cell, Field(description="ssru: Kim et al. 2019; sru: Lei et al. 2018")] = "ssru"
    start: Annotated[
        Literal["eos", "zero"], Field(description="the first input of the decoder: eos, or zero (a vector of zeros)")
    ] = "eos"
    value_bias: Annotated[bool, Field(description="the value of the unit `ssru` has a bias")] = True
    compatible_with: Compatible = None

    def __post_init__(self) -> None:
        StackSettings.__post_init__(self)
        set_compatible(self, MARIAN_SRU)
        if self.cell == "sru" and not self.value_bias:
            raise ValueError("only the cell ssru can be without a value bias")


class SimplerUnit(nn.Module):
    """The simpler simple recurrent unit (Kim et al. 2019, section 3.1).

    `f_t = sigmoid(W_f x_t + b_f)`, `c_t = f_t * c_{t-1} + (1 - f_t) * (W x_t + b)`, `o_t = relu(c_t)`.
    The bias `b` of the value is not in the paper. It starts at zero.

    Args:
        dim: The width.
        value_bias: Whether there is a bias `b`.
    """

    def __init__(self, dim: int, *, value_bias: bool = True) -> None:
        super().__init__()
        self.products = nn.Linear(dim, 2 * dim, bias=value_bias)
        for part in self.products.weight.chunk(2):
            nn.init.xavier_uniform_(part)
        if value_bias:
            nn.init.zeros_(self.products.bias)
        self.gate_bias = None if value_bias else nn.Parameter(torch.zeros(dim))

    @property
    def bias(self) -> Tensor:
        """The biases of gate and value, `[2 * dim]`."""
        if self.gate_bias is None:
            return self.products.bias
        return functional.pad(self.gate_bias, (0, len(self.gate_bias)))

    def _gate_and_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gate, value = _wide(linear(x, self.products)).chunk(2, dim=-1)
        return gate if self.gate_bias is None else gate + self.gate_bias, value

    def forward(self, x: Tensor) -> Tensor:
        """Map `[batch, length, dim]` to the same shape, starting with a cell of zeros."""
        gate, value = self._gate_and_value(x)
        keep = gate.sigmoid()
        return functional.relu(leaky_sums(keep, value - keep * value)).to(x.dtype)

    def step(self, x: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the output and the new cell of one position `[..., dim]`, given the cell before it, `[..., dim]`."""
        gate, value = self._gate_and_value(x)
        cell = torch.lerp(value, cell, gate.sigmoid())
        return functional.relu(cell).to(x.dtype), cell


class SimpleUnit(nn.Module):
    """The simple recurrent unit (Lei et al. 2018, equations 1 to 4).

    `f_t = sigmoid(W_f x_t + v_f * c_{t-1} + b_f)`, `c_t = f_t * c_{t-1} + (1 - f_t) * (W x_t + b)`,
    `r_t = sigmoid(W_r x_t + v_r * c_{t-1} + b_r)`, `h_t = r_t * c_t + (1 - r_t) * x_t * sqrt(3)`.
    The bias `b` of the value is not in the paper. It starts at zero.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.products = nn.Linear(dim, 3 * dim)
        self.peepholes = nn.Parameter(torch.zeros(2, dim))
        for part in self.products.weight.chunk(3):
            nn.init.xavier_uniform_(part)
        nn.init.zeros_(self.products.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[batch, length, dim]` to the same shape, starting with a cell of zeros."""
        gate, value, reset = _wide(linear(x, self.products)).chunk(3, dim=-1)
        forget_peephole, reset_peephole = _wide(self.peepholes)
        cells = gated_averages(gate, value, forget_peephole)
        before = functional.pad(cells[:, :-1], (0, 0, 1, 0))
        return self._output(x, cells, torch.addcmul(reset, before, reset_peephole))

    def step(self, x: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the output and the new cell of one position `[..., dim]`, given the cell before it, `[..., dim]`."""
        gate, value, reset = _wide(linear(x, self.products)).chunk(3, dim=-1)
        forget_peephole, reset_peephole = _wide(self.peepholes)
        after = torch.lerp(value, cell, torch.addcmul(gate, cell, forget_peephole).sigmoid())
        return self._output(x, after, torch.addcmul(reset, cell, reset_peephole)), after

    @staticmethod
    def _output(x: Tensor, cells: Tensor, reset: Tensor) -> Tensor:
        return torch.lerp(_wide(x) * HIGHWAY_SCALE, cells, reset.sigmoid()).to(x.dtype)


class RecurrentLayer(nn.Module):
    """A recurrent unit, cross-attention and feed-forward, each with a residual and a layer norm."""

    def __init__(self, settings: SruSettings) -> None:
        super().__init__()
        dim, heads = settings.dim, settings.heads
        self.pre = settings.norm == "pre"
        self.unit = SimpleUnit(dim) if settings.cell == "sru" else SimplerUnit(dim, value_bias=settings.value_bias)
        self.unit_norm = layer_norm(settings)
        self.cross = CrossAttention(dim, heads)
        self.cross_norm = layer_norm(settings)
        self.ffn = FeedForward(dim, settings.ffn_dim, settings.activation)
        self.ffn_norm = layer_norm(settings)
        self.dropout = Dropout(settings.dropout)

    def forward(self, x: Tensor, memory: Tensor, memory_mask: Tensor | None) -> Tensor:
        """Map `[batch, target, dim]` to the same shape, given the encoder output `[batch, source, dim]`."""
        remembered = self.unit(self.unit_norm(x) if self.pre else x)
        key, value = self.cross.keys_values(memory)
        return self._rest(x, remembered, key, value, memory_mask)

    def step(
        self, x: Tensor, cell: Tensor, key: Tensor, value: Tensor, memory_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Compute one position of each beam.

        Args:
            x: `[batch, beam, dim]`.
            cell: `[batch, beam, dim]`, the cell after the previous position.
            key: `[batch, heads, source, head_dim]`, shared by the beams of a sentence.
            value: `[batch, heads, source, head_dim]`, shared by the beams of a sentence.
            memory_mask: `[batch, 1, 1, source]`, True at real tokens.

        Returns:
            The output `[batch, beam, dim]` and the new cell.
        """
        remembered, cell = self.unit.step(self.unit_norm(x) if self.pre else x, cell)
        return self._rest(x, remembered, key, value, memory_mask), cell

    def _rest(self, x: Tensor, remembered: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        x = self.dropout(remembered, onto=x)
        if self.pre:
            x = self.dropout(self.cross(self.cross_norm(x), key, value, mask), onto=x)
            return self.dropout(self.ffn(self.ffn_norm(x)), onto=x)  # type: ignore[no-any-return]
        x = self.unit_norm(x)
        x = self.cross_norm(self.dropout(self.cross(x, key, value, mask), onto=x))
        return self.ffn_norm(self.dropout(self.ffn(x), onto=x))  # type: ignore[no-any-return]


class Sru(nn.Module):
    """A Transformer encoder with a recurrent decoder.

    Args:
        settings: The settings of the model.
        source_vocab: Number of source pieces, including special ids.
        target_vocab: Number of target pieces, including special ids.

    Attributes:
        zero_start: Whether the decoder reads a vector of zeros in place of the embedding of `start_id`.
    """

    pad_id, eos_id, unk_id, start_id = PAD_ID, EOS_ID, UNK_ID, EOS_ID

    def __init__(self, settings: SruSettings, *, source_vocab: int, target_vocab: int) -> None:
        super().__init__()
        self.source_vocab, self.target_vocab = source_vocab, target_vocab
        self.dim, self.heads, self.max_positions = settings.dim, settings.heads, settings.max_positions
        self.zero_start = settings.start == "zero"
        self.scale = math.sqrt(self.dim)
        self.target_embedding, self.source_embedding, self.output_weight = embedding_tables(
            self.source_vocab, self.target_vocab, self.dim, settings.embeddings
        )
        self.source_positions = position_table(settings, self.max_positions)
        self.target_positions = position_table(settings, self.max_positions)
        self.encoder = nn.ModuleList(EncoderLayer(settings) for _ in range(settings.encoder_layers))
        self.decoder = nn.ModuleList(RecurrentLayer(settings) for _ in range(settings.decoder_layers))
        self.encoder_norm, self.decoder_norm = last_norm(settings), last_norm(settings)
        self.dropout = Dropout(settings.dropout)

    def unusable(self, lengths: PairLengths) -> dict[str, Marks]:
        """See `SequenceModel.unusable`."""
        return too_long(lengths, self.max_positions)

    def memory_mask(self, source: Tensor) -> Tensor:
        """Map `[batch, source]` ids to `[batch, 1, 1, source]`, True at real tokens."""
        return source.ne(self.pad_id)[:, None, None, :]

    def encode(self, source: Tensor) -> Tensor:
        """Map `[batch, source]` ids, with end of sentence and padded on the right, to `[batch, source, dim]`."""
        mask = self.memory_mask(source)
        x = functional.embedding(source, self.source_embedding) * self.scale
        x = self.dropout(x + self.source_positions[: source.size(1)])
        for layer in self.encoder:
            x = layer(x, mask)
        return self.encoder_norm(x)  # type: ignore[no-any-return]

    def embed_target(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Map ids and their positions, whose shapes can be broadcast, to embeddings `[..., dim]`."""
        embedded = functional.embedding(ids, self.target_embedding) * self.scale
        if self.zero_start:
            embedded = embedded.masked_fill(positions.eq(0)[..., None], 0.0)
        return embedded + functional.embedding(positions, self.target_positions)

    def decode_features(self, target_in: Tensor, source: Tensor, memory: Tensor) -> Tensor:
        """Compute the inputs of the output layer under teacher forcing.

        Args:
            target_in: `[batch, target]` ids that start with `start_id`.
            source: `[batch, source]` ids, for their padding.
            memory: `[batch, source, dim]` from `encode`.

        Returns:
            `[batch, target, dim]`.
        """
        mask = self.memory_mask(source)
        positions = torch.arange(target_in.size(1), device=target_in.device)
        x = self.dropout(self.embed_target(target_in, positions))
        for layer in self.decoder:
            x = layer(x, memory, mask)
        return self.decoder_norm(x)  # type: ignore[no-any-return]

    def project(self, features: Tensor) -> Tensor:
        """Map `[..., dim]` to logits `[..., target_vocab]`."""
        return functional.linear(features, self.output_weight)

    def forward(self, source: Tensor, target_in: Tensor) -> Tensor:
        """Map `[batch, source]` and `[batch, target]` ids to logits `[batch, target, target_vocab]`."""
        return self.project(self.decode_features(target_in, source, self.encode(source)))

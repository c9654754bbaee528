"""An LSTM encoder-decoder with attention (Kim and Rush 2016, section 4, after Luong et al. 2015)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from seqkd.models.functional import Dropout, linear
from seqkd.models.lstm_loops import advance_cell, run_attentive, run_layer
from seqkd.models.protocol import Marks, PairLengths, too_long
from seqkd.models.settings import DropoutRate, Embeddings, Layers, MaxPositions
from seqkd.models.transformer import embedding_tables
from seqkd.text.vocabulary import EOS_ID, PAD_ID, UNK_ID


def _uniform(*shape: int, width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.uniform_(torch.empty(shape), -(width**-0.5), width**-0.5))


def _gates(inputs: int, width: int) -> nn.Linear:
    """Make the input weights of the gates. Forget gates start open (Jozefowicz et al. 2015, section 2.2)."""
    layer = nn.Linear(inputs, 4 * width)
    nn.init.uniform_(layer.weight, -(width**-0.5), width**-0.5)
    nn.init.zeros_(layer.bias)
    nn.init.ones_(layer.bias[width : 2 * width])
    return layer


class _Swap(torch.autograd.Function):
    """A permutation of rows that is its own inverse."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        (order,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grads[0].index_select(0, order), None


def _swap(x: Tensor, order: Tensor) -> Tensor:
    return cast(Tensor, _Swap.apply(x.flatten(0, 1), order)).view(x.shape)  # type: ignore[no-untyped-call]


class EncoderLayer(nn.Module):
    """One LSTM in each direction, each half as wide as the layer."""

    steps_first = True  # shapes begin with the steps, not the sentences

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.forward_gates = _gates(dim, dim // 2)
        self.backward_gates = _gates(dim, dim // 2)
        self.recurrent = _uniform(2, 2 * dim, dim // 2, width=dim // 2)

    def forward(self, x: Tensor, order: Tensor) -> Tensor:
        """Map `[source, batch, dim]` to the same shape.

        Args:
            x: The output of the layer below, steps first.
            order: `[source * batch]`, the position of each step of `x` once the real tokens of every row are reversed.
                Both directions then begin at a real token and read the padding last.
        """
        gates = torch.stack((linear(x, self.forward_gates), linear(_swap(x, order), self.backward_gates)), dim=1)
        ahead, back = run_layer(gates, self.recurrent).unbind(1)
        return torch.cat((ahead, _swap(back, order)), dim=-1)


class CarriedState(NamedTuple):
    """The state that the decoder carries from one step to the next, for any number of rows.

    Attributes:
        cells: `[layers, rows, dim]`, the cells.
        outputs: `[layers, rows, dim]`, the outputs of the layers.
        features: `[rows, dim]`, the input of the output layer.
    """

    cells: Tensor
    outputs: Tensor
    features: Tensor


class Decoder(nn.Module):
    """Stacked LSTMs with attention to the memory. The features that combine both are part of the next step's input."""

    def __init__(self, dim: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.dim, self.layers = dim, layers
        self.start = nn.Linear(dim, layers * dim)
        self.gates = _gates(dim, dim)
        self.recurrent = _uniform(layers, 4 * dim, 2 * dim, width=dim)
        self.bias = nn.Parameter(torch.zeros(layers - 1, 4 * dim))
        nn.init.ones_(self.bias[:, dim : 2 * dim])
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.mix = _uniform(dim, dim, width=dim)
        for weight in (self.start.weight, self.key.weight, self.value.weight, self.mix):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.start.bias)
        nn.init.zeros_(self.value.bias)
        self.dropout = Dropout(dropout)

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Map `[batch, source, dim]` to keys and values of the same shape, once per sentence.

        The score of a position is `h^T W m` (Luong et al. 2015, equation 8, "general"), so W m is the key. The features
        are `tanh(W [c; h])` (equation 5). Because c is a mean over positions, its half of W is applied to the memory
        first, which gives the values.
        """
        return linear(memory, self.key), linear(memory, self.value)

    def first_cells(self, memory: Tensor, lengths: Tensor) -> Tensor:
        """Compute the cells before the first step.

        A linear layer reads the last state of each direction of the encoder: the forward half of the last token's
        memory and the backward half of the first token's. The output of a layer before the first step is the tanh of
        its cell, as if the output gate were open.

        Args:
            memory: `[batch, source, dim]`.
            lengths: `[batch]`, the numbers of real tokens.

        Returns:
            `[layers, batch, dim]`.
        """
        last = memory[torch.arange(len(memory), device=memory.device), lengths - 1]
        half = self.dim // 2
        ends = torch.cat((last[:, :half], memory[:, 0, half:]), dim=-1)
        return linear(ends, self.start).view(len(ends), self.layers, self.dim).transpose(0, 1)

    def forward(self, x: Tensor, memory: Tensor, lengths: Tensor) -> Tensor:
        """Map embeddings `[target, batch, dim]` to features of the same shape; memory is `[batch, source, dim]`."""
        keys, values = self.keys_values(memory)
        places = torch.arange(memory.size(1), device=memory.device)
        hidden = (places >= lengths[:, None])[:, None]
        mask = torch.zeros(hidden.shape, dtype=memory.dtype, device=memory.device).masked_fill_(hidden, -math.inf)
        kept = None
        if self.training and self.dropout.p and self.layers > 1:
            kept = self.dropout(torch.ones(self.layers - 1, *x.shape, device=x.device))
        start = self.first_cells(memory, lengths)
        gates = linear(x, self.gates)
        return run_attentive(gates, self.recurrent, self.bias, self.mix, keys, values, mask, start, kept)

    def step(self, x: Tensor, carried: CarriedState, keys: Tensor, values: Tensor, mask: Tensor) -> CarriedState:
        """Compute one step, in evaluation.

        Args:
            x: `[batch, beam, dim]` embeddings.
            carried: The state of the step before. Rows are the beams of the first sentence, then those of the second,
                and so on.
            keys: `[batch, source, dim]`, shared by the beams of a sentence.
            values: `[batch, source, dim]`, shared by the beams of a sentence.
            mask: `[batch, 1, source]`, 0 or -inf.
        """
        low = self.mix.dtype
        wide = carried.cells.dtype
        cells, outputs = torch.empty_like(carried.cells), torch.empty_like(carried.outputs)
        below = carried.features
        for layer in range(self.layers):
            read = torch.cat((below, carried.outputs[layer]), dim=-1).to(low)
            added = self.gates(x).flatten(0, 1) if layer == 0 else self.bias[layer - 1]
            gates = torch.addmm(added, read, self.recurrent[layer].t()).to(wide)
            squashed = torch.empty_like(cells[layer])
            advance_cell(gates, carried.cells[layer], cells[layer], squashed, outputs[layer])
            below = outputs[layer]
        query = below.to(low)
        scores = torch.baddbmm(mask, query.view(*x.shape[:2], -1), keys.transpose(1, 2))
        context = torch.bmm(scores.softmax(-1), values).flatten(0, 1)
        return CarriedState(cells, outputs, torch.addmm(context, query, self.mix.t()).tanh_().to(wide))


@dataclass(frozen=True, slots=True, kw_only=True)
class LstmSettings:
    """Sizes of an LSTM encoder-decoder.

    Attributes:
        dim: Width of embeddings and hidden states; even.
        encoder_layers: Encoder depth; each direction of a layer has half of `dim`.
        decoder_layers: Decoder depth.
        dropout: Dropout rate on the embeddings, between layers, and on the features before the output layer.
        embeddings: shared: one table for source, target and output; decoder: one for target and output;
            separate: three.
        max_positions: Longest source or target in tokens, including end of sentence.

    Raises:
        ValueError: The width is odd.
    """

    dim: Annotated[int, Field(ge=8, description="width of embeddings and hidden states")] = 256
    encoder_layers: Annotated[int, Field(ge=1, description="bidirectional layers; each direction is dim / 2 wide")] = 2
    decoder_layers: Layers = 2
    dropout: DropoutRate = 0.2
    embeddings: Embeddings = "shared"
    max_positions: MaxPositions = 512

    def __post_init__(self) -> None:
        if self.dim % 2:
            raise ValueError(f"dim {self.dim} is odd, but each direction of the encoder has half of it")


class Lstm(nn.Module):
    """LSTM encoder-decoder: bidirectional encoder, stacked decoder, general attention, input feeding.

    Args:
        settings: The sizes of the model.
        source_vocab: Number of source pieces, including special ids.
        target_vocab: Number of target pieces, including special ids.
    """

    pad_id, eos_id, unk_id, start_id = PAD_ID, EOS_ID, UNK_ID, EOS_ID

    def __init__(self, settings: LstmSettings, *, source_vocab: int, target_vocab: int) -> None:
        super().__init__()
        dim = settings.dim
        self.source_vocab, self.target_vocab = source_vocab, target_vocab
        self.dim, self.max_positions = dim, settings.max_positions
        self.scale = math.sqrt(dim)
        self.target_embedding, self.source_embedding, self.output_weight = embedding_tables(
            source_vocab, target_vocab, dim, settings.embeddings
        )
        self.encoder = nn.ModuleList(EncoderLayer(dim) for _ in range(settings.encoder_layers))
        self.decoder = Decoder(dim, settings.decoder_layers, settings.dropout)
        self.dropout = Dropout(settings.dropout)

    def unusable(self, lengths: PairLengths) -> dict[str, Marks]:
        """See `SequenceModel.unusable`."""
        return too_long(lengths, self.max_positions)

    def lengths(self, source: Tensor) -> Tensor:
        """Map `[batch, source]` ids to the numbers of real tokens `[batch]`."""
        return source.ne(self.pad_id).sum(1)

    def encode(self, source: Tensor) -> Tensor:
        """Map `[batch, source]` ids, with end of sentence and padded on the right, to `[batch, source, dim]`.

        The output at padding is meaningless.
        """
        steps = torch.arange(source.size(1), device=source.device)[:, None]
        lengths = self.lengths(source)
        turned = torch.where(steps < lengths, lengths - 1 - steps, steps)
        order = (turned * len(source) + torch.arange(len(source), device=source.device)).flatten()
        x = functional.embedding(source.t(), self.source_embedding) * self.scale
        for layer in self.encoder:
            x = layer(self.dropout(x), order)
        return x.transpose(0, 1)

    def decode_features(self, target_in: Tensor, source: Tensor, memory: Tensor) -> Tensor:
        """Compute the inputs of the output layer under teacher forcing.

        Args:
            target_in: `[batch, target]` ids that start with `start_id`.
            source: `[batch, source]` ids, for their padding.
            memory: `[batch, source, dim]` from `encode`.

        Returns:
            `[batch, target, dim]`.
        """
        x = self.dropout(functional.embedding(target_in.t(), self.target_embedding) * self.scale)
        features = self.decoder(x, memory, self.lengths(source))
        return self.dropout(features).transpose(0, 1)  # type: ignore[no-any-return]

    def project(self, features: Tensor) -> Tensor:
        """Map `[..., dim]` to logits `[..., target_vocab]`."""
        return functional.linear(features, self.output_weight)

    def forward(self, source: Tensor, target_in: Tensor) -> Tensor:
        """Map `[batch, source]` and `[batch, target]` ids to logits `[batch, target, target_vocab]`."""
        return self.project(self.decode_features(target_in, source, self.encode(source)))

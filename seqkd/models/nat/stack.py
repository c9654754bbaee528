"""The common parts of non-autoregressive models: embeddings, a Transformer encoder and a bidirectional decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqkd.models.functional import Dropout
from seqkd.models.nat.output import marked_places, top_pieces
from seqkd.models.nat.upsampling import split_states, upsample_mask
from seqkd.models.settings import StackSettings
from seqkd.models.transformer import DecoderLayer, EncoderLayer, embedding_tables, last_norm, position_table
from seqkd.text.vocabulary import PAD_ID


class DecodingStack(Protocol):
    """The stack with which a model decodes: its own `ParallelStack`, or faster kernels. Padding is on the right.

    Attributes:
        output_weight: `[target_vocab, dim]`, the weights of the output layer.
    """

    @property
    def output_weight(self) -> Tensor:
        """Return the weights of the output layer, `[target_vocab, dim]`."""
        ...

    def encode(self, source: Tensor) -> Tensor:
        """See `ParallelStack.encode`. The results at padding are finite and meaningless."""
        ...

    def decode(self, inputs: Tensor, real: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        """See `ParallelStack.decode`. The results at padding are finite and meaningless."""
        ...

    def top_pieces(self, features: Tensor, count: int, banned: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """See `ParallelStack.top_pieces`."""
        ...

    def decode_upsampled(self, source: Tensor, split: nn.Linear) -> tuple[Tensor, Tensor]:
        """See `ParallelStack.decode_upsampled`."""
        ...

    def best_upsampled_pieces(self, source: Tensor, split: nn.Linear, banned: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See `ParallelStack.best_upsampled_pieces`."""
        ...


class ParallelStack(nn.Module):
    """The encoder and the bidirectional decoder of a non-autoregressive model, which adds its own parts.

    Args:
        settings: The settings of the model.
        source_vocab: Number of source pieces, including special ids.
        target_vocab: Number of target pieces, including special ids.
        decoder_positions: Longest decoder input.
        extra_pieces: Number of ids after the target vocabulary that the decoder reads but never writes, such as a mask.
    """

    def __init__(
        self,
        settings: StackSettings,
        *,
        source_vocab: int,
        target_vocab: int,
        decoder_positions: int,
        extra_pieces: int = 0,
    ) -> None:
        super().__init__()
        dim = settings.dim
        self.target_vocab, self.dim = target_vocab, dim
        self.scale = math.sqrt(dim)
        self.target_embedding, self.source_embedding, self.output_weight = embedding_tables(
            source_vocab, target_vocab, dim, settings.embeddings
        )
        self.extra_embedding = (
            nn.Parameter(nn.init.normal_(torch.empty(extra_pieces, dim), std=dim**-0.5)) if extra_pieces else None
        )
        self.source_positions = position_table(settings, settings.max_positions)
        self.target_positions = position_table(settings, decoder_positions)
        self.encoder = nn.ModuleList(EncoderLayer(settings) for _ in range(settings.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(settings) for _ in range(settings.decoder_layers))
        self.encoder_norm, self.decoder_norm = last_norm(settings), last_norm(settings)
        self.dropout = Dropout(settings.dropout)

    def source_mask(self, source: Tensor) -> Tensor:
        """Map `[batch, source]` ids to `[batch, source]` bool, True at real tokens."""
        return source.ne(PAD_ID)

    def encode(self, source: Tensor) -> Tensor:
        """Map `[batch, source]` ids, with end of sentence and padded on the right, to `[batch, source, dim]`."""
        mask = self.source_mask(source)[:, None, None, :]
        x = functional.embedding(source, self.source_embedding) * self.scale
        x = self.dropout(x + self.source_positions[: source.size(1)])
        for layer in self.encoder:
            x = layer(x, mask)
        return self.encoder_norm(x)  # type: ignore[no-any-return]

    def embed_target(self, ids: Tensor) -> Tensor:
        """Map `[batch, target]` ids, including those of extra pieces, to scaled embeddings `[batch, target, dim]`."""
        own, extra = self.target_embedding, self.extra_embedding
        return functional.embedding(ids, own if extra is None else torch.cat((own, extra))) * self.scale

    def decode(self, inputs: Tensor, real: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        """Decode all positions at once.

        Args:
            inputs: `[batch, target, dim]`, without position embeddings, which this method adds.
            real: `[batch, target]` bool, False at padding, to which no position attends. Each row has a real position.
            memory: `[batch, source, dim]` from `encode`.
            source: `[batch, source]` ids, for their padding.

        Returns:
            Features `[batch, target, dim]`.
        """
        mask = self.source_mask(source)[:, None, None, :]
        own = real[:, None, None, :]
        x = self.dropout(inputs + self.target_positions[: inputs.size(1)])
        for layer in self.decoder:
            x = layer(x, memory, mask, own=own)
        return self.decoder_norm(x)  # type: ignore[no-any-return]

    def decode_upsampled(self, source: Tensor, split: nn.Linear) -> tuple[Tensor, Tensor]:
        """Encode, split each encoder state into the inputs of several positions, and decode those.

        Args:
            source: `[batch, source]` ids, with end of sentence and padded on the right.
            split: The layer of `split_states`.

        Returns:
            Features `[batch, times * source, dim]`, and `[batch, times * source]`, True at real positions.
        """
        memory = self.encode(source)
        real = upsample_mask(self.source_mask(source), split.out_features // split.in_features)
        return self.decode(split_states(memory, split), real, memory, source), real

    def best_upsampled_pieces(self, source: Tensor, split: nn.Linear, banned: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Find the likeliest piece of each real position of `decode_upsampled`, one sentence after another.

        Args:
            source: `[batch, source]` ids, with end of sentence and padded on the right.
            split: The layer of `split_states`.
            banned: Ids that are never returned. They keep their share of the probability.

        Returns:
            Ids and log-probabilities (float32), each `[positions]`.
        """
        # The device is asked before it has work, for which the host would otherwise wait.
        count = split.out_features // split.in_features * int(self.source_mask(source).sum())
        features, real = self.decode_upsampled(source, split)
        logits, ids, sums = self.top_pieces(features.flatten(0, 1)[marked_places(real, count)], 1, banned)
        return ids[:, 0], logits[:, 0] - sums

    def top_pieces(self, features: Tensor, count: int, banned: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Find the likeliest pieces for features `[rows, dim]`; see `top_pieces` of `seqkd.models.nat.output`."""
        return top_pieces(features, self.output_weight, count, banned)

    def project(self, features: Tensor) -> Tensor:
        """Map `[..., dim]` to logits `[..., target_vocab]`."""
        return functional.linear(features, self.output_weight)

"""An architecture: a GRU that writes from the mean of the source's embeddings (after Cho et al. 2014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from seqkd.models.protocol import Marks, PairLengths, too_long
from seqkd.models.registry import Architecture
from seqkd.text.vocabulary import EOS_ID, PAD_ID, UNK_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class SummarySettings:
    """Settings of `SummaryGru`."""

    dim: Annotated[int, Field(ge=8, description="width of embeddings and states")] = 64
    max_positions: Annotated[int, Field(ge=4, description="longest source or target in tokens")] = 128


class SummaryGru(nn.Module):
    """A summary of the source opens the decoder's state.

    Args:
        settings: Its sizes.
        source_vocab: Source pieces, special ids counted.
        target_vocab: Target pieces, likewise.
    """

    pad_id, eos_id, unk_id, start_id = PAD_ID, EOS_ID, UNK_ID, EOS_ID

    def __init__(self, settings: SummarySettings, *, source_vocab: int, target_vocab: int) -> None:
        super().__init__()
        self.source_vocab, self.target_vocab = source_vocab, target_vocab
        self.dim, self.max_positions = settings.dim, settings.max_positions
        self.source_embedding = nn.Embedding(source_vocab, self.dim)
        self.target_embedding = nn.Embedding(target_vocab, self.dim)
        self.opening = nn.Linear(self.dim, self.dim)
        self.cell = nn.GRU(self.dim, self.dim, batch_first=True)
        self.output_weight = nn.Parameter(torch.randn(target_vocab, self.dim) / self.dim**0.5)

    def unusable(self, lengths: PairLengths) -> dict[str, Marks]:
        """See `SequenceModel.unusable`."""
        return too_long(lengths, self.max_positions)

    def encode(self, source: Tensor) -> Tensor:
        """`[batch, source]` ids, padded on the right, to `[batch, source, dim]`."""
        embedded: Tensor = self.source_embedding(source)
        return embedded

    def open(self, source: Tensor, memory: Tensor) -> Tensor:
        """The decoder's first state `[batch, dim]` from ids `[batch, source]` and their `[batch, source, dim]`."""
        real = source.ne(self.pad_id).unsqueeze(-1)
        mean = memory.masked_fill(~real, 0.0).sum(1) / real.sum(1).clamp(min=1)
        opened: Tensor = self.opening(mean).tanh()
        return opened

    def decode_features(self, target_in: Tensor, source: Tensor, memory: Tensor) -> Tensor:
        """Teacher forcing: `[batch, target]` ids to what the output layer reads, `[batch, target, dim]`."""
        features, _ = self.cell(self.target_embedding(target_in), self.open(source, memory).unsqueeze(0))
        return features  # type: ignore[no-any-return]

    def project(self, features: Tensor) -> Tensor:
        """`[..., dim]` to logits `[..., target_vocab]`."""
        return functional.linear(features, self.output_weight)

    def forward(self, source: Tensor, target_in: Tensor) -> Tensor:
        """Logits `[batch, target, target_vocab]`."""
        return self.project(self.decode_features(target_in, source, self.encode(source)))


RECORD = Architecture(
    name="summary-gru",
    help="A GRU that writes from the mean of the source's embeddings",
    settings="seqkd_plugins.architecture:SummarySettings",
    build="seqkd_plugins.architecture:SummaryGru",
    decodes="left to right",
    objective="nll",
    plain="seqkd_plugins.search:IncrementalSummaryGru",
)

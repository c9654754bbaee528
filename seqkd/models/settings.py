"""What stacks of Transformer layers are built with, and the ids that all models agree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Norm = Literal["pre", "post"]
Positions = Literal["sinusoidal", "learned"]
Activation = Literal["relu", "gelu", "swiglu"]
Embeddings = Literal["shared", "decoder", "separate"]
Cell = Literal["ssru", "sru"]
CopyFrom = Literal["uniform", "fertility"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSettings:
    """Sizes and kinds of an encoder's and a decoder's layers.

    Attributes:
        source_vocab: Source pieces, special ids counted.
        target_vocab: Target pieces.
        dim: Width of the residual stream; a multiple of `heads`.
        heads: Attention heads.
        ffn_dim: Inner width of the feed-forward blocks.
        encoder_layers: Encoder depth.
        decoder_layers: Decoder depth.
        dropout: After the embeddings and after each block.
        norm: Layer norms before the blocks (and one at the end of each stack), or after them.
        positions: Fixed sines, or a trained table; on both sides.
        activation: Of the feed-forward blocks.
        embeddings: shared: one table for source, target and output; decoder: one for target and output;
            separate: three.
        max_positions: Longest source or target in tokens, end of sentence counted.

    Raises:
        ValueError: Heads do not share the width evenly.
    """

    source_vocab: int
    target_vocab: int
    dim: int
    heads: int
    ffn_dim: int
    encoder_layers: int
    decoder_layers: int
    dropout: float = 0.1
    norm: Norm = "pre"
    positions: Positions = "sinusoidal"
    activation: Activation = "relu"
    embeddings: Embeddings = "shared"
    max_positions: int = 512

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")

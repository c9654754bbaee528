"""Settings that several architectures share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

Norm = Literal["pre", "post"]
Positions = Literal["sinusoidal", "learned"]
Activation = Literal["relu", "gelu", "swiglu"]
Embeddings = Literal["shared", "decoder", "separate"]

Width = Annotated[int, Field(ge=8)]
Layers = Annotated[int, Field(ge=1)]
DropoutRate = Annotated[float, Field(ge=0.0, lt=1.0)]
MaxPositions = Annotated[int, Field(ge=4, description="longest source or target in tokens, including end of sentence")]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSettings:
    """Sizes and kinds of the layers of an encoder and a decoder.

    Attributes:
        dim: Width of the residual stream; a multiple of `heads`.
        heads: Attention heads.
        ffn_dim: Inner width of the feed-forward blocks.
        encoder_layers: Encoder depth.
        decoder_layers: Decoder depth.
        dropout: Dropout rate after the embeddings and after each block.
        norm: pre: layer norms before the blocks, and one at the end of each stack; post: after the blocks.
        positions: Position embeddings of source and target: fixed sines, or a trained table.
        activation: Activation function of the feed-forward blocks.
        embeddings: shared: one table for source, target and output; decoder: one for target and output;
            separate: three.
        max_positions: Longest source or target in tokens, including end of sentence.

    Raises:
        ValueError: The width is not a multiple of the heads.
    """

    dim: Width = 256
    heads: Annotated[int, Field(ge=1)] = 4
    ffn_dim: Width = 1024
    encoder_layers: Layers = 3
    decoder_layers: Layers = 3
    dropout: DropoutRate = 0.1
    norm: Norm = "pre"
    positions: Positions = "sinusoidal"
    activation: Activation = "relu"
    embeddings: Annotated[
        Embeddings,
        Field(description="shared: source = target = output; decoder: target = output; separate: three tables"),
    ] = "shared"
    max_positions: MaxPositions = 512

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FairseqSettings:
    """Settings of an architecture of fairseq's own registry.

    Attributes:
        settings: fairseq's own options, with underscores. An option that is left out has fairseq's default.
        max_positions: Longest source or target in tokens, including end of sentence.
    """

    settings: Annotated[
        dict[str, bool | int | float | str],
        Field(description="fairseq's own options, with underscores: encoder_layers = 3"),
    ] = field(default_factory=dict)
    max_positions: MaxPositions = 512

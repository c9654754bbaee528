"""Settings that several architectures share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import Field

Norm = Literal["pre", "post"]
Positions = Literal["sinusoidal", "learned"]
Activation = Literal["relu", "gelu", "swish", "swiglu"]
Embeddings = Literal["shared", "decoder", "separate"]

Width = Annotated[int, Field(ge=8)]
Layers = Annotated[int, Field(ge=1)]
DropoutRate = Annotated[float, Field(ge=0.0, lt=1.0)]
Start = Literal["eos", "zero"] | Annotated[int, Field(ge=0)]
Compatible = Annotated[
    Literal["marian"] | None, Field(description="marian: the options with which `seqkd export marian` works")
]
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
        position_offset: The number of the first position of fixed sines. fairseq's is 2, Marian's is 0.
        norm_epsilon: The constant that layer norms add to the variance.

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
    position_offset: Annotated[
        int, Field(ge=0, description="number of the first position of fixed sines: 2 in fairseq, 0 in Marian")
    ] = 2
    norm_epsilon: Annotated[float, Field(gt=0.0, lt=1.0, description="added to the variance in layer norms")] = 1e-5

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerSettings(StackSettings):
    """Settings of a Transformer. The defaults are fairseq's; other toolkits differ in the options below.

    Attributes:
        start: The first input of the decoder. eos: the embedding of the end of sentence; zero: a vector of zeros; a
            number: the embedding of the piece with this id.
        output_bias: Whether the output layer has a bias.
        embedding_norm: Whether a layer norm follows the sum of embeddings and positions, as in BART.
        scale_embeddings: Whether embeddings are multiplied by sqrt(dim).
        compatible_with: The toolkit that can run the model after an export. It sets the options above.

    Raises:
        ValueError: An option is set to a value that this toolkit does not have.
    """

    start: Annotated[
        Start, Field(description="the first input of the decoder: eos, zero (a vector of zeros), or the id of a piece")
    ] = "eos"
    output_bias: Annotated[bool, Field(description="the output layer has a bias")] = False
    embedding_norm: Annotated[bool, Field(description="a layer norm after the embeddings, as in BART")] = False
    scale_embeddings: Annotated[bool, Field(description="multiply embeddings by sqrt(dim)")] = True
    compatible_with: Compatible = None

    def __post_init__(self) -> None:
        StackSettings.__post_init__(self)
        set_compatible(self, MARIAN_TRANSFORMER)


# The options of the models that Marian can run.
MARIAN: Mapping[str, Any] = {"start": "zero", "position_offset": 0, "norm_epsilon": 1e-6, "positions": "sinusoidal"}
MARIAN_TRANSFORMER: Mapping[str, Any] = {**MARIAN, "embedding_norm": False, "scale_embeddings": True}
MARIAN_SRU: Mapping[str, Any] = {**MARIAN, "cell": "ssru", "value_bias": False}


def list_differences(settings: Any, needed: Mapping[str, Any]) -> list[str]:
    """List the options of a model with which Marian cannot run it, one line each.

    Args:
        settings: The settings of an architecture, a dataclass.
        needed: The values that Marian needs.
    """
    wrong = [
        f"{name} is {getattr(settings, name)!r}, and must be {value!r}"
        for name, value in needed.items()
        if getattr(settings, name) != value
    ]
    if settings.activation == "swiglu":
        wrong.append("activation is 'swiglu', and must be relu, gelu or swish")
    return wrong


def set_compatible(settings: Any, needed: Mapping[str, Any]) -> None:
    """Set the options that the toolkit under `compatible_with` needs. Settings call it in `__post_init__`.

    Args:
        settings: The settings of an architecture, a dataclass.
        needed: The options that Marian needs.

    Raises:
        ValueError: An option is set, and not to the value that the toolkit needs.
    """
    if settings.compatible_with is None:
        return
    defaults = {option.name: option.default for option in fields(settings)}
    given = {name: value for name, value in needed.items() if getattr(settings, name) != defaults[name]}
    if wrong := list_differences(settings, given):
        raise ValueError(f"a model that is compatible with {settings.compatible_with}: {'; '.join(wrong)}")
    for name, value in needed.items():
        object.__setattr__(settings, name, value)


# Options that model folders have not always held. A folder leaves out those that have their default, so that its bytes
# are those of earlier versions.
LATER = (
    "position_offset",
    "norm_epsilon",
    "start",
    "output_bias",
    "embedding_norm",
    "scale_embeddings",
    "value_bias",
    "compatible_with",
)


def stored_settings(settings: Any) -> dict[str, Any]:
    """Return the settings of an architecture, a dataclass, as the configuration of a model folder holds them."""
    defaults = {option.name: option.default for option in fields(settings)}
    return {name: value for name, value in asdict(settings).items() if name not in LATER or value != defaults[name]}


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

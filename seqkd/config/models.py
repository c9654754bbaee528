"""Architectures and objectives as pipeline and stage files give them.

An architecture's fields are the arguments of its class, an objective's those of its own. A file that does not name the
architecture means a Transformer; one that does not name the objective means the architecture's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from seqkd.config.search import Strict
from seqkd.models.settings import Activation, Cell, CopyFrom, Embeddings, Norm, Positions

DEFAULT_ARCH = "transformer"
FAIRSEQ = "fairseq:"


# --- architectures ----------------------------------------------------------------------------------------------


class _Stacks(Strict):
    """What architectures with a Transformer encoder share."""

    dim: int = Field(256, ge=8)
    heads: int = Field(4, ge=1)
    ffn_dim: int = Field(1024, ge=8)
    encoder_layers: int = Field(3, ge=1)
    decoder_layers: int = Field(3, ge=1)
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    norm: Norm = "pre"
    positions: Positions = "sinusoidal"
    activation: Activation = "relu"
    embeddings: Embeddings = Field(
        "shared", description="shared: source = target = output; decoder: target = output; separate: three tables"
    )
    max_positions: int = Field(512, ge=4, description="longest source or target in tokens, end of sentence counted")

    @model_validator(mode="after")
    def _heads_divide(self) -> _Stacks:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        return self


class TransformerConfig(_Stacks):
    """An encoder-decoder Transformer (Vaswani et al. 2017)."""

    arch: Literal["transformer"] = "transformer"


class LstmConfig(Strict):
    """An LSTM encoder-decoder with general attention and input feeding (Luong et al. 2015; Kim and Rush 2016)."""

    arch: Literal["lstm"] = "lstm"
    dim: int = Field(256, ge=8, description="of embeddings and hidden states")
    encoder_layers: int = Field(2, ge=1, description="bidirectional, each direction dim / 2 wide")
    decoder_layers: int = Field(2, ge=1)
    dropout: float = Field(0.2, ge=0.0, lt=1.0)
    embeddings: Embeddings = "shared"
    max_positions: int = Field(512, ge=4, description="longest source or target in tokens, end of sentence counted")

    @model_validator(mode="after")
    def _halves(self) -> LstmConfig:
        if self.dim % 2:
            raise ValueError(f"dim {self.dim} is not even: each direction of the encoder has half of it")
        return self


class SruConfig(_Stacks):
    """A Transformer encoder and a decoder of simple recurrent units (Lei et al. 2018; Kim et al. 2019)."""

    arch: Literal["sru"] = "sru"
    encoder_layers: int = Field(6, ge=1)
    decoder_layers: int = Field(2, ge=1)
    cell: Cell = Field("ssru", description="ssru: Kim et al. 2019; sru: Lei et al. 2018")


class NatConfig(_Stacks):
    """Vanilla non-autoregressive Transformer (Gu et al. 2018) with a length or a fertility predictor."""

    arch: Literal["nat"] = "nat"
    embeddings: Literal["shared", "decoder"] = Field(
        "shared",
        description="shared: source = target = output; decoder: target = output (the decoder reads the source's)",
    )
    copy_from: CopyFrom = Field("uniform", description="how the decoder's input is copied from the source")


class CmlmConfig(_Stacks):
    """Conditional masked language model, decoded by mask-predict (Ghazvininejad et al. 2019)."""

    arch: Literal["cmlm"] = "cmlm"


class CtcConfig(_Stacks):
    """Upsampled encoder states, every output position at once, CTC over them (Libovický and Helcl 2018)."""

    arch: Literal["ctc"] = "ctc"
    upsample: int = Field(2, ge=1, le=16, description="output positions for each source token")


class DagConfig(_Stacks):
    """DA-Transformer: output positions are vertices of a directed acyclic graph (Huang et al. 2022)."""

    arch: Literal["dag"] = "dag"
    upsample: int = Field(8, ge=1, le=32, description="vertices for each source token")


class FairseqConfig(Strict):
    """An architecture of fairseq's own registry."""

    arch: str = Field(pattern=r"^fairseq:[A-Za-z0-9_]+$")
    settings: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="fairseq's own options, with underscores: encoder_layers = 3"
    )
    max_positions: int = Field(512, ge=4)


# --- objectives -------------------------------------------------------------------------------------------------


class NllConfig(Strict):
    """Negative log-likelihood with label smoothing."""

    type: Literal["nll"] = "nll"
    label_smoothing: float = Field(0.1, ge=0.0, lt=1.0)


Glancing = Annotated[
    tuple[Annotated[float, Field(ge=0.0, le=1.0)], Annotated[float, Field(ge=0.0, le=1.0)]] | None,
    Field(description="GLAT (Qian et al. 2021): share of wrong positions shown, at the start and the end of training"),
]


class NatLossConfig(Strict):
    """Cross-entropy at every position, and of the length or the fertilities."""

    type: Literal["nat"] = "nat"
    label_smoothing: float = Field(0.1, ge=0.0, lt=1.0)
    length_weight: float = Field(0.1, ge=0.0)
    glancing: Glancing = None


class CmlmLossConfig(Strict):
    """Cross-entropy at masked positions, and of the length."""

    type: Literal["cmlm"] = "cmlm"
    label_smoothing: float = Field(0.1, ge=0.0, lt=1.0)
    length_weight: float = Field(0.1, ge=0.0)


class CtcLossConfig(Strict):
    """Connectionist temporal classification (Graves et al. 2006)."""

    type: Literal["ctc"] = "ctc"
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    glancing: Glancing = None


class DagLossConfig(Strict):
    """Negative log-likelihood summed over all paths through the graph (Huang et al. 2022, section 3.2)."""

    type: Literal["dag"] = "dag"
    glancing: Glancing = (0.5, 0.1)


class WordKdConfig(Strict):
    """Word-level distillation: the teacher's distribution at every target position (Kim and Rush 2016, equation 5)."""

    type: Literal["word_kd"] = "word_kd"
    teachers: tuple[Path, ...] = Field(
        (), description="model folders that run beside the student, several as an ensemble; a pipeline has its own"
    )
    soft_targets: Path | None = Field(
        None,
        description="output of `distill --soft-targets`, in place of teachers; in a pipeline a [[soft_targets]]' name",
    )
    temperature: float = Field(1.0, gt=0.0, allow_inf_nan=False)
    alpha: float = Field(0.5, ge=0.0, le=1.0, description="alpha * KD + (1 - alpha) * NLL")
    top_k: int = Field(
        0, ge=0, description="the teacher's likeliest ids, and all others as one; 0: the whole vocabulary"
    )
    direction: Literal["forward", "reverse"] = Field(
        "forward", description="forward: cross-entropy under the teacher; reverse: KL(student || teacher)"
    )
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0, description="of the NLL")
    precision: Literal["auto", "float32", "bf16", "fp16"] = Field("auto", description="the teachers' products")

    @model_validator(mode="after")
    def _either(self) -> WordKdConfig:
        live = [
            name
            for name, given in (
                ("teachers", self.teachers),
                ("top_k", self.top_k),
                ("precision", self.precision != "auto"),
            )
            if given
        ]
        if self.soft_targets is not None and live:
            raise ValueError(f"{', '.join(live)}: for teachers that run along; leave out, or leave out soft_targets")
        return self


class FairseqLossConfig(Strict):
    """What fairseq itself trains the architecture with."""

    type: Literal["fairseq"] = "fairseq"
    label_smoothing: float = Field(0.1, ge=0.0, lt=1.0)


# --- choosing among them ----------------------------------------------------------------------------------------

MODELS: dict[str, type[Strict]] = {
    "transformer": TransformerConfig,
    "lstm": LstmConfig,
    "sru": SruConfig,
    "nat": NatConfig,
    "cmlm": CmlmConfig,
    "ctc": CtcConfig,
    "dag": DagConfig,
    FAIRSEQ: FairseqConfig,
}
OBJECTIVES: dict[str, type[Strict]] = {
    "nll": NllConfig,
    "nat": NatLossConfig,
    "cmlm": CmlmLossConfig,
    "ctc": CtcLossConfig,
    "dag": DagLossConfig,
    "fairseq": FairseqLossConfig,
    "word_kd": WordKdConfig,
}
# What each architecture can be trained to minimise; the first is what it is trained with unless the file says so.
SUITED: dict[str, tuple[str, ...]] = {
    "transformer": ("nll", "word_kd"),
    "lstm": ("nll", "word_kd"),
    "sru": ("nll", "word_kd"),
    "nat": ("nat",),
    "cmlm": ("cmlm",),
    "ctc": ("ctc",),
    "dag": ("dag",),
    FAIRSEQ: ("fairseq",),
}
# Objectives that count each row by its weight, where a corpus has weights.
WEIGHING = ("nll", "word_kd", "ctc", "dag")
# Architectures that write all positions at once; of fairseq's the model itself says it.
PARALLEL = frozenset({"nat", "cmlm", "ctc", "dag"})
# Those that the CPU engine has kernels for.
WITH_KERNELS = PARALLEL | {"transformer", "lstm", "sru"}


def tag(arch: str) -> str:
    """An architecture's key in `MODELS` and `SUITED`."""
    return FAIRSEQ if arch.startswith(FAIRSEQ) else arch


def _arch(value: Any) -> str:
    return tag(str(value.get("arch", DEFAULT_ARCH) if isinstance(value, dict) else getattr(value, "arch", None)))


def _type(value: Any) -> str:
    return str(value.get("type", "nll") if isinstance(value, dict) else getattr(value, "type", None))


ModelConfig = Annotated[
    Annotated[TransformerConfig, Tag("transformer")]
    | Annotated[LstmConfig, Tag("lstm")]
    | Annotated[SruConfig, Tag("sru")]
    | Annotated[NatConfig, Tag("nat")]
    | Annotated[CmlmConfig, Tag("cmlm")]
    | Annotated[CtcConfig, Tag("ctc")]
    | Annotated[DagConfig, Tag("dag")]
    | Annotated[FairseqConfig, Tag(FAIRSEQ)],
    Discriminator(_arch),
]
ObjectiveConfig = Annotated[
    Annotated[NllConfig, Tag("nll")]
    | Annotated[NatLossConfig, Tag("nat")]
    | Annotated[CmlmLossConfig, Tag("cmlm")]
    | Annotated[CtcLossConfig, Tag("ctc")]
    | Annotated[DagLossConfig, Tag("dag")]
    | Annotated[FairseqLossConfig, Tag("fairseq")]
    | Annotated[WordKdConfig, Tag("word_kd")],
    Discriminator(_type),
]


def with_objective(values: Any) -> Any:
    """Name the objective of a table with `model` and `objective` after its architecture, where it does not."""
    if not isinstance(values, dict):
        return values
    objective = values.get("objective", {})
    if not isinstance(objective, dict) or "type" in objective:
        return values
    suited = SUITED.get(_arch(values.get("model", {})))
    return values if suited is None else {**values, "objective": {**objective, "type": suited[0]}}


def check_objective(model: ModelConfig, objective: ObjectiveConfig) -> None:
    """Raise ValueError where an architecture cannot be trained with an objective."""
    suited = SUITED[tag(model.arch)]
    if objective.type not in suited:
        raise ValueError(
            f"objective.type {objective.type!r} does not fit model.arch {model.arch!r}, which takes {', '.join(suited)}"
        )

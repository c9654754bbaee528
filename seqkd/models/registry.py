"""Architectures by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from seqkd.errors import ModelError
from seqkd.extensions import Registry, resolve

if TYPE_CHECKING:  # planning a pipeline and listing registries should not import torch
    from torch import nn

Decoding = Literal["left to right", "all positions at once", "one label", "not at all", "by its own package"]

DEFAULT = "transformer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """The CPU kernels of an architecture.

    Attributes:
        engine: `module:attribute` of a class that takes the model and an arithmetic.
        misfit: `module:attribute` of a function that takes the settings by name. It returns one line if the kernels do
            not support the widths of the model, otherwise None.
    """

    engine: str
    misfit: str


Stack = Literal["encoder", "decoder"]
Attention = Literal["encoder", "decoder", "cross"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """Internal tensors of a model, which an architecture can expose or an objective can request.

    Attributes:
        hidden: The stacks whose hidden states are traced.
        attention: The kinds of attention that are traced; cross is the attention of the decoder to the source.
    """

    hidden: tuple[Stack, ...] = ()
    attention: tuple[Attention, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.hidden or self.attention)

    def __or__(self, other: Traces) -> Traces:
        return Traces(
            hidden=tuple(dict.fromkeys(self.hidden + other.hidden)),
            attention=tuple(dict.fromkeys(self.attention + other.attention)),
        )

    def without(self, other: Traces) -> list[str]:
        """Name the tensors that `other` lacks, for an error message."""
        return [f"hidden states of the {name}" for name in self.hidden if name not in other.hidden] + [
            f"attention ({name})" for name in self.attention if name not in other.attention
        ]


NO_TRACES = Traces()


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A kind of model.

    Attributes:
        name: The name that files use. A family of architectures of another package has a prefix that ends with a colon.
        help: A description in one line.
        settings: `module:attribute` of its settings, a frozen dataclass.
        build: `module:attribute` of a callable that takes the settings, and `source_vocab` and `target_vocab` as
            keywords, and returns the model with fresh weights. For a family it takes the full name as first argument.
        decodes: How the architecture writes a target.
        objective: The objective for training, unless the file names another one.
        plain: `module:attribute` of the engine in plain torch, a `SearchModel` for models that decode left to right.
            None for a model that decodes by itself (`ParallelModel`).
        cpu: The CPU kernels, if there are any.
        gpu: `module:attribute` of the engine for GPUs, if there is one.
        traces: The hidden states and the attention that `seqkd.models.trace` can record.
    """

    name: str
    help: str
    settings: str
    build: str
    decodes: Decoding
    objective: str
    plain: str | None = None
    cpu: Kernels | None = None
    gpu: str | None = None
    traces: Traces = NO_TRACES

    @property
    def left_to_right(self) -> bool:
        """Whether beam search can decode with it, so that it can be a teacher."""
        return self.decodes == "left to right"


_EVERYTHING = Traces(hidden=("encoder", "decoder"), attention=("encoder", "decoder", "cross"))
_STACK_STEPS = Kernels(engine="seqkd.search.cpu.engine:NativeModel", misfit="seqkd.kernels.widths:stack_misfit")
_LSTM_STEPS = Kernels(engine="seqkd.search.cpu.engine:NativeModel", misfit="seqkd.kernels.widths:lstm_misfit")
_AT_ONCE = Kernels(engine="seqkd.search.cpu.stack:NativeParallel", misfit="seqkd.kernels.widths:stack_misfit")

ARCHITECTURES = Registry(
    "architecture",
    Architecture,
    group="seqkd.architectures",
    own={
        "transformer": Architecture(
            name="transformer",
            help="An encoder-decoder Transformer (Vaswani et al. 2017)",
            settings="seqkd.models.settings:TransformerSettings",
            build="seqkd.models.transformer:Transformer",
            decodes="left to right",
            objective="nll",
            plain="seqkd.search.plain.transformer:IncrementalTransformer",
            cpu=_STACK_STEPS,
            gpu="seqkd.search.gpu.engine:GraphTransformer",
            traces=_EVERYTHING,
        ),
        "lstm": Architecture(
            name="lstm",
            help="An LSTM encoder-decoder with attention and input feeding (Luong et al. 2015; Kim and Rush 2016)",
            settings="seqkd.models.lstm:LstmSettings",
            build="seqkd.models.lstm:Lstm",
            decodes="left to right",
            objective="nll",
            plain="seqkd.search.plain.lstm:IncrementalLstm",
            cpu=_LSTM_STEPS,
            traces=Traces(hidden=("encoder",)),
        ),
        "sru": Architecture(
            name="sru",
            help="A Transformer encoder and a decoder of simple recurrent units (Lei et al. 2018; Kim et al. 2019)",
            settings="seqkd.models.sru:SruSettings",
            build="seqkd.models.sru:Sru",
            decodes="left to right",
            objective="nll",
            plain="seqkd.search.plain.sru:IncrementalSru",
            cpu=_STACK_STEPS,
            traces=Traces(hidden=("encoder", "decoder"), attention=("encoder", "cross")),
        ),
        "nat": Architecture(
            name="nat",
            help="Vanilla non-autoregressive Transformer (Gu et al. 2018) with a length or a fertility predictor",
            settings="seqkd.models.nat.vanilla:NatSettings",
            build="seqkd.models.nat.vanilla:Nat",
            decodes="all positions at once",
            objective="nat",
            cpu=_AT_ONCE,
            traces=_EVERYTHING,
        ),
        "cmlm": Architecture(
            name="cmlm",
            help="Conditional masked language model, decoded by mask-predict (Ghazvininejad et al. 2019)",
            settings="seqkd.models.settings:StackSettings",
            build="seqkd.models.nat.cmlm:Cmlm",
            decodes="all positions at once",
            objective="cmlm",
            cpu=_AT_ONCE,
            traces=_EVERYTHING,
        ),
        "ctc": Architecture(
            name="ctc",
            help="Upsampled encoder states, every output position at once, CTC over them (Libovický and Helcl 2018)",
            settings="seqkd.models.nat.ctc:CtcSettings",
            build="seqkd.models.nat.ctc:Ctc",
            decodes="all positions at once",
            objective="ctc",
            cpu=_AT_ONCE,
            traces=_EVERYTHING,
        ),
        "dag": Architecture(
            name="dag",
            help="DA-Transformer: output positions are vertices of a directed acyclic graph (Huang et al. 2022)",
            settings="seqkd.models.nat.dag:DagSettings",
            build="seqkd.models.nat.dag:Dag",
            decodes="all positions at once",
            objective="dag",
            cpu=_AT_ONCE,
            traces=_EVERYTHING,
        ),
        "fairseq:": Architecture(
            name="fairseq:",
            help="An architecture of fairseq's own registry, decoded by fairseq (Ott et al. 2019)",
            settings="seqkd.models.settings:FairseqSettings",
            build="seqkd.interop.fairseq_models:build",
            decodes="by its own package",
            objective="fairseq",
        ),
    },
)


def build(arch: str, settings: Mapping[str, Any], *, source_vocab: int, target_vocab: int) -> nn.Module:
    """Build a model with fresh weights.

    Args:
        arch: The name of the architecture.
        settings: The settings of the architecture, without the sizes of the vocabularies.
        source_vocab: Number of source pieces.
        target_vocab: Number of target pieces.

    Raises:
        ModelError: The architecture does not exist, does not accept the settings, or needs a missing package.
    """
    record = ARCHITECTURES.find(arch)
    if record is None:
        raise ModelError(f"unknown architecture {arch!r}", expected=f"one of: {ARCHITECTURES.known()}")
    make, kind = resolve(record.build), resolve(record.settings)
    named = (arch,) if record.name.endswith(":") else ()
    try:
        return make(*named, kind(**settings), source_vocab=source_vocab, target_vocab=target_vocab)  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise ModelError(f"the settings do not fit the architecture {arch!r}: {error}") from None


def misfit(arch: str, settings: Mapping[str, Any]) -> str | None:
    """Explain why the CPU kernels do not support a model.

    Args:
        arch: The name of the architecture.
        settings: The settings of the architecture.

    Returns:
        One line, which names the nearest supported widths if there are any. None if the kernels support the model, if
        its own package decodes it, or if the settings are invalid.

    Raises:
        ExtensionError: The architecture's entry point cannot be used.
    """
    record = ARCHITECTURES.find(arch)
    if record is None or record.decodes == "by its own package":
        return None
    if record.cpu is None:
        return f"there are no CPU kernels for arch {arch}"
    try:
        why: str | None = resolve(record.cpu.misfit)(settings)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):  # building the model reports the problem
        return None
    return why


def setting_names(settings: str) -> list[str]:
    """Return the names of the settings of a record."""
    return [field.name for field in fields(resolve(settings))]

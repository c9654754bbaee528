"""Architectures by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from seqkd.errors import ModelError
from seqkd.extensions import Registry, resolve

if TYPE_CHECKING:  # pipeline files are planned, and registries listed, without torch where they can be
    from torch import nn

Decoding = Literal["left to right", "all positions at once", "one label", "not at all", "by its own package"]

DEFAULT = "transformer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """What drives an architecture on the CPU.

    Attributes:
        engine: `module:attribute` of a class that takes the model and an arithmetic.
        misfit: `module:attribute` of a function that takes the settings by name and gives one line if the kernels do
            not fit the model's widths, None if they do.
    """

    engine: str
    misfit: str


Stack = Literal["encoder", "decoder"]
Attention = Literal["encoder", "decoder", "cross"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """Parts of a model: those that an architecture can show, or those that an objective wants to see.

    Attributes:
        hidden: Stacks whose hidden states are meant.
        attention: Attention of the encoder or the decoder over itself, or of the decoder over the source (cross).
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
        """The parts that `other` does not have, as words for an error message."""
        return [f"hidden states of the {name}" for name in self.hidden if name not in other.hidden] + [
            f"attention ({name})" for name in self.attention if name not in other.attention
        ]


NO_TRACES = Traces()


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A kind of model.

    Attributes:
        name: By which files name it; a family of another package's architectures has a prefix that ends with a colon.
        help: One line about it.
        settings: `module:attribute` of its settings, a frozen dataclass.
        build: `module:attribute` of a callable that takes the settings, and `source_vocab` and `target_vocab` by
            keyword, and gives the model with fresh weights. A family's takes the full name before them.
        decodes: How it writes a target.
        objective: The objective that it is trained with unless the file names another.
        plain: `module:attribute` of the engine in torch, a `SearchModel` of a model that decodes left to right. None
            for a model that decodes itself (`ParallelModel`).
        cpu: The kernels that drive it on the CPU, if there are any.
        gpu: `module:attribute` of the engine on a GPU, if there is one.
        traces: The hidden states and the attention that `seqkd.models.trace` can record of it.
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
        """Whether beam search drives it, so that it can be a teacher."""
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
            settings="seqkd.models.settings:StackSettings",
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
    """A model with fresh weights.

    Args:
        arch: The architecture's name.
        settings: Its own options, without the vocabularies' sizes.
        source_vocab: Source pieces.
        target_vocab: Target pieces.

    Raises:
        ModelError: There is no such architecture, it does not take the settings, or its package is not installed.
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
    """Why the CPU kernels do not drive a model.

    Args:
        arch: The architecture's name.
        settings: Its options by name.

    Returns:
        One line, which names the nearest widths that fit if others would; None if the kernels drive the model, if its
        own package decodes it, or if the settings are damaged.

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
    except (KeyError, TypeError, ValueError, ZeroDivisionError):  # building the model says what is wrong
        return None
    return why


def setting_names(settings: str) -> list[str]:
    """The names of the settings of a record."""
    return [field.name for field in fields(resolve(settings))]

"""The configurations of Hugging Face models as settings of seqkd's Transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqkd.errors import ModelError
from seqkd.interop.huggingface_files import CONFIG, GENERATION_CONFIG, MODEL_TYPE, read_json

INSTEAD = (
    'for a model of another architecture use `source = { type = "huggingface", model = ... }` in [[distill]], which '
    "decodes with transformers itself"
)

_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "swish", "silu": "swish"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """A type of model that seqkd's Transformer can compute.

    Attributes:
        architecture: The library's class with an output layer.
        norm: The place of the layer norms.
        positions: The kind of the positions.
        embedding_norm: Whether a norm follows the embeddings.
        position_rows: Rows at the start of a table of positions that belong to no position.
        scale_embedding: The library's default.
        activation: The library's default.
        specials: The library's default ids of bos, pad and eos.
    """

    architecture: str
    norm: str
    positions: str
    embedding_norm: bool = False
    position_rows: int = 0
    scale_embedding: bool = False
    activation: str = "gelu"
    specials: tuple[int | None, int, int] = (0, 1, 2)


# MarianMT has fixed positions that differ from seqkd's. They are stored in the model, as learned ones are.
KINDS: Mapping[str, _Kind] = {
    "marian": _Kind(architecture="MarianMTModel", norm="post", positions="learned", specials=(None, 58100, 0)),
    "m2m_100": _Kind(
        architecture="M2M100ForConditionalGeneration",
        norm="pre",
        positions="sinusoidal",
        scale_embedding=True,
        activation="relu",
    ),
    "mbart": _Kind(
        architecture="MBartForConditionalGeneration",
        norm="pre",
        positions="learned",
        embedding_norm=True,
        position_rows=2,
    ),
    "bart": _Kind(
        architecture="BartForConditionalGeneration",
        norm="post",
        positions="learned",
        embedding_norm=True,
        position_rows=2,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The configuration of a model.

    Attributes:
        kind: The library's type of the model.
        settings: The settings of seqkd's Transformer, without `start` and `output_bias`.
        source_rows: Rows of the source's table.
        rows: Rows of the target's table.
        position_rows: Rows at the start of a table of positions that belong to no position.
        bos: The library's id of the begin of sentence, or None.
        pad: The library's id of padding.
        eos: The library's id of the end of sentence.
        start: The library's id of the first input of the decoder.
        forced: The library's id of the first piece of every output, if it is forced.
        search: Options of the library's search that have an equal in seqkd's, for the user.
        where: The file, for messages.
    """

    kind: str
    settings: dict[str, Any]
    source_rows: int
    rows: int
    position_rows: int
    bos: int | None
    pad: int
    eos: int
    start: int
    forced: int | None
    search: dict[str, Any]
    where: Path


def read_facts(folder: Path) -> ModelFacts:
    """Read the configuration of a model.

    Raises:
        ModelError: The file is missing or damaged, or the model has an architecture or an option that seqkd's
            Transformer does not have, which the message names.
    """
    where = folder / CONFIG
    config = read_json(where)
    generation = read_json(folder / GENERATION_CONFIG, optional=True)
    kind = KINDS.get(str(config.get(MODEL_TYPE)))
    if kind is None:
        raise ModelError(
            f"its model_type is {config.get(MODEL_TYPE)!r}",
            where=str(where),
            expected=f"one of: {', '.join(KINDS)} (NLLB is m2m_100)",
            hint=INSTEAD,
        )
    _refuse(config, kind, where)
    get = _Reader(config, where)
    both = {
        "heads": get.same("encoder_attention_heads", "decoder_attention_heads"),
        "ffn_dim": get.same("encoder_ffn_dim", "decoder_ffn_dim"),
    }
    shared = get.flag("share_encoder_decoder_embeddings", default=True) or config[MODEL_TYPE] != "marian"
    tied = get.flag("tie_word_embeddings", default=True)
    if shared and not tied:
        raise ModelError(
            "tie_word_embeddings is false", where=str(where), expected="true, if encoder and decoder share embeddings"
        )
    activation = str(config.get("activation_function", kind.activation))
    if activation not in _ACTIVATIONS:
        raise ModelError(
            f"activation_function is {activation!r}",
            where=str(where),
            expected=f"one of: {', '.join(_ACTIVATIONS)}",
            hint=INSTEAD,
        )
    settings: dict[str, Any] = {
        "dim": get.number("d_model"),
        **both,
        "encoder_layers": get.number("encoder_layers"),
        "decoder_layers": get.number("decoder_layers"),
        "dropout": float(config.get("dropout", 0.1)),
        "norm": kind.norm,
        "positions": kind.positions,
        "activation": _ACTIVATIONS[activation],
        "embeddings": "shared" if shared else "decoder" if tied else "separate",
        "max_positions": get.number("max_position_embeddings", default=1024),
        "embedding_norm": kind.embedding_norm,
        "scale_embeddings": get.flag("scale_embedding", default=kind.scale_embedding),
    }
    rows = get.number("vocab_size")
    bos, pad, eos = (
        get.identifier(f"{name}_token_id", {}, default=default)
        for name, default in zip(("bos", "pad", "eos"), kind.specials, strict=True)
    )
    # For these the library's search reads the configuration of generation first.
    start = get.identifier("decoder_start_token_id", generation, default=None)
    if pad is None or eos is None:
        raise ModelError("pad_token_id or eos_token_id is null", where=str(where), expected="ids of pieces")
    if start is None:  # the defaults of the library
        start = {"marian": pad, "mbart": bos}.get(str(config[MODEL_TYPE]), eos)
    return ModelFacts(
        kind=str(config[MODEL_TYPE]),
        settings=settings,
        source_rows=rows,
        rows=rows if shared else get.number("decoder_vocab_size", default=rows),
        position_rows=kind.position_rows,
        bos=bos,
        pad=pad,
        eos=eos,
        start=eos if start is None else start,
        forced=get.identifier("forced_bos_token_id", generation, default=None),
        search={
            ours: (generation | config)[theirs]
            for theirs, ours in (("num_beams", "beam"), ("length_penalty", "length_penalty"))
            if isinstance((generation | config).get(theirs), int | float)
        },
        where=where,
    )


def _refuse(config: Mapping[str, Any], kind: _Kind, where: Path) -> None:
    """Refuse models without an output layer for text, and models whose weights are quantised."""
    named = config.get("architectures")
    if isinstance(named, list) and named and kind.architecture not in named:
        raise ModelError(
            f"its architecture is {', '.join(map(str, named))}", where=str(where), expected=kind.architecture
        )
    if config.get("quantization_config"):
        raise ModelError(
            "its weights are quantised (quantization_config)", where=str(where), expected="weights in floats"
        )


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads values of a configuration and checks their types."""

    config: Mapping[str, Any]
    where: Path

    def number(self, name: str, *, default: int | None = None) -> int:
        value = self.config.get(name)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(f"{name} is {value!r}", where=str(self.where), expected="a positive whole number")
        return value

    def same(self, encoder: str, decoder: str) -> int:
        """Return a number that encoder and decoder must share."""
        first, second = self.number(encoder), self.number(decoder)
        if first != second:
            raise ModelError(
                f"{encoder} is {first}, and {decoder} is {second}",
                where=str(self.where),
                expected="the same number",
                hint=INSTEAD,
            )
        return first

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.config.get(name)
        return default if value is None else bool(value)

    def identifier(self, name: str, generation: Mapping[str, Any], *, default: int | None) -> int | None:
        """Return the id of a piece from the configuration of generation or, if it is not there, of the model."""
        value = generation.get(name)
        value = self.config.get(name, default) if value is None else value
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise ModelError(f"{name} is {value!r}", where=str(self.where), expected="the id of one piece")
        return value

"""Export of Transformers to CTranslate2 through the library's own specification of models."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from seqkd.corpus.files import atomic_write, sync
from seqkd.corpus.manifest import Manifest, Provenance, StageOutput
from seqkd.errors import ModelError
from seqkd.interop.ctranslate2_files import (
    MODEL,
    SOURCE_SENTENCEPIECE,
    TARGET_SENTENCEPIECE,
    Quantization,
)
from seqkd.interop.ctranslate2_library import Activation, TransformerSpec
from seqkd.models.checkpoint import LoadedModel, load_model
from seqkd.models.registry import ARCHITECTURES
from seqkd.models.settings import TransformerSettings
from seqkd.models.transformer import CrossAttention, DecoderLayer, EncoderLayer, FeedForward, SelfAttention, Transformer
from seqkd.text.huggingface import ToolkitVocabulary
from seqkd.text.vocabularies import TextVocabulary, Vocabularies
from seqkd.text.vocabulary import MODELS, Side

_ACTIVATIONS = {"relu": "RELU", "gelu": "GELU", "swish": "SWISH", "swiglu": "SWISH"}


def export_model(
    model_dir: str | Path, out: str | Path, *, quantization: Quantization = "float32", overwrite: bool = False
) -> None:
    """Write a model folder for CTranslate2: model.bin, config.json, vocabularies, and the files of the tokenizers.

    SentencePiece models are written as source.spm and target.spm. A tokenizer of Hugging Face is written as the folder
    tokenizer/.

    Args:
        model_dir: The model folder.
        out: The output folder.
        quantization: The type in which weights are stored. Biases and norms of int8 models stay in float32.
        overwrite: Whether to replace a folder that was made from other inputs.

    Raises:
        ModelError: CTranslate2 has no equivalent architecture, or is not installed.
        ConflictError: `out` was made from other inputs.
        WorkError: A file cannot be written, for example because the disk is full.
    """
    model_dir, out = Path(model_dir), Path(out)
    loaded = load_model(model_dir)
    spec = _make_spec(loaded, model_dir)
    made_by = Provenance(
        stage="export",
        settings={"to": "ctranslate2", "quantization": quantization},
        inputs={"model": loaded.digest},
    )
    with StageOutput.open(out, "export", made_by, overwrite=overwrite) as output:
        if output.complete:
            return
        if quantization != "float32":
            spec.optimize(quantization=quantization)
        _save(spec, out)
        for name, data in _tokenizers(loaded.vocabularies).items():
            (out / name).parent.mkdir(exist_ok=True)
            atomic_write(out / name, data)
        extra = {"to": "ctranslate2", "quantization": quantization}
        fingerprint, vocabulary = made_by.fingerprint, loaded.vocabularies.target.digest
        output.commit(Manifest(kind="export", fingerprint=fingerprint, vocabulary=vocabulary, extra=extra))


def _make_spec(loaded: LoadedModel, where: Path) -> Any:
    """Fill CTranslate2's specification of a Transformer."""
    model = loaded.model
    if not isinstance(model, Transformer):
        raise ModelError(
            f"CTranslate2 cannot run the architecture {loaded.arch!r}: {_difference(loaded)}",
            where=str(where),
            expected="a model of the architecture transformer",
        )
    settings = TransformerSettings(**loaded.settings)
    spec = TransformerSpec.from_config(
        (len(model.encoder), len(model.decoder)),
        model.heads,
        pre_norm=model.norm == "pre",
        activation=getattr(Activation, _ACTIVATIONS[settings.activation]),
        layernorm_embedding=settings.embedding_norm,
        ffn_glu=settings.activation == "swiglu",
    )
    for part, table, positions, norm, last in (
        (spec.encoder, model.source_embedding, model.source_positions, model.source_embedding_norm, model.encoder_norm),
        (spec.decoder, model.target_embedding, model.target_positions, model.target_embedding_norm, model.decoder_norm),
    ):
        part.scale_embeddings = settings.scale_embeddings
        embeddings = part.embeddings[0] if part is spec.encoder else part.embeddings
        embeddings.weight = _array(table)
        part.position_encodings.encodings = _array(positions)  # without a table, CTranslate2 computes another one
        if isinstance(norm, nn.LayerNorm):
            _set_norm(part.layernorm_embedding, norm)
        if isinstance(last, nn.LayerNorm):
            _set_norm(part.layer_norm, last)
    spec.decoder.start_from_zero_embedding = model.zero_start
    for layer, their in zip(model.encoder, spec.encoder.layer, strict=True):
        own = cast(EncoderLayer, layer)
        _set_self_attention(their.self_attention, own.attention, own.attention_norm)
        _set_feed_forward(their.ffn, own.ffn, own.ffn_norm)
    for layer, their in zip(model.decoder, spec.decoder.layer, strict=True):
        deep = cast(DecoderLayer, layer)
        _set_self_attention(their.self_attention, deep.attention, deep.attention_norm)
        _set_cross_attention(their.attention, deep.cross, deep.cross_norm)
        _set_feed_forward(their.ffn, deep.ffn, deep.ffn_norm)
    spec.decoder.projection.weight = _array(model.output_weight)
    if model.output_bias is not None:
        spec.decoder.projection.bias = _array(model.output_bias)
    _set_vocabularies(spec, loaded.vocabularies, start=model.start_id)
    spec.config.layer_norm_epsilon = settings.norm_epsilon
    spec.validate()
    return spec


def _difference(loaded: LoadedModel) -> str:
    if loaded.arch == "sru":
        return "its decoder has recurrent units in place of self-attention"
    if loaded.arch == "lstm":
        return "it is a recurrent network"
    record = ARCHITECTURES.find(loaded.arch)
    return "its layers differ" if record is None or record.left_to_right else f"it decodes {record.decodes}"


def _set_vocabularies(spec: Any, vocabularies: Vocabularies, *, start: int) -> None:
    pieces = vocabularies.target.pieces()
    spec.register_source_vocabulary(vocabularies.source.pieces())
    spec.register_target_vocabulary(pieces)
    target = vocabularies.target
    spec.config.bos_token = pieces[target.bos_id]
    spec.config.eos_token = pieces[target.eos_id]
    spec.config.unk_token = pieces[target.unk_id]
    spec.config.decoder_start_token = pieces[start]
    spec.config.add_source_bos = False
    spec.config.add_source_eos = True


def _set_norm(their: Any, norm: nn.LayerNorm) -> None:
    their.gamma, their.beta = _array(norm.weight), _array(norm.bias)


def _set_linear(their: Any, layer: nn.Linear) -> None:
    their.weight, their.bias = _array(layer.weight), _array(layer.bias)


def _set_self_attention(their: Any, block: SelfAttention, norm: nn.LayerNorm) -> None:
    _set_linear(their.linear[0], block.qkv)
    _set_linear(their.linear[1], block.out)
    _set_norm(their.layer_norm, norm)


def _set_cross_attention(their: Any, block: CrossAttention, norm: nn.LayerNorm) -> None:
    _set_linear(their.linear[0], block.query)
    _set_linear(their.linear[1], block.key_value)
    _set_linear(their.linear[2], block.out)
    _set_norm(their.layer_norm, norm)


def _set_feed_forward(their: Any, block: FeedForward, norm: nn.LayerNorm) -> None:
    if block.activation == "swiglu":
        (value, gate), (value_bias, gate_bias) = block.inner.weight.chunk(2), block.inner.bias.chunk(2)
        their.linear_0.weight, their.linear_0.bias = _array(gate), _array(gate_bias)
        their.linear_0_noact.weight, their.linear_0_noact.bias = _array(value), _array(value_bias)
    else:
        _set_linear(their.linear_0, block.inner)
    _set_linear(their.linear_1, block.out)
    _set_norm(their.layer_norm, norm)


def _array(weight: Tensor) -> npt.NDArray[np.float32]:
    return cast("npt.NDArray[np.float32]", weight.detach().float().contiguous().numpy())


def _save(spec: Any, out: Path) -> None:
    """Write the files of the library, the model last."""
    with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as folder:
        spec.save(folder)
        for path in sorted(Path(folder).iterdir(), key=lambda path: path.name == MODEL):
            sync(path)
            path.replace(out / path.name)


def _tokenizers(vocabularies: Vocabularies) -> Mapping[str, bytes]:
    """Return the files with which callers turn texts into pieces, by name."""
    if isinstance(vocabularies.target, ToolkitVocabulary):
        return vocabularies.files()
    sides: tuple[tuple[Side, TextVocabulary, str], ...] = (
        ("source", vocabularies.source, SOURCE_SENTENCEPIECE),
        ("target", vocabularies.target, TARGET_SENTENCEPIECE),
    )
    return {name: vocabulary.files(side)[MODELS[side]] for side, vocabulary, name in sides}

"""Export of students to Marian (Junczys-Dowmunt et al. 2018), with which browsers translate.

Only students with `compatible_with = "marian"` compute what Marian computes: other models differ in the first input of
the decoder, in the numbers of positions, or in biases.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from seqkd.corpus.files import atomic_write
from seqkd.corpus.manifest import Manifest, Provenance, StageOutput
from seqkd.errors import ModelError
from seqkd.interop.marian_files import CONFIG_KEY, DECODER, MODEL
from seqkd.models.checkpoint import LoadedModel, load_model
from seqkd.models.settings import MARIAN_SRU, MARIAN_TRANSFORMER, StackSettings, TransformerSettings, list_differences
from seqkd.models.sru import RecurrentLayer, SimplerUnit, Sru, SruSettings
from seqkd.models.transformer import CrossAttention, DecoderLayer, EncoderLayer, FeedForward, SelfAttention, Transformer
from seqkd.text.vocabularies import Vocabularies
from seqkd.text.vocabulary import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Vocabulary, schema

Array = npt.NDArray[Any]
Model = Transformer | Sru

# Marian's own order of special pieces is the end of sentence and the unknown piece; the others follow.
_FIRST = (EOS_ID, UNK_ID, BOS_ID, PAD_ID)


def export_model(model_dir: str | Path, out: str | Path, *, overwrite: bool = False) -> None:
    """Write a student for Marian: model.npz, its vocabularies (.spm) and decoder.yml.

    The special pieces of a vocabulary get the ids that Marian's own trainer gives them, and the rows of the tables move
    with them. decoder.yml lets `marian-decoder -c decoder.yml` translate.

    Args:
        model_dir: The model folder.
        out: The output folder.
        overwrite: Whether to replace a folder that was made from other inputs.

    Raises:
        ModelError: Marian cannot compute what the model computes, or its vocabulary is not a SentencePiece model.
        ConflictError: `out` was made from other inputs.
        WorkError: A file cannot be written, for example because the disk is full.
    """
    model_dir, out = Path(model_dir), Path(out)
    loaded = load_model(model_dir)
    model, settings = _check(loaded, model_dir)
    files = _vocabulary_files(loaded.vocabularies, model_dir)
    made_by = Provenance(stage="export", settings={"to": "marian"}, inputs={"model": loaded.digest})
    with StageOutput.open(out, "export", made_by, overwrite=overwrite) as output:
        if output.complete:
            return
        arrays = dict(_arrays(model, settings))
        # Exactly one NUL ends the configuration: CTranslate2's converter cuts off one byte.
        text = _config(model, settings).encode() + b"\0"
        arrays[CONFIG_KEY] = np.frombuffer(text, dtype=np.int8)
        buffer = io.BytesIO()
        np.savez(buffer, **cast("dict[str, Any]", arrays))
        atomic_write(out / MODEL, buffer.getbuffer())
        for name, data in files.items():
            atomic_write(out / name, data)
        atomic_write(out / DECODER, _decoder_config(list(files), settings).encode())
        fingerprint, vocabulary = made_by.fingerprint, loaded.vocabularies.target.digest
        output.commit(Manifest(kind="export", fingerprint=fingerprint, vocabulary=vocabulary, extra={"to": "marian"}))


def _check(loaded: LoadedModel, where: Path) -> tuple[Model, StackSettings]:
    """Return the model and its settings if Marian can run it.

    Raises:
        ModelError: Marian cannot run it.
    """
    model = loaded.model
    settings: TransformerSettings | SruSettings
    if isinstance(model, Transformer):
        settings = TransformerSettings(**loaded.settings)
        wrong = list_differences(settings, MARIAN_TRANSFORMER)
    elif isinstance(model, Sru):
        settings = SruSettings(**loaded.settings)
        wrong = list_differences(settings, MARIAN_SRU)
    else:
        raise ModelError(
            f"Marian has no equivalent of the architecture {loaded.arch!r}",
            where=str(where),
            expected="a transformer, or an sru with the cell ssru",
        )
    if settings.dim % 2:
        wrong.append(f"dim is {settings.dim}, and must be even")
    if wrong:
        raise ModelError(
            "Marian computes something else than this model:\n    " + "\n    ".join(wrong),
            where=str(where),
            expected='a student that was trained with compatible_with = "marian" in the table `model`',
            hint="train such a student; `init_from` can start from this model",
        )
    return model, settings


def _arrays(model: Model, settings: StackSettings) -> Iterator[tuple[str, Array]]:
    """Yield the parameters by Marian's names: matrices as `[inputs, outputs]`, vectors as `[1, outputs]`."""
    order = {name: _new_order(size) for name, size in (("source", model.source_vocab), ("target", model.target_vocab))}
    target = _matrix(model.target_embedding)[order["target"]]
    if settings.embeddings == "shared":
        yield "Wemb", target
    else:
        yield "encoder_Wemb", _matrix(model.source_embedding)[order["source"]]
        yield "decoder_Wemb", target
    if settings.embeddings == "separate":
        yield "decoder_ff_logit_out_Wt", _matrix(model.output_weight)[order["target"]]
    bias = model.output_bias if isinstance(model, Transformer) else None
    zeros = np.zeros((1, model.target_vocab), dtype=np.float32)
    yield "decoder_ff_logit_out_b", zeros if bias is None else _vector(bias)[:, order["target"]]
    pre = settings.norm == "pre"
    for number, layer in enumerate(model.encoder, start=1):
        name = f"encoder_l{number}"
        encoder = cast(EncoderLayer, layer)
        yield from _self_attention(f"{name}_self", encoder.attention)
        yield from _norm(f"{name}_self_Wo", encoder.attention_norm, pre=pre)
        yield from _feed_forward(f"{name}_ffn", encoder.ffn)
        yield from _norm(f"{name}_ffn_ffn", encoder.ffn_norm, pre=pre)
    for number, layer in enumerate(model.decoder, start=1):
        name = f"decoder_l{number}"
        decoder = cast("DecoderLayer | RecurrentLayer", layer)
        if isinstance(decoder, RecurrentLayer):
            yield from _unit(f"{name}_rnn", cast(SimplerUnit, decoder.unit))
            yield from _norm(f"{name}_rnn" if pre else f"{name}_rnn_ffn", decoder.unit_norm, pre=pre)
        else:
            yield from _self_attention(f"{name}_self", decoder.attention)
            yield from _norm(f"{name}_self_Wo", decoder.attention_norm, pre=pre)
        yield from _cross_attention(f"{name}_context", decoder.cross)
        yield from _norm(f"{name}_context_Wo", decoder.cross_norm, pre=pre)
        yield from _feed_forward(f"{name}_ffn", decoder.ffn)
        yield from _norm(f"{name}_ffn_ffn", decoder.ffn_norm, pre=pre)
    for stack, last in (("encoder", model.encoder_norm), ("decoder", model.decoder_norm)):
        if isinstance(last, nn.LayerNorm):
            yield from _norm(f"{stack}_top", last, pre=False)


def _norm(name: str, norm: nn.LayerNorm, *, pre: bool) -> Iterator[tuple[str, Array]]:
    end = "_pre" if pre else ""
    yield f"{name}_ln_scale{end}", _vector(norm.weight)
    yield f"{name}_ln_bias{end}", _vector(norm.bias)


def _linear(name: str, part: str, weight: Tensor, bias: Tensor) -> Iterator[tuple[str, Array]]:
    yield f"{name}_W{part}", _matrix(weight.t())
    yield f"{name}_b{part}", _vector(bias)


def _split(name: str, parts: str, layer: nn.Linear) -> Iterator[tuple[str, Array]]:
    """Yield the parts of a product that computes several results at once."""
    for part, weight, bias in zip(parts, layer.weight.chunk(len(parts)), layer.bias.chunk(len(parts)), strict=True):
        yield from _linear(name, part, weight, bias)


def _self_attention(name: str, block: SelfAttention) -> Iterator[tuple[str, Array]]:
    yield from _split(name, "qkv", block.qkv)
    yield from _split(name, "o", block.out)


def _cross_attention(name: str, block: CrossAttention) -> Iterator[tuple[str, Array]]:
    yield from _split(name, "q", block.query)
    yield from _split(name, "kv", block.key_value)
    yield from _split(name, "o", block.out)


def _feed_forward(name: str, block: FeedForward) -> Iterator[tuple[str, Array]]:
    yield from _split(name, "1", block.inner)
    yield from _split(name, "2", block.out)


def _unit(name: str, unit: SimplerUnit) -> Iterator[tuple[str, Array]]:
    gate, value = unit.products.weight.chunk(2)
    yield f"{name}_W", _matrix(value.t())
    yield from _linear(name, "f", gate, unit.bias.chunk(2)[0])


def _matrix(weight: Tensor) -> Array:
    return np.ascontiguousarray(weight.detach().float().numpy())


def _vector(weight: Tensor) -> Array:
    return _matrix(weight)[None]


def _new_order(size: int) -> list[int]:
    """Return seqkd's id of each of Marian's."""
    return [*_FIRST, *range(len(_FIRST), size)]


def _config(model: Model, settings: StackSettings) -> str:
    """Return the configuration that Marian reads from the model. A fork may need keys that are defaults elsewhere."""
    post, recurrent = settings.norm == "post", isinstance(model, Sru)
    return _yaml(
        {
            "type": "transformer",
            "version": "v1.12.0",
            "dim-vocabs": [model.source_vocab, model.target_vocab],
            "dim-emb": settings.dim,
            "enc-depth": len(model.encoder),
            "dec-depth": len(model.decoder),
            "enc-type": "bidirectional",
            "enc-cell": "gru",
            "enc-cell-depth": 1,
            "dec-cell": "ssru" if recurrent else "gru",
            "dec-cell-base-depth": 2,
            "dec-cell-high-depth": 1,
            "transformer-heads": settings.heads,
            "transformer-dim-ffn": settings.ffn_dim,
            "transformer-ffn-depth": 2,
            "transformer-ffn-activation": settings.activation,
            "transformer-decoder-autoreg": "rnn" if recurrent else "self-attention",
            "transformer-preprocess": "" if post else "n",
            "transformer-postprocess": "dan" if post else "da",
            "transformer-postprocess-top": "" if post else "n",
            "transformer-postprocess-emb": "d",
            "transformer-no-projection": False,
            "transformer-tied-layers": [],
            "transformer-train-position-embeddings": False,
            "transformer-guided-alignment-layer": "last",
            "tied-embeddings-all": settings.embeddings == "shared",
            "tied-embeddings": settings.embeddings == "decoder",
            "tied-embeddings-src": False,
            "layer-normalization": False,
            "lemma-dim-emb": 0,
            "skip": False,
            "ulr": False,
        }
    )


def _decoder_config(vocabularies: Sequence[str], settings: StackSettings) -> str:
    """Return the options of marian-decoder that give the search of seqkd's defaults."""
    return _yaml(
        {
            "relative-paths": True,
            "models": [MODEL],
            "vocabs": [vocabularies[0], vocabularies[-1]],
            "beam-size": 5,
            "normalize": 1.0,
            "word-penalty": 0.0,
            # Without this, a longer line makes Marian leave out the output of the whole file.
            "max-length": settings.max_positions - 1,
            "max-length-crop": True,
        }
    )


def _yaml(values: Mapping[str, Any]) -> str:
    def line(value: Any) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, list):
            return f"[{', '.join(line(item) for item in value)}]"
        return f'"{value}"' if value == "" else str(value)

    return "".join(f"{name}: {line(value)}\n" for name, value in values.items())


def _vocabulary_files(vocabularies: Vocabularies, where: Path) -> dict[str, bytes]:
    """Return the vocabularies in Marian's order, by name: that of the source first, if there are two."""
    sides = {"vocab.source.spm": vocabularies.source, "vocab.target.spm": vocabularies.target}
    if vocabularies.source.digest == vocabularies.target.digest:
        sides = {"vocab.spm": vocabularies.target}
    files = {}
    for name, vocabulary in sides.items():
        if not isinstance(vocabulary, Vocabulary):
            raise ModelError(
                "the vocabulary is that of another toolkit",
                where=str(where),
                expected="a SentencePiece model with the ids of `seqkd prepare`",
                hint="train a student with a vocabulary that `seqkd prepare` learns",
            )
        files[name] = _reorder(vocabulary.path.read_bytes())
    return files


def _reorder(model: bytes) -> bytes:
    """Give the special pieces of a SentencePiece model the ids of Marian."""
    parsed = schema.ModelProto.FromString(model)
    pieces = [parsed.pieces[index] for index in _new_order(len(parsed.pieces))]
    changed = schema.ModelProto.FromString(model)
    del changed.pieces[:]
    changed.pieces.extend(pieces)
    for name, index in (("eos", EOS_ID), ("unk", UNK_ID), ("bos", BOS_ID), ("pad", PAD_ID)):
        setattr(changed.trainer_spec, f"{name}_id", _FIRST.index(index))
    return cast(bytes, changed.SerializeToString())

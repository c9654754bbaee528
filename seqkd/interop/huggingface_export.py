"""Export of Transformers to folders of Hugging Face's transformers, with the same logits.

MarianMT has its norms after the blocks, M2M100 before them. transformers itself is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from seqkd.corpus.files import atomic_write
from seqkd.errors import ModelError
from seqkd.interop.exports import write_export
from seqkd.interop.fairseq_weights import corresponding_names
from seqkd.interop.huggingface_tokenizers import MARIAN_TOKENIZER
from seqkd.models.checkpoint import LoadedModel, load_model, write_weights
from seqkd.models.settings import TransformerSettings
from seqkd.models.transformer import POSITION_OFFSET, Transformer
from seqkd.progress import say
from seqkd.search.settings import BeamSettings
from seqkd.text.vocabulary import BOS_ID, EOS_ID, MARK, PAD_ID, Vocabulary

_EPSILON = 1e-5  # of the layer norms of both models
_TABLES = {
    "encoder.embed_tokens.weight": "model.encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight": "model.decoder.embed_tokens.weight",
    "decoder.output_projection.weight": "lm_head.weight",
}


def export_model(model_dir: str | Path, out: str | Path, *, overwrite: bool = False) -> None:
    """Write a model folder as a folder that `AutoModelForSeq2SeqLM` and `AutoTokenizer` load.

    Args:
        model_dir: A folder with a Transformer of seqkd.
        out: The folder to make.
        overwrite: Whether to replace a folder that was made from other inputs.

    Raises:
        ModelError: transformers has no equivalent model; the message lists all differences.
        ConflictError: `out` was made from other inputs.
        WorkError: A file cannot be written, for example because the disk is full.
    """
    model_dir, out = Path(model_dir), Path(out)
    loaded = load_model(model_dir)
    if not isinstance(loaded.model, Transformer):
        raise ModelError(
            f"transformers has no equivalent of the architecture {loaded.arch!r}",
            where=str(model_dir),
            expected="the architecture transformer",
        )
    settings = TransformerSettings(**loaded.settings)
    if problems := [*_differences(settings), *_foreign_vocabularies(loaded)]:
        name = "M2M100" if settings.norm == "pre" else "MarianMT"
        raise ModelError(
            f"the model differs from {name} of transformers, which has norm = {settings.norm!r}:\n    "
            + "\n    ".join(problems),
            where=str(model_dir),
            hint="train a student with settings that the format has; see docs/ship-your-student.md",
        )
    for note in _notes(loaded):
        say(f"export: {note}")
    write_export(
        out,
        "huggingface",
        {"model": loaded.digest},
        partial(_write, loaded, loaded.model, settings, out),
        vocabulary=loaded.vocabularies.target.digest,
        overwrite=overwrite,
    )


def _differences(settings: TransformerSettings) -> Iterator[str]:
    """Yield the settings that the model of transformers does not have, with the values that it has."""
    if settings.activation == "swiglu":
        yield "activation is 'swiglu', expected 'relu', 'gelu' or 'swish'"
    if settings.start == "zero":
        yield "start is 'zero', expected 'eos' or the id of a piece"
    if settings.embedding_norm:
        yield "embedding_norm is true, expected false"
    if settings.norm_epsilon != _EPSILON:
        yield f"norm_epsilon is {settings.norm_epsilon:g}, expected {_EPSILON:g}"
    if settings.norm == "post":
        return
    if settings.positions != "sinusoidal":
        yield f"positions is {settings.positions!r}, expected 'sinusoidal'"
    elif settings.position_offset != POSITION_OFFSET:
        yield f"position_offset is {settings.position_offset}, expected {POSITION_OFFSET}"
    if settings.embeddings != "shared":
        yield f"embeddings is {settings.embeddings!r}, expected 'shared'"
    if settings.output_bias:
        yield "output_bias is true, expected false"


def _foreign_vocabularies(loaded: LoadedModel) -> Iterator[str]:
    for side, vocabulary in loaded.vocabularies.sides():
        if not isinstance(vocabulary, Vocabulary):
            yield f"the {side} vocabulary comes from another toolkit, expected a SentencePiece model of seqkd"


def _notes(loaded: LoadedModel) -> Iterator[str]:
    """Yield the differences between the tokenisers that users of the folder must make up for."""
    for side, vocabulary in loaded.vocabularies.sides():
        if vocabulary.normalization == "nfc":
            yield f"{side}: SentencePiece has no rules for NFC: give transformers text in this form"
        if side == "target" and vocabulary.join_words([f"a{MARK} b"]) == ["ab"]:
            yield f"{side}: pieces end with {MARK}, which transformers does not join in outputs"


def _write(loaded: LoadedModel, model: Transformer, settings: TransformerSettings, out: Path) -> dict[str, int]:
    source, target = loaded.vocabularies.source, loaded.vocabularies.target
    separate = not loaded.vocabularies.joint
    texts: dict[str, Callable[[], Any]] = {
        "config.json": lambda: _config(settings, model),
        "generation_config.json": lambda: _generation(model),
        "tokenizer_config.json": lambda: _tokenizer(model, separate),
        "vocab.json": lambda: {piece: index for index, piece in enumerate(source.pieces())},
    }
    if separate:
        texts["target_vocab.json"] = lambda: {piece: index for index, piece in enumerate(target.pieces())}
    for name, make in texts.items():
        atomic_write(out / name, (json.dumps(make(), indent=2, ensure_ascii=False) + "\n").encode())
    atomic_write(out / "source.spm", source.path.read_bytes())
    atomic_write(out / "target.spm", target.path.read_bytes())
    write_weights(out / "model.safetensors", _weights(model, settings))
    return {}


def _weights(model: Transformer, settings: TransformerSettings) -> dict[str, Tensor]:
    """Return the tensors of the folder by their names in transformers. Tied ones are left out."""
    ours, theirs, pre = model.state_dict(), {}, settings.norm == "pre"
    depths = settings.encoder_layers, settings.decoder_layers
    for name, parts in corresponding_names(*depths, pre_norm=pre, learned=False):
        pieces = ours[name].chunk(len(parts))
        theirs.update({_TABLES.get(part, f"model.{part}"): piece for part, piece in zip(parts, pieces, strict=True)})
    if settings.embeddings != "separate":
        del theirs["lm_head.weight"]
    if settings.embeddings == "shared":
        theirs["model.shared.weight"] = theirs.pop("model.encoder.embed_tokens.weight")
        del theirs["model.decoder.embed_tokens.weight"]
    if not pre:
        # transformers would compute a table that differs from seqkd's if the file had none.
        theirs["model.encoder.embed_positions.weight"] = model.source_positions
        theirs["model.decoder.embed_positions.weight"] = model.target_positions
        bias = model.output_weight.new_zeros(model.target_vocab) if model.output_bias is None else model.output_bias
        theirs["final_logits_bias"] = bias[None]
    return theirs


def _config(settings: TransformerSettings, model: Transformer) -> dict[str, Any]:
    pre = settings.norm == "pre"
    stacks = {
        f"{stack}_{name}": value
        for stack in ("encoder", "decoder")
        for name, value in (
            ("layers", getattr(settings, f"{stack}_layers")),
            ("ffn_dim", settings.ffn_dim),
            ("attention_heads", settings.heads),
            ("layerdrop", 0.0),
        )
    }
    values = {
        "architectures": ["M2M100ForConditionalGeneration" if pre else "MarianMTModel"],
        "model_type": "m2m_100" if pre else "marian",
        "dtype": "float32",
        "d_model": settings.dim,
        "activation_function": settings.activation,
        "dropout": settings.dropout,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "max_position_embeddings": model.max_positions,
        "vocab_size": model.source_vocab,
        "scale_embedding": settings.scale_embeddings,
        "is_encoder_decoder": True,
        "tie_word_embeddings": settings.embeddings != "separate",
        "bos_token_id": BOS_ID,
        "pad_token_id": PAD_ID,
        "eos_token_id": EOS_ID,
        "decoder_start_token_id": model.start_id,
        "forced_eos_token_id": None,
    }
    if not pre:
        values["decoder_vocab_size"] = model.target_vocab
        values["share_encoder_decoder_embeddings"] = settings.embeddings == "shared"
    return values | stacks


def _generation(model: Transformer) -> dict[str, Any]:
    """Return the settings with which `generate` gives the translations of seqkd's search with its default settings."""
    search = BeamSettings()
    return {
        "bos_token_id": BOS_ID,
        "pad_token_id": PAD_ID,
        "eos_token_id": EOS_ID,
        "decoder_start_token_id": model.start_id,
        "num_beams": search.beam,
        "length_penalty": search.length_penalty,
        "early_stopping": True,  # at as many finished hypotheses as beams, like stopping = "first"
        "min_new_tokens": search.min_length,  # without the end of sentence, which transformers bars until then
        "max_new_tokens": model.max_positions,  # the default stops after 20
        "bad_words_ids": [[BOS_ID], [PAD_ID]],
        "do_sample": False,
    }


def _tokenizer(model: Transformer, separate: bool) -> dict[str, Any]:
    return {
        "tokenizer_class": MARIAN_TOKENIZER,
        "model_max_length": model.max_positions,
        "separate_vocabs": separate,
        "source_lang": None,
        "target_lang": None,
        "unk_token": "<unk>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "clean_up_tokenization_spaces": False,
    }

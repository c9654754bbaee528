"""Import and export of Transformer checkpoints of fairseq (Ott et al. 2019).

fairseq itself is not needed. Its checkpoints are pickles. They are read with torch's `weights_only=True`, and the only
class that is allowed besides plain values is `argparse.Namespace`, which contains the training arguments.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqkd.corpus.files import atomic_write
from seqkd.corpus.manifest import Manifest, Provenance, StageOutput
from seqkd.errors import ModelError
from seqkd.interop.fairseq_dictionary import (
    SPECIALS,
    DictionaryVocabulary,
    dictionary_text,
    piece_vocabulary,
    read_dictionary,
    word_vocabulary,
)
from seqkd.interop.fairseq_weights import layer_counts, to_fairseq, to_seqkd
from seqkd.interop.formats import ImportReport
from seqkd.interop.pickles import check_pickles
from seqkd.models.checkpoint import load_model, model_files, save_model
from seqkd.models.registry import build
from seqkd.models.settings import LATER
from seqkd.models.transformer import Transformer
from seqkd.text.vocabularies import SOURCE_VOCABULARY, VOCABULARY

CHECKPOINT = "checkpoint.pt"
SOURCE_LANGUAGE, TARGET_LANGUAGE = "src", "tgt"

# Options of fairseq's Transformer that seqkd's does not have. All are off by default.
_OTHER_MODEL = (
    "adaptive_input",
    "adaptive_softmax_cutoff",
    "cross_self_attention",
    "decoder_layers_to_keep",
    "encoder_layers_to_keep",
    "layernorm_embedding",
    "merge_src_tgt_embed",
    "no_cross_attention",
    "no_decoder_final_norm",
    "no_scale_embedding",
    "no_token_positional_embeddings",
)

# The name of a refused class or function in torch's message.
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def import_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    *,
    dictionary: str | Path,
    source_dictionary: str | Path | None = None,
    sentencepiece: str | Path | None = None,
    source_sentencepiece: str | Path | None = None,
    overwrite: bool = False,
) -> ImportReport:
    """Convert a fairseq Transformer to a model folder. The ids stay those of the fairseq dictionaries.

    Args:
        checkpoint: A `.pt` file.
        out: The model folder to make.
        dictionary: dict.txt of the target, or of both sides.
        source_dictionary: dict.txt of the source, if it differs.
        sentencepiece: The SentencePiece model of the training text. Without it the vocabulary consists of whole words,
            and text must be segmented as for fairseq; words with subword-nmt's marks (`@@`) are joined in outputs. A
            dictionary with SentencePiece symbols needs the model.
        source_sentencepiece: The SentencePiece model of the source, if it differs.
        overwrite: Whether to replace a model folder that was made from other inputs.

    Raises:
        ModelError: The checkpoint is not a supported Transformer, can only be loaded by running code, or does not fit
            the dictionaries; or a dictionary with SentencePiece symbols comes without a SentencePiece model.
        ConflictError: `out` was made from other inputs.
        WorkError: A file cannot be written, for example because the disk is full.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    target = _vocabulary(dictionary, sentencepiece)
    source: DictionaryVocabulary | None = None
    if source_dictionary is not None or source_sentencepiece is not None:
        source = _vocabulary(source_dictionary or dictionary, source_sentencepiece or sentencepiece)
        source = None if source.model == target.model else source
    inputs = {"checkpoint": _file_digest(checkpoint), "vocabulary": hashlib.sha256(target.model).hexdigest()}
    if source is not None:
        inputs["source_vocabulary"] = hashlib.sha256(source.model).hexdigest()
    contents = read_checkpoint(checkpoint)
    model, settings = build_model(
        contents, checkpoint, source_pieces=_size(source or target), target_pieces=_size(target)
    )
    parameters = sum(weight.numel() for weight in model.parameters())
    made_by = Provenance(stage="import", settings={"from": "fairseq"}, inputs=inputs)
    notes = [*target.notes("vocabulary"), *(source.notes("source vocabulary") if source else [])]
    with StageOutput.open(out, "model", made_by, overwrite=overwrite) as output:
        if output.complete:
            return ImportReport(parameters, tuple(notes))
        vocab, source_vocab = out / VOCABULARY, None
        atomic_write(vocab, target.model)
        if source is not None:
            source_vocab = out / SOURCE_VOCABULARY
            atomic_write(source_vocab, source.model)
        save_model(out, model, arch="transformer", settings=settings, vocab=vocab, source_vocab=source_vocab)
        extra = {
            "role": "teacher",
            "arch": "transformer",
            "parameters": parameters,
            "imported_from": "fairseq",
            "files": model_files(out),
        }
        fingerprint, vocabulary = made_by.fingerprint, inputs["vocabulary"]
        output.commit(Manifest(kind="model", fingerprint=fingerprint, vocabulary=vocabulary, extra=extra))
    return ImportReport(parameters, tuple(notes))


def export_checkpoint(model_dir: str | Path, out: str | Path, *, overwrite: bool = False) -> None:
    """Write a model folder as checkpoint.pt, dict.src.txt and dict.tgt.txt for fairseq and its converters.

    fairseq can load the checkpoint if torch is allowed to unpickle `argparse.Namespace`. With torch 2.6 or newer, set
    TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1, or add the class to the safe globals.

    Raises:
        ModelError: fairseq has no equivalent architecture.
        ConflictError: `out` was made from other inputs.
        WorkError: A file cannot be written, for example because the disk is full.
    """
    model_dir, out = Path(model_dir), Path(out)
    loaded = load_model(model_dir)
    model = loaded.model
    if not isinstance(model, Transformer):
        raise ModelError(f"fairseq has no equivalent of the architecture {loaded.arch!r}", where=str(model_dir))
    settings: Mapping[str, Any] = loaded.settings
    if settings["activation"] not in ("relu", "gelu"):
        what = f"fairseq's Transformer has no activation {settings['activation']!r}"
        raise ModelError(what, where=str(model_dir), expected="relu or gelu")
    if other := [f"{name} = {settings[name]!r}" for name in LATER if name in settings]:
        raise ModelError(f"fairseq's Transformer has no {', '.join(other)}", where=str(model_dir))
    vocabularies = loaded.vocabularies
    dictionaries = {
        f"dict.{SOURCE_LANGUAGE}.txt": dictionary_text(vocabularies.source.path).encode(),
        f"dict.{TARGET_LANGUAGE}.txt": dictionary_text(vocabularies.target.path).encode(),
    }
    weights = to_fairseq(
        model.state_dict(),
        pre_norm=settings["norm"] == "pre",
        learned=settings["positions"] == "learned",
        layers=(settings["encoder_layers"], settings["decoder_layers"]),
    )
    buffer = io.BytesIO()
    torch.save(_checkpoint(weights, _arguments(settings)), buffer)
    made_by = Provenance(stage="export", settings={"to": "fairseq"}, inputs={"model": loaded.digest})
    with StageOutput.open(out, "export", made_by, overwrite=overwrite) as output:
        if not output.complete:
            atomic_write(out / CHECKPOINT, buffer.getbuffer())
            for name, text in dictionaries.items():
                atomic_write(out / name, text)
            extra = {"to": "fairseq"}
            fingerprint, vocabulary = made_by.fingerprint, vocabularies.target.digest
            output.commit(Manifest(kind="export", fingerprint=fingerprint, vocabulary=vocabulary, extra=extra))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a `.pt` file without running any code that it may contain.

    Raises:
        ModelError: The file does not exist, is not a fairseq checkpoint, or needs classes other than
            `argparse.Namespace`.
    """
    try:
        check_pickles(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _unreadable(path, error) from None
    except pickle.UnpicklingError as error:
        raise _unsafe(path, error) from None
    except ModelError:
        raise
    except Exception as error:  # the type of the unpickler's exception depends on the damage
        what = str(error).split("\n", 1)[0] or type(error).__name__
        raise ModelError(f"not a checkpoint: {what}", where=str(path), expected="a .pt file of fairseq") from None
    if not isinstance(contents, dict) or not isinstance(contents.get("model"), dict):
        raise ModelError("not a fairseq checkpoint: it has no `model`", where=str(path))
    return contents


def build_model(
    contents: Mapping[str, Any], path: Path, *, source_pieces: int, target_pieces: int
) -> tuple[Transformer, dict[str, Any]]:
    """Build the model of a checkpoint, and return it with its settings.

    Args:
        contents: The result of `read_checkpoint`.
        path: The path for messages.
        source_pieces: Number of entries of the source dictionary, including special ones.
        target_pieces: Number of entries of the target dictionary, including special ones.

    Raises:
        ModelError: The model is not a Transformer that seqkd supports, or does not fit the dictionaries.
    """
    options = _options(contents, path)
    try:
        settings, weights = _translate(options, contents["model"])
    except ModelError as error:
        raise ModelError(error.what, where=str(path), expected=error.expected, hint=error.hint) from None
    sides = (("source", source_pieces), ("target", target_pieces))
    for side, pieces in sides:
        rows = weights[f"{side}_embedding"].size(0)
        if rows != pieces:
            raise ModelError(
                f"it has {rows:,} {side} embeddings, but the {side} dictionary has {pieces:,} entries",
                where=str(path),
                expected=f"{rows:,} entries, including the {len(SPECIALS)} special ones",
                hint="give the dict.txt files that the model was trained with",
            )
    try:
        model = build("transformer", settings, source_vocab=source_pieces, target_vocab=target_pieces)
    except ModelError as error:
        raise ModelError(error.what, where=str(path)) from None
    assert isinstance(model, Transformer)
    expected = model.state_dict()
    if wrong := [name for name, weight in weights.items() if expected[name].shape != weight.shape]:
        shown = "; ".join(f"{n}: {tuple(weights[n].shape)}, not {tuple(expected[n].shape)}" for n in wrong[:4])
        raise ModelError(f"shapes differ: {shown}", where=str(path), expected="the same widths in encoder and decoder")
    model.load_state_dict(weights)
    return model.eval(), settings


def _translate(options: Mapping[str, Any], theirs: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if other := [f"{name}={options[name]!r}" for name in _OTHER_MODEL if options.get(name)]:
        raise ModelError(f"seqkd's Transformer does not support {', '.join(other)}", expected="these options off")
    heads = _shared_option(options, "attention_heads")
    pre_norm = bool(_shared_option(options, "normalize_before", default=False))
    learned = bool(_shared_option(options, "learned_pos", default=False))
    activation = options.get("activation_fn", "relu")
    if activation not in ("relu", "gelu"):
        raise ModelError(f"activation_fn is {activation!r}", expected="relu or gelu")
    most = min(int(options.get(f"max_{side}_positions") or 1024) for side in ("source", "target"))
    weights = to_seqkd(theirs, pre_norm=pre_norm, learned=learned, max_positions=most)
    source, target, output = (weights[n] for n in ("source_embedding", "target_embedding", "output_weight"))
    tied = target.shape == output.shape and torch.equal(target, output)
    shared = tied and source.shape == target.shape and torch.equal(source, target)
    layers = layer_counts(theirs)
    settings = {
        "dim": target.size(1),
        "heads": int(heads),
        "ffn_dim": weights["encoder.0.ffn.out.weight"].size(1),
        "encoder_layers": layers[0],
        "decoder_layers": layers[1],
        "dropout": float(options.get("dropout", 0.1)),
        "norm": "pre" if pre_norm else "post",
        "positions": "learned" if learned else "sinusoidal",
        "activation": activation,
        "embeddings": "shared" if shared else "decoder" if tied else "separate",
        "max_positions": most,
    }
    return settings, weights


def _options(contents: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the options of the model by flat names, from `args` or, in newer checkpoints, `cfg`."""
    found = contents.get("args")
    if found is None and isinstance(contents.get("cfg"), dict):
        found = contents["cfg"].get("model")
    if isinstance(found, argparse.Namespace):
        return dict(vars(found))
    if isinstance(found, dict):
        flat = {name: value for name, value in found.items() if not isinstance(value, dict)}
        for stack in ("encoder", "decoder"):
            flat |= {f"{stack}_{name}": value for name, value in (found.get(stack) or {}).items()}
        return flat
    raise ModelError("it contains no training arguments (`args` or `cfg.model`)", where=str(path))


def _shared_option(options: Mapping[str, Any], name: str, *, default: Any = None) -> Any:
    """Return an option that must be the same in encoder and decoder."""
    encoder, decoder = (options.get(f"{stack}_{name}", default) for stack in ("encoder", "decoder"))
    if encoder is None or decoder is None:
        raise ModelError(f"its arguments lack encoder_{name} or decoder_{name}", expected="a fairseq `transformer`")
    if encoder != decoder:
        raise ModelError(f"{name} is {encoder!r} in the encoder and {decoder!r} in the decoder", expected="the same")
    return encoder


def _unsafe(path: Path, error: pickle.UnpicklingError) -> ModelError:
    try:
        needed = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a file from before torch's zip format, or another kind of damage
        needed = set(_GLOBAL.findall(str(error)))
    listed = ", ".join(sorted(needed - {"argparse.Namespace"}))
    return ModelError(
        f"it can only be loaded by running code: it needs {listed}" if listed else "not a checkpoint, or damaged",
        where=str(path),
        expected="tensors, plain values and argparse.Namespace",
        hint="if you trust the file, load it with fairseq and save only its `args` (or `cfg`) and `model` entries",
    )


def _vocabulary(dictionary: str | Path, sentencepiece: str | Path | None) -> DictionaryVocabulary:
    symbols = read_dictionary(dictionary)
    if sentencepiece is not None:
        return piece_vocabulary(symbols, sentencepiece)
    try:
        return word_vocabulary(symbols)
    except ModelError as error:
        raise ModelError(error.what, where=str(dictionary), expected=error.expected, hint=error.hint) from None


def _size(vocabulary: DictionaryVocabulary) -> int:
    return len(SPECIALS) + vocabulary.matched + vocabulary.unmatched


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise _unreadable(path, error) from None
    return digest.hexdigest()


def _unreadable(path: Path, error: OSError) -> ModelError:
    what = f"cannot be read: {error.strerror}"
    return ModelError(what, where=str(path), expected="a .pt file of fairseq", hint="check the path")


def _arguments(settings: Mapping[str, Any]) -> argparse.Namespace:
    """Return the arguments from which fairseq can build the model."""
    both = {
        "embed_dim": settings["dim"],
        "ffn_embed_dim": settings["ffn_dim"],
        "attention_heads": settings["heads"],
        "normalize_before": settings["norm"] == "pre",
        "learned_pos": settings["positions"] == "learned",
        "embed_path": None,
        "layers_to_keep": None,
        "layerdrop": 0.0,
    }
    values: dict[str, Any] = {f"{stack}_{name}": v for stack in ("encoder", "decoder") for name, v in both.items()}
    values |= dict.fromkeys(_OTHER_MODEL, False)
    values |= {
        "arch": "transformer",
        "task": "translation",
        "source_lang": SOURCE_LANGUAGE,
        "target_lang": TARGET_LANGUAGE,
        "data": ".",
        "left_pad_source": True,
        "left_pad_target": False,
        "encoder_layers": settings["encoder_layers"],
        "decoder_layers": settings["decoder_layers"],
        "encoder_layers_to_keep": None,
        "decoder_layers_to_keep": None,
        "decoder_input_dim": settings["dim"],
        "decoder_output_dim": settings["dim"],
        "dropout": settings["dropout"],
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "activation_fn": settings["activation"],
        "adaptive_softmax_cutoff": None,
        "adaptive_softmax_dropout": 0.0,
        "share_all_embeddings": settings["embeddings"] == "shared",
        "share_decoder_input_output_embed": settings["embeddings"] != "separate",
        "max_source_positions": settings["max_positions"],
        "max_target_positions": settings["max_positions"],
    }
    return argparse.Namespace(**values)


def _checkpoint(weights: dict[str, Tensor], arguments: argparse.Namespace) -> dict[str, Any]:
    history = {
        "criterion_name": "LabelSmoothedCrossEntropyCriterion",
        "optimizer_name": "FairseqAdam",
        "lr_scheduler_state": {},
        "num_updates": 0,
    }
    return {
        "args": arguments,
        "cfg": None,
        "model": weights,
        "optimizer_history": [history],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }

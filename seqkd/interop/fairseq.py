"""Import and export of Transformer checkpoints of fairseq (Ott et al. 2019).

fairseq itself is not needed, and no code of a checkpoint is run (`seqkd.interop.fairseq_checkpoint`).
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqkd.corpus.files import atomic_write
from seqkd.corpus.manifest import Manifest, Provenance, StageOutput
from seqkd.errors import ModelError
from seqkd.interop.fairseq_checkpoint import file_digest, read_checkpoint
from seqkd.interop.fairseq_dictionary import SOURCE_LANGUAGE, TARGET_LANGUAGE, dictionary_name, dictionary_text
from seqkd.interop.fairseq_vocabularies import Codes, Sides, build_codes, build_vocabularies
from seqkd.interop.fairseq_weights import layer_counts, to_fairseq, to_seqkd
from seqkd.interop.formats import ImportReport
from seqkd.models.checkpoint import load_model, model_files, save_model
from seqkd.models.registry import build
from seqkd.models.settings import LATER
from seqkd.models.transformer import Transformer
from seqkd.text.codes import SPECIALS, CodesVocabulary
from seqkd.text.vocabularies import TextVocabulary

CHECKPOINT = "checkpoint.pt"

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


def import_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    *,
    dictionary: str | Path,
    source_dictionary: str | Path | None = None,
    sentencepiece: str | Path | None = None,
    source_sentencepiece: str | Path | None = None,
    codes: Codes | None = None,
    overwrite: bool = False,
) -> ImportReport:
    """Convert a fairseq Transformer to a model folder. The ids stay those of the fairseq dictionaries.

    Args:
        checkpoint: A `.pt` file.
        out: The model folder to make.
        dictionary: dict.txt of the target, or of both sides.
        source_dictionary: dict.txt of the source, if it differs.
        sentencepiece: The SentencePiece model of the training text. Without it and `codes` the vocabulary consists of
            whole words, and text must be segmented as for fairseq; words with subword-nmt's marks (`@@`) are joined in
            outputs. A dictionary with SentencePiece symbols needs the model.
        source_sentencepiece: The SentencePiece model of the source, if it differs.
        codes: The byte-pair codes of the training text, in place of a SentencePiece model.
        overwrite: Whether to replace a model folder that was made from other inputs.

    Raises:
        ModelError: The checkpoint is not a supported Transformer, can only be loaded by running code, or does not fit
            the dictionaries; or a dictionary with SentencePiece symbols comes without a SentencePiece model.
        ConflictError: `out` was made from other inputs.
        WorkError: A file cannot be written, for example because the disk is full.
    """
    if codes is None:
        sides = build_vocabularies(dictionary, source_dictionary, sentencepiece, source_sentencepiece)
    else:
        sides = build_codes(codes, dictionary, source_dictionary)
    return import_ensemble([Path(checkpoint)], Path(out), sides, overwrite=overwrite)


def import_ensemble(
    checkpoints: Sequence[Path],
    out: Path,
    sides: Sides,
    *,
    overwrite: bool = False,
) -> ImportReport:
    """Convert checkpoints with the same dictionaries. All are read before the first folder is made.

    Args:
        checkpoints: `.pt` files.
        out: The folder of the first model. The others are `OUT-2`, `OUT-3` and so on beside it.
        sides: The vocabularies.
        overwrite: See `import_checkpoint`.

    Raises:
        ModelError: See `import_checkpoint`.
        ConflictError: A folder was made from other inputs.
        WorkError: A file cannot be written.
    """
    models = []
    for checkpoint in checkpoints:
        inputs = {"checkpoint": file_digest(checkpoint), **sides.digests}
        contents = read_checkpoint(checkpoint)
        source, target = sides.sizes
        models.append((inputs, *build_model(contents, checkpoint, source_pieces=source, target_pieces=target)))
    folders = [out if number == 1 else out.with_name(f"{out.name}-{number}") for number in range(1, len(models) + 1)]
    for folder, (inputs, model, settings) in zip(folders, models, strict=True):
        _write(folder, model, settings, sides.files, inputs, overwrite=overwrite)
    notes = list(sides.notes)
    if len(folders) > 1:
        notes.append(f"an ensemble of {len(folders)} models: {', '.join(map(str, folders))}")
    return ImportReport(_count(models[0][1]), tuple(notes))


def _write(
    out: Path,
    model: Transformer,
    settings: dict[str, Any],
    files: Mapping[str, bytes],
    inputs: dict[str, str],
    *,
    overwrite: bool,
) -> None:
    made_by = Provenance(stage="import", settings={"from": "fairseq"}, inputs=inputs)
    with StageOutput.open(out, "model", made_by, overwrite=overwrite) as output:
        if output.complete:
            return
        for name, data in files.items():
            atomic_write(out / name, data)
        save_model(out, model, arch="transformer", settings=settings, vocab=out)
        extra = {
            "role": "teacher",
            "arch": "transformer",
            "parameters": _count(model),
            "imported_from": "fairseq",
            "files": model_files(out),
        }
        fingerprint, vocabulary = made_by.fingerprint, inputs["vocabulary"]
        output.commit(Manifest(kind="model", fingerprint=fingerprint, vocabulary=vocabulary, extra=extra))


def _count(model: Transformer) -> int:
    return sum(weight.numel() for weight in model.parameters())


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
        dictionary_name(SOURCE_LANGUAGE): _dictionary(vocabularies.source),
        dictionary_name(TARGET_LANGUAGE): _dictionary(vocabularies.target),
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


def _dictionary(vocabulary: TextVocabulary) -> bytes:
    """Return the contents of the dict.txt of a vocabulary."""
    if isinstance(vocabulary, CodesVocabulary):
        return vocabulary.path.read_bytes()
    return dictionary_text(vocabulary.path).encode()


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

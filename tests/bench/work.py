"""The folder that all peers work from: one checkpoint in each one's format, and one list of source ids."""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seqkd.interop.fairseq import export_checkpoint
from seqkd.interop.fairseq_dictionary import SOURCE_LANGUAGE, TARGET_LANGUAGE, read_dictionary
from seqkd.interop.fairseq_weights import to_fairseq
from seqkd.models.checkpoint import LoadedModel, load_model
from seqkd.models.transformer import Transformer, sinusoidal_table
from seqkd.text.normalize import Normalizer

# A torchaudio that does not fit torch, as fairseq can bring one along, would keep `transformers` from loading, which
# ctranslate2's converters import too. Nothing here needs audio.
sys.modules.setdefault("torchaudio", None)  # type: ignore[arg-type]

MULTI30K_PARTS = ("test_2016_flickr", "val", "train")


@dataclass(frozen=True, slots=True)
class Sentences:
    """What is decoded.

    Attributes:
        ids: Source ids, end of sentence not among them.
        references: Target text of each; None where there is none.
    """

    ids: list[list[int]]
    references: list[str] | None


def multi30k(folder: Path, model: LoadedModel, languages: tuple[str, str], rows: int) -> Sentences:
    """The first `rows` sentences of Multi30k's test, validation and training parts, in this order.

    Args:
        folder: Holds PART.LANGUAGE or PART.LANGUAGE.gz, as `data/multi30k/fetch.py` or a mirror has them.
        model: Whose vocabulary makes ids of them.
        languages: Source and target.
        rows: How many sentences.
    """
    sides: list[list[str]] = []
    for language in languages:
        lines: list[str] = []
        for part in MULTI30K_PARTS:
            if len(lines) < rows:
                lines += _lines(folder / f"{part}.{language}")
        sides.append(Normalizer().normalize_all(lines[:rows]))
    return Sentences(model.vocabularies.source.encode(sides[0]), sides[1])


def ids_file(path: Path, rows: int) -> Sentences:
    """Source ids from a file, a sentence a line, ids between spaces."""
    lines = path.read_text().splitlines()[:rows]
    return Sentences([[int(word) for word in line.split()] for line in lines], None)


def prepare(work: Path, model_dir: Path, sentences: Sentences, peers: Sequence[str]) -> dict[str, str]:
    """Fill `work`, which must not be there yet, with what the peers need.

    Returns:
        The peers that cannot take this model, and why.
    """
    work.mkdir(parents=True)
    (work / "model").symlink_to(model_dir.resolve(), target_is_directory=True)
    write_sources(work, sentences.ids)
    loaded = load_model(model_dir)
    if not isinstance(loaded.model, Transformer):
        raise SystemExit(f"{model_dir}: the comparison needs a transformer, not {loaded.arch!r}")
    export_checkpoint(model_dir, work / "fairseq")
    for side, language in (("source", SOURCE_LANGUAGE), ("target", TARGET_LANGUAGE)):
        pieces = ["<s>", "<blank>", "</s>", "<unk>", *read_dictionary(work / "fairseq" / f"dict.{language}.txt")]
        (work / f"{side}_pieces.json").write_text(json.dumps(pieces))
    problems: dict[str, str] = {}
    for peer in peers:
        try:
            if peer == "ctranslate2":
                _to_ctranslate2(work / "fairseq", work / "ctranslate2")
            elif peer == "marian":
                to_marian(loaded.model, loaded.settings, work / "marian")
        except (ValueError, ImportError, OSError, RuntimeError) as error:
            problems[peer] = str(error).splitlines()[0]
    return problems


def write_sources(work: Path, ids: list[list[int]]) -> None:
    """What the peers decode from now on."""
    (work / "sources.json").write_text(json.dumps(ids))


def _to_ctranslate2(exported: Path, out: Path) -> None:
    from ctranslate2.converters import FairseqConverter

    converter = FairseqConverter(
        str(exported / "checkpoint.pt"), str(exported), source_lang=SOURCE_LANGUAGE, target_lang=TARGET_LANGUAGE
    )
    with torch.serialization.safe_globals([argparse.Namespace]):
        converter.convert(str(out))


def to_marian(model: Transformer, settings: dict[str, Any], out: Path) -> None:
    """Put the weights into Hugging Face's Marian, which is a post-norm Transformer with tied embeddings and ReLU."""
    transformers: Any = importlib.import_module("transformers")
    if (settings["norm"], settings["positions"], settings["embeddings"]) != ("post", "sinusoidal", "shared"):
        raise ValueError("marian takes post-norm models with sinusoidal positions and shared embeddings only")
    layers = settings["encoder_layers"], settings["decoder_layers"]
    config = transformers.MarianConfig(
        vocab_size=model.target_vocab,
        d_model=model.dim,
        encoder_layers=layers[0],
        decoder_layers=layers[1],
        encoder_attention_heads=model.heads,
        decoder_attention_heads=model.heads,
        encoder_ffn_dim=settings["ffn_dim"],
        decoder_ffn_dim=settings["ffn_dim"],
        activation_function=settings["activation"],
        max_position_embeddings=model.max_positions,
        scale_embedding=True,
        static_position_embeddings=True,
        pad_token_id=model.pad_id,
        eos_token_id=model.eos_id,
        bos_token_id=0,
        decoder_start_token_id=model.start_id,
        forced_eos_token_id=None,
        dropout=0.0,
    )
    peer = transformers.MarianMTModel(config).eval()
    weights = peer.state_dict()
    ours = to_fairseq(model.state_dict(), pre_norm=False, learned=False, layers=layers)
    taken = set()
    for name, weight in ours.items():
        if name.endswith((".version", "embed_tokens.weight", "output_projection.weight")):
            continue
        # Marian's layers carry fairseq's names.
        weights[f"model.{name}"].copy_(weight)
        taken.add(f"model.{name}")
    for name in list(weights):
        if name.endswith("embed_positions.weight"):
            continue  # made anew when a model is loaded, see `load_marian`
        if name.endswith(("shared.weight", "embed_tokens.weight", "lm_head.weight")):
            weights[name].copy_(model.target_embedding.detach())
        elif name == "final_logits_bias":
            weights[name].zero_()
        elif name not in taken:
            raise ValueError(f"marian has a parameter {name} that nothing fills")
    peer.load_state_dict(weights)
    peer.generation_config = transformers.GenerationConfig.from_model_config(config)
    peer.save_pretrained(out)


def load_marian(folder: Path, dtype: torch.dtype) -> Any:
    """Load what `to_marian` wrote, on the CPU.

    Marian numbers positions from 0 and computes their table whenever a model is loaded; ours start at 2.
    """
    transformers: Any = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    model = transformers.MarianMTModel.from_pretrained(folder, dtype=dtype).eval()
    table = sinusoidal_table(model.config.max_position_embeddings, model.config.d_model).to(dtype)
    with torch.no_grad():
        for stack in (model.model.encoder, model.model.decoder):
            stack.embed_positions.weight.copy_(table)
    return model


def _lines(path: Path) -> list[str]:
    if path.exists():
        return path.read_text(encoding="utf-8").split("\n")[:-1]
    packed = path.with_name(path.name + ".gz")
    if not packed.exists():
        raise SystemExit(f"{path}: no such file, nor {packed.name}; data/multi30k/fetch.py fetches it")
    with gzip.open(packed, "rt", encoding="utf-8", newline="\n") as file:
        return file.read().split("\n")[:-1]

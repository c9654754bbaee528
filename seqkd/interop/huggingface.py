"""Import of encoder-decoder Transformers from Hugging Face's formats: MarianMT, M2M100 and NLLB, mBART, BART.

The model becomes a Transformer of seqkd with the same logits. transformers itself is needed only for tokenizers other
than MarianMT's.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from seqkd.corpus.manifest import Manifest, Provenance, StageOutput
from seqkd.corpus.vocabularies import write_vocabularies
from seqkd.errors import ModelError
from seqkd.interop.formats import ImportReport
from seqkd.interop.huggingface_config import ModelFacts, read_facts
from seqkd.interop.huggingface_files import HuggingfaceFiles
from seqkd.interop.huggingface_hub import locate
from seqkd.interop.huggingface_tokenizers import Tokenization, read_tokenizers
from seqkd.interop.huggingface_weights import convert, read_weights, weight_files
from seqkd.models.checkpoint import model_files, save_model
from seqkd.models.registry import build
from seqkd.models.settings import TransformerSettings, stored_settings
from seqkd.models.transformer import Transformer
from seqkd.text.vocabularies import VOCABULARY
from seqkd.text.vocabulary import EOS_ID

ARCH = "transformer"


def import_model(
    path: str | Path, out: str | Path, settings: HuggingfaceFiles, *, overwrite: bool = False
) -> ImportReport:
    """Convert a Hugging Face model to a model folder.

    Args:
        path: A folder, or the name of a model on the hub.
        out: The model folder to make.
        settings: The languages and the revision.
        overwrite: Whether to replace a model folder that was made from other inputs.

    Raises:
        ModelError: The folder does not exist, and the hub cannot be reached; a file is missing or damaged, or needs
            code to be run; or the model has an architecture or an option that seqkd's Transformer does not have.
        ConflictError: `out` was made from other inputs.
        WorkError: A file cannot be written, for example because the disk is full.
    """
    folder, out = locate(path, settings.revision), Path(out)
    facts = read_facts(folder)
    with tempfile.TemporaryDirectory() as scratch:
        tokens = read_tokenizers(folder, facts, settings, Path(scratch))
        files = weight_files(folder)
        inputs = {"config": _digest([facts.where]), "weights": _digest(files)} | {
            f"vocabulary.{name}": digest for name, digest in tokens.vocabularies.digests().items()
        }
        made_by = Provenance(stage="import", settings={"from": "huggingface"}, inputs=inputs)
        model, options = _build(facts, tokens, files)
        parameters = sum(weight.numel() for weight in model.parameters())
        report = ImportReport(parameters, (*tokens.notes, *_search_notes(facts)))
        with StageOutput.open(out, "model", made_by, overwrite=overwrite) as output:
            if output.complete:
                return report
            write_vocabularies(out, tokens.vocabularies)
            save_model(out, model, arch=ARCH, settings=options, vocab=out)
            extra = {
                "role": "teacher",
                "arch": ARCH,
                "parameters": parameters,
                "imported_from": "huggingface",
                "files": model_files(out),
            }
            digest = tokens.vocabularies.digests()[VOCABULARY]
            output.commit(Manifest(kind="model", fingerprint=made_by.fingerprint, vocabulary=digest, extra=extra))
    return report


def _build(facts: ModelFacts, tokens: Tokenization, files: list[Path]) -> tuple[Transformer, dict[str, Any]]:
    """Build the model, and return it with its settings."""
    if tokens.start is not None:
        facts = replace(facts, start=tokens.start)
    if facts.settings["embeddings"] == "shared" and tokens.source_order != tokens.order:
        facts = replace(facts, settings=facts.settings | {"embeddings": "decoder"})
    try:
        weights, bias = convert(read_weights(files), facts, tokens.source_order, tokens.order)
        if facts.start not in tokens.order:
            raise ModelError(f"decoder_start_token_id is {facts.start}", expected=f"an id below {facts.rows:,}")
        start = tokens.order.index(facts.start)
        zero = not bool(weights["target_embedding"][start].any())
        settings = TransformerSettings(
            **facts.settings,
            start="zero" if zero else "eos" if start == EOS_ID else start,
            output_bias=bias is not None,
        )
        options = stored_settings(settings)
        model = build(ARCH, options, source_vocab=len(tokens.source_order), target_vocab=len(tokens.order))
    except ModelError as error:
        where = error.where or str(facts.where.parent)
        raise ModelError(error.what, where=where, expected=error.expected, hint=error.hint) from None
    except ValueError as error:
        raise ModelError(str(error), where=str(facts.where)) from None
    assert isinstance(model, Transformer)
    if bias is not None:
        weights["output_bias"] = bias
    own = model.state_dict()
    if wrong := [name for name, weight in weights.items() if own[name].shape != weight.shape]:
        shown = "; ".join(f"{name}: {list(weights[name].shape)}, not {list(own[name].shape)}" for name in wrong[:4])
        raise ModelError(f"shapes differ from the configuration: {shown}", where=str(facts.where.parent))
    with torch.no_grad():
        model.load_state_dict(weights)
    return model.eval(), options


def _search_notes(facts: ModelFacts) -> list[str]:
    """Return the model's own search options as a line that the user can copy into a stage or pipeline file."""
    if not facts.search:
        return []
    options = ", ".join(f"{name} = {value}" for name, value in facts.search.items())
    return [f"the model's own search is search = {{ {options} }} in seqkd"]


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise ModelError(f"cannot be read: {error.strerror}", where=str(path), hint="check the path") from None
    return digest.hexdigest()

"""The agreement of models: BLEU of the outputs of one system with those of another in place of the references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from seqkd.config.stages import ReportConfig
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import CorpusError
from seqkd.metrics.corpus import corpus_bleu
from seqkd.metrics.results import EvaluationResult, read_result
from seqkd.metrics.tokenizers import Tokenizer, choose_tokenizer
from seqkd.stages.evaluate.comparing import name_outputs, read_outputs

AGREEMENT = "agreement"  # a metric


def add_agreement(config: ReportConfig, models: Sequence[EvaluationResult]) -> tuple[EvaluationResult, ...]:
    """Add the agreement with the model that `config.agreement` names to each decode of all other models.

    The outputs of that model are those of its largest beam or last decode.

    Args:
        config: The settings of the stage.
        models: The results of the evaluations, in the order of the settings.

    Raises:
        CorpusError: The two test texts differ, or an evaluation is missing or damaged.
    """
    named = config.agreement
    if named is None:
        return tuple(models)
    _check_same_text(config)
    result = read_result(named.path)
    theirs = _read_decode(named.path, result, result.quality)
    tokenizer = _find_tokenizer(config)
    found = []
    for part, model in zip(config.evaluations, models, strict=True):
        if part.path == named.path:
            found.append(model)
            continue
        decodes = {}
        for name, decode in model.decodes.items():
            score = corpus_bleu(
                _read_decode(part.path, model, name), [[text] for text in theirs], tokenizer=tokenizer
            ).value
            decodes[name] = replace(decode, further={**decode.further, AGREEMENT: score})
        found.append(replace(model, decodes=decodes))
    return tuple(found)


def _read_decode(folder: Path, result: EvaluationResult, decode: str) -> list[str]:
    path = folder / name_outputs(decode, parallel=result.parallel)
    return read_outputs(path, result.rows, of="model")


def _check_same_text(config: ReportConfig) -> None:
    assert config.agreement is not None
    texts = [
        [table.select(["source", "target"]).to_pydict() for table in Corpus.open(path, "corpus").tables()]
        for path in (config.prepared / "test", config.agreement.corpus)
    ]
    ours, theirs = ([pair for table in tables for pair in zip(*table.values(), strict=True)] for tables in texts)
    if ours != theirs:
        raise CorpusError(
            f"its test text is not that of {config.agreement.name}, with whose outputs the outputs are compared",
            where=str(config.prepared / "test"),
            expected=f"the text of {config.agreement.corpus}",
            hint="give the data sets the same test text, or leave evaluate.agreement out",
        )


def _find_tokenizer(config: ReportConfig) -> Tokenizer:
    """Return the tokenizer of BLEU with which the evaluations were made."""
    assert config.agreement is not None
    written = read_manifest(config.agreement.path).fingerprint.get("config", {}).get("tokenizer", "auto")
    language = read_manifest(config.prepared / "test").extra.get("target_language")
    return choose_tokenizer(written, language)

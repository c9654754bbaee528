"""The provenance of an evaluation."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from seqkd.config.stages import EvaluateConfig
from seqkd.config.written import find_neutral
from seqkd.corpus.manifest import Provenance
from seqkd.corpus.reader import Corpus
from seqkd.corpus.revisions import search_revisions
from seqkd.models.checkpoint import model_digest
from seqkd.search.loading import Precision
from seqkd.search.paths import engine_for
from seqkd.stages.evaluate.comparing import BaselineOutputs
from seqkd.stages.evaluate.targets import TargetCorpora

OUTPUTS = "baseline.outputs"  # the role of the outputs of the baseline


def settings(config: EvaluateConfig) -> dict[str, Any]:
    """Return the settings that the output depends on, as in the stage file."""
    names = {"name", "role", "trained_on", "beams", "decode", "batch_tokens", "precision", "threads"}
    names |= {"tokenizer", "metrics", "timed", "target_rows"}
    search = config.search.model_dump(mode="json", exclude={"beam", "nbest"})
    return {**config.model_dump(mode="json", include=names), "search": search}


def provenance(
    config: EvaluateConfig,
    corpus: Corpus,
    accepted: Path,
    rival: BaselineOutputs | None,
    targets: TargetCorpora,
    where: torch.device,
    precision: Precision,
) -> Provenance:
    """Return the provenance that `evaluate` compares with an existing folder.

    Args:
        config: The settings of the stage.
        corpus: The test corpus.
        accepted: The file of accepted translations, which may not exist.
        rival: The outputs of the baseline, if there is one.
        targets: The training corpora whose targets are measured.
        where: The device of the models.
        precision: The precision of their weights.

    Raises:
        ModelError: A model folder is damaged.
    """
    inputs = {"corpus": corpus.manifest.digest(), "model": model_digest(config.model)}
    inputs |= {f"model{number}": model_digest(path) for number, path in enumerate(config.ensemble, start=2)}
    beside = {"rescore_with": config.rescore_with, "speed_against": config.speed_against}
    inputs |= {name: model_digest(path) for name, path in beside.items() if path is not None}
    if accepted.is_file():
        inputs["accepted"] = hashlib.sha256(accepted.read_bytes()).hexdigest()
    if rival is not None:
        inputs[OUTPUTS] = rival.digest
    inputs |= targets.digests()
    return Provenance(
        stage="evaluate",
        settings=settings(config),
        inputs=inputs,
        neutral=find_neutral(config),
        optional=(OUTPUTS,),
        worked={
            "device": where.type,
            "precision": precision,
            "engine": engine_for([config.model, *config.ensemble], precision, where),
            "batch_tokens": config.batch_tokens,
        },
        revisions=search_revisions(precision),
        resumes=False,
    )

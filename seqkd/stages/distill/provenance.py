"""The settings and inputs of k-best lists."""

from __future__ import annotations

from typing import Any

import torch

from seqkd.config.stages import DistillConfig
from seqkd.config.written import find_neutral
from seqkd.corpus.manifest import Provenance
from seqkd.corpus.reader import Corpus
from seqkd.corpus.revisions import search_revisions
from seqkd.extensions import resolve
from seqkd.interop.seqkd_models import ModelSettings
from seqkd.interop.sources import MODELS, SOURCES, KBestSource
from seqkd.search import BeamSettings
from seqkd.search.loading import Precision, resolve_batch_tokens
from seqkd.search.paths import engine_for


def source_of(config: DistillConfig) -> KBestSource:
    """Return the record of the source of the lists."""
    return SOURCES.own[MODELS] if config.source is None else config.source.record


def source_settings(config: DistillConfig, where: torch.device, precision: Precision | None) -> Any:
    """Return the settings of the source.

    Args:
        config: The settings of the stage.
        where: The device of the models.
        precision: Precision of the models' weights, or None for another source.
    """
    if config.source is not None or precision is None:
        return None if config.source is None else config.source.settings
    search = BeamSettings(**config.search.model_dump())
    together = resolve_batch_tokens(config.batch_tokens, where)
    return ModelSettings(models=config.models, search=search, batch_tokens=together, precision=precision)


def settings(config: DistillConfig) -> dict[str, Any]:
    """Return the settings on which the output depends, as written in the stage file."""
    if config.source is not None:
        return {"source": config.source.identify()}
    return config.model_dump(mode="json", include={"search", "batch_tokens", "precision"})


def provenance(config: DistillConfig, corpus: Corpus, where: torch.device, precision: Precision | None) -> Provenance:
    """Return the settings and inputs that `distill` compares with an existing folder.

    Args:
        config: The settings of the stage.
        corpus: The corpus to decode.
        where: The device of the models.
        precision: Precision of the models' weights, or None for another source.

    Raises:
        ModelError: A model folder is damaged.
    """
    made_from = resolve(source_of(config).inputs)(source_settings(config, where, precision))
    if config.source is not None:
        made_from = {f"source.{name}": digest for name, digest in made_from.items()}
    inputs = {"corpus": corpus.manifest.digest(), **made_from}
    if precision is None:
        return Provenance(stage="distill", settings=settings(config), inputs=inputs, neutral=find_neutral(config))
    return Provenance(
        stage="distill",
        settings=settings(config),
        inputs=inputs,
        neutral=find_neutral(config),
        worked={
            "device": where.type,
            "precision": precision,
            "engine": engine_for(config.models, precision, where),
            "batch_tokens": resolve_batch_tokens(config.batch_tokens, where),
        },
        revisions=search_revisions(precision),
    )

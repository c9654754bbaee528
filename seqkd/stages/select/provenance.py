"""The settings and inputs of a distilled corpus."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from seqkd.config.stages import SelectConfig
from seqkd.config.written import find_neutral
from seqkd.corpus.manifest import Provenance
from seqkd.corpus.reader import Corpus
from seqkd.corpus.revisions import scoring_revisions
from seqkd.executors.work import Scale
from seqkd.metrics.tokenizers import suited_tokenizer
from seqkd.selection.settings import PRECISION
from seqkd.stages.shards import stage_device
from seqkd.text.identification import identifier_version


def settings(config: SelectConfig) -> dict[str, Any]:
    """Return the settings on which the output depends, as written in the stage file."""
    values = config.model_dump(mode="json", exclude={"kbest", "gold", "prepared", "workers", "rerank", "scorer"})
    values["filters"] = config.filters.identify()
    for name, scorer in (("rerank", config.rerank), ("scorer", config.scorer)):
        if scorer is not None:
            values[name] = scorer.identify()
    return values


def provenance(config: SelectConfig, kbest: Corpus, gold: Corpus, device: str, scale: Scale) -> Provenance:
    """Return the settings and inputs that `select` compares with an existing folder.

    Args:
        config: The settings of the stage.
        kbest: The k-best lists.
        gold: The corpus that was decoded.
        device: The device of the models of a scorer.
        scale: The executor and the part of the work.
    """
    values = settings(config)
    suited = suited_tokenizer(gold.manifest.extra.get("target_language")) if "bleu" in config.record.reads else "13a"
    if config.tokenizer == suited == "13a":  # 13a was the default once; if auto means the same, it is recorded as auto
        values["tokenizer"] = "auto"
    made_by = Provenance(
        stage="select",
        settings=values,
        inputs={"kbest": kbest.manifest.digest(), "gold": gold.manifest.digest()},
        neutral=find_neutral(config),
        worked=identifier_version() if config.filters["language"] else {},
    )
    if config.judge is None or not config.judge.models:
        return made_by
    from seqkd.models.checkpoint import model_digest  # torch is not loaded for rules that need no model

    digests = {name: model_digest(path) for name, path in config.judge.models.items()}
    together = getattr(config.judge.settings, "batch_tokens", None)
    return replace(
        made_by,
        inputs={**made_by.inputs, **digests},
        worked={
            **made_by.worked,
            "device": stage_device(device, scale).type,
            "precision": PRECISION,
            **({} if together is None else {"batch_tokens": together}),
        },
        revisions=scoring_revisions(PRECISION),
    )

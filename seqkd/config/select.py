"""How targets are selected, as stage and pipeline files give it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from seqkd.config.search import Strict
from seqkd.metrics.tokenizers import TokenizerChoice

RuleName = Literal["seqkd", "seqinter", "oracle", "chrf", "ter", "sample", "mbr-bleu", "mbr-chrf", "rerank", "all"]
WITH_REFERENCES = ("seqinter", "oracle", "chrf", "ter")  # rules that look at the gold targets


class FilterConfig(Strict):
    """What is rejected besides empty hypotheses. Lengths are subwords."""

    max_ratio: float | None = Field(
        None, ge=1.0, description="longer side over the shorter side, ends of sentence counted"
    )
    unknown: bool = Field(True, description="a hypothesis that holds the unknown piece")
    copies: bool = Field(False, description="a target that equals its source")
    cut: bool = Field(False, description="a hypothesis that ended at the longest allowed length")
    max_repeats: int | None = Field(None, ge=1, description="how often the same 1 to 8 subwords may come in a row")
    min_score: float | None = Field(None, description="least score of the search")
    worst_percent: float = Field(
        0.0, ge=0.0, lt=100.0, description="a score below this percentile of the best hypotheses' scores"
    )
    script: str | None = Field(
        None, pattern=r"^[A-Za-z_]+$", description="a Unicode script that more than half of the letters must have"
    )
    max_ter: float | None = Field(None, ge=0.0, description="translation edit rate to the reference, in per cent")
    duplicates: bool = Field(False, description="a pair that an earlier row has; such rows are dropped")


class RerankConfig(Strict):
    """The models of rule "rerank"."""

    forward: Path | None = Field(None, description="target given source; omitted: the teacher's own log-probabilities")
    reverse: Path | None = Field(None, description="source given target")
    channel_weight: float = Field(1.0, ge=0.0, description="of the reverse model")
    batch_tokens: int = Field(4000, ge=1)

    @model_validator(mode="after")
    def _some(self) -> RerankConfig:
        if self.forward is None and self.reverse is None:
            raise ValueError("rerank needs `forward`, `reverse` or both")
        return self


class SelectSettings(Strict):
    """Which hypothesis becomes the target."""

    rule: RuleName
    tokenizer: TokenizerChoice | Literal["pieces"] = Field(
        "auto", description="of sentence BLEU; auto: by the target's language; pieces: the vocabulary's subwords"
    )
    smoothing: Literal["exp", "floor", "add-k", "none"] = Field("exp", description="of sentence BLEU")
    seed: int = Field(1, ge=0, description='of rule "sample"')
    rerank: RerankConfig | None = None
    filters: FilterConfig = FilterConfig()
    rejected: Literal["drop", "next", "gold"] = Field(
        "drop", description="what a row gets whose choice is rejected: nothing, the next best, or its gold target"
    )
    workers: int = Field(0, ge=0, description="processes; 0: one for each core")

    @model_validator(mode="after")
    def _fits(self) -> SelectSettings:
        if (self.rule == "rerank") != (self.rerank is not None):
            raise ValueError('rule "rerank" and the table `rerank` go together')
        if self.rule == "all" and self.rejected == "next":
            raise ValueError('rule "all" keeps every hypothesis that no filter rejects: rejected is "drop" or "gold"')
        return self

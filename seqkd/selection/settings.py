"""Settings of scorers and rules, separate from their code, so that reading a file does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

PRECISION: Literal["float32"] = "float32"  # precision of the models of a scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelScorerSettings:
    """Settings of the scorer "models"."""

    forward: Annotated[
        Path | None,
        Field(description="model of the target given the source; left out: the teacher's own log-probabilities"),
    ] = None
    reverse: Annotated[Path | None, Field(description="model of the source given the target")] = None
    channel_weight: Annotated[float, Field(ge=0.0, description="weight of the reverse model")] = 1.0
    batch_tokens: Annotated[int, Field(ge=1, description="tokens that are scored together, including padding")] = 4000

    def __post_init__(self) -> None:
        if self.forward is None and self.reverse is None:
            raise ValueError("the scorer needs `forward`, `reverse` or both")


@dataclass(frozen=True, slots=True, kw_only=True)
class FearSettings:
    """Settings of rule "fear"."""

    weight: Annotated[
        float,
        Field(
            ge=0.0,
            allow_inf_nan=False,
            description="nats of the normalised score that a unit of sentence BLEU, from 0 to 1, is worth",
        ),
    ] = 1.0
    normalise: Annotated[
        Literal["none", "z"],
        Field(
            description="z: score and BLEU are measured in standard deviations of the list, and `weight` is their ratio"
        ),
    ] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class HopeSettings(FearSettings):
    """Settings of the rules "hope" and "pair"."""

    safe: Annotated[
        bool, Field(description="scale the score down if it is more than 5 times the weighted BLEU of the choice")
    ] = False

    def __post_init__(self) -> None:
        if self.safe and self.normalise != "none":
            raise ValueError('safe: compares the score with BLEU as they are; leave out `safe` or `normalise = "z"`')

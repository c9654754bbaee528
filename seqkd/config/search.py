"""The settings of decoding in stage and pipeline files.

The fields are those of `seqkd.search.BeamSettings` and of `seqkd.models.protocol.ParallelSettings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from seqkd.corpus.files import is_kept

MOST_LETTERS = 64  # the longest name


def _check_name(name: str) -> str:
    if is_kept(name):
        raise ValueError(
            "names that end in .old, .old2 and so on are reserved for finished folders that their stages replace; "
            "choose another name"
        )
    return name


def _auto_or_number(value: Any) -> Any:
    # A union of pydantic's would report two problems for one value, with places that are not in the file.
    if value == "auto":
        return value
    try:
        number = int(value)
        sound = number >= 1 and number == float(value)
    except (TypeError, ValueError, OverflowError):
        sound = False
    if not sound:
        raise ValueError('should be a whole number of at least 1, or "auto"')
    return number


Name = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MOST_LETTERS), AfterValidator(_check_name)
]
SearchPrecision = Literal["auto", "float32", "bf16x3", "bf16", "int8", "fp16"]
DecodedTogether = Annotated[int | Literal["auto"], BeforeValidator(_auto_or_number)]
Beams = Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1)]


class Strict(BaseModel):
    """Unknown keys are errors; values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SearchConfig(Strict):
    """Beam search or sampling, with fairseq's conventions."""

    beam: int = Field(5, ge=1, le=64, description="hypotheses kept alive; when sampling, samples drawn")
    nbest: int = Field(1, ge=1, le=64)
    length_penalty: float = Field(1.0, ge=-10.0, le=10.0)
    normalization: Literal["power", "gnmt"] = "power"
    stopping: Literal["first", "exact"] = Field("first", description="first: stop at `beam` finished hypotheses")
    max_length_ratio: float = Field(2.0, ge=0.0, description="longest output = ratio * source tokens + extra")
    max_length_extra: int = Field(10, ge=1)
    min_length: int = Field(1, ge=0, description="shortest output, end of sentence not counted")
    min_length_ratio: float = Field(0.0, ge=0.0, description="shortest output, also: ratio * source tokens")
    unk_penalty: float = Field(0.0, ge=0.0, description="subtracted from the unknown piece's log-probability")
    no_repeat_ngram_size: int = Field(0, ge=0, description="no output holds the same n tokens twice; 0: off")
    temperature: float = Field(1.0, gt=0.0, description="logits are divided by it")
    sampling: bool = Field(False, description="draw `beam` samples instead of searching")
    top_k: int = Field(0, ge=0, description="sample from the k most likely tokens; 0: from all")
    top_p: float = Field(
        1.0, gt=0.0, le=1.0, description="sample from the most likely tokens that have this total probability"
    )
    epsilon: float = Field(
        0.0, ge=0.0, lt=1.0, description="sample only tokens of at least this probability, and the most likely one"
    )
    seed: int = Field(1, description="seed of sampling; together with the row id it determines every draw")
    diverse_groups: int = Field(1, ge=1, le=64, description="groups of the beam (diverse beam search); 1: plain search")
    diverse_strength: float = Field(0.5, ge=0.0, description="penalty for a token that an earlier group has too")

    @model_validator(mode="after")
    def _check_settings(self) -> SearchConfig:
        if self.nbest > self.beam:
            raise ValueError(f"nbest {self.nbest} is larger than beam {self.beam}")
        if (self.top_k or self.top_p < 1.0 or self.epsilon) and not self.sampling:
            raise ValueError("top_k, top_p and epsilon are for sampling: set `sampling = true`")
        if self.sampling and self.diverse_groups > 1:
            raise ValueError("diverse_groups is for beam search, not for sampling")
        if self.beam % self.diverse_groups:
            raise ValueError(f"diverse_groups {self.diverse_groups} does not divide beam {self.beam}")
        return self


class ParallelConfig(Strict):
    """One way to decode a model that writes all positions at once. A model ignores settings that it does not use."""

    name: Name = "nat"
    iterations: int = Field(10, ge=1, le=1000, description="passes of a model that refines its output (`cmlm`)")
    candidates: int = Field(1, ge=1, le=1000, description="hypotheses followed for each sentence")
    strategy: Literal["auto", "greedy", "beam", "lookahead"] = "auto"
    rescore: bool = Field(
        False, description="the teacher chooses among the candidates: noisy parallel decoding (Gu et al. 2018)"
    )

    drop_repeats: bool = Field(True, description="`dag`: keep only the first of equal pieces in a row")

    @model_validator(mode="after")
    def _check_settings(self) -> ParallelConfig:
        if self.name.isdecimal():
            raise ValueError(f"name {self.name!r} is a number; numbers are the names of beams")
        if self.rescore and self.candidates == 1:
            raise ValueError("rescore chooses among candidates: set `candidates` to 2 or more")
        return self


def check_decode(decode: Sequence[ParallelConfig]) -> None:
    """Refuse decodes that share a name.

    Raises:
        ValueError: Two decodes have the same name.
    """
    names = [way.name for way in decode]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"decode: two decodes have the name {twice[0]!r}")


def check_beams(search: SearchConfig, beams: tuple[int, ...]) -> None:
    """Refuse a search that cannot be run with each of `beams` in place of its own.

    Raises:
        ValueError: Its diverse groups do not divide one of them.
    """
    odd = [beam for beam in beams if beam % search.diverse_groups]
    if odd:
        raise ValueError(f"search.diverse_groups {search.diverse_groups} does not divide beams {odd}")

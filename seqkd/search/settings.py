"""What a search is asked to do, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Normalization = Literal["power", "gnmt"]
Stopping = Literal["first", "exact"]
Ended = Literal["eos", "max_length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSettings:
    """Beam search, with fairseq's conventions.

    Attributes:
        beam: Hypotheses kept alive for each sentence.
        nbest: Hypotheses returned for each sentence, best first.
        length_penalty: alpha of `normalization`.
        normalization: power: logprob / length**alpha; gnmt: logprob / ((5 + length) / 6)**alpha (Wu et al. 2016,
            eq. 14). The length counts the end of sentence.
        stopping: first: a sentence is done at `beam` finished hypotheses; exact: when no live hypothesis can still
            beat the worst of the `beam` best finished ones.
        max_length_ratio: The longest output, end of sentence not counted, is
            max_length_ratio * source tokens + max_length_extra.
        max_length_extra: See `max_length_ratio`.
        min_length: Shortest output, end of sentence not counted.
    """

    beam: int = 5
    nbest: int = 1
    length_penalty: float = 1.0
    normalization: Normalization = "power"
    stopping: Stopping = "first"
    max_length_ratio: float = 2.0
    max_length_extra: int = 10
    min_length: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.beam <= 64:
            raise ValueError(f"beam must be from 1 to 64, got {self.beam}")
        if not 1 <= self.nbest <= self.beam:
            raise ValueError(f"nbest must be from 1 to the beam of {self.beam}, got {self.nbest}")
        if self.max_length_extra < 1 or self.max_length_ratio < 0 or self.min_length < 0:
            raise ValueError("max_length_extra must be at least 1, max_length_ratio and min_length at least 0")

    def max_length(self, source_tokens: int, max_positions: int) -> int:
        """The longest output for a source of that many tokens (end of sentence counted in neither).

        The model's positions bound it too: its decoder reads the start and every token but the end.
        """
        return min(int(self.max_length_ratio * source_tokens) + self.max_length_extra, max_positions - 1)


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One translation.

    Attributes:
        ids: Target ids, end of sentence not among them.
        score: Length-normalised log-probability.
        logprob: Log-probability, end of sentence counted.
        ended: eos: the model ended it; max_length: it was cut off, and its end of sentence was forced.
    """

    ids: list[int]
    score: float
    logprob: float
    ended: Ended

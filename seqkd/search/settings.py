"""The settings of a search, and its results."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Normalization = Literal["power", "gnmt"]
Stopping = Literal["first", "exact"]
Ended = Literal["eos", "max_length"]

# A product like 0.1 * 30 must not be rounded up to 4.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSettings:
    """Beam search or sampling, with fairseq's conventions.

    Attributes:
        beam: Hypotheses kept alive for each sentence; when sampling, samples drawn for each sentence.
        nbest: Hypotheses returned for each sentence, best first.
        length_penalty: alpha of `normalization`.
        normalization: power: logprob / length**alpha; gnmt: logprob / ((5 + length) / 6)**alpha (Wu et al. 2016,
            eq. 14). The length counts the end of sentence.
        stopping: first: a sentence is finished at `beam` finished hypotheses; exact: when no live hypothesis can still
            beat the worst of the `beam` best finished ones. Samples are not affected.
        max_length_ratio: The longest output, without end of sentence, is
            max_length_ratio * source tokens + max_length_extra.
        max_length_extra: See `max_length_ratio`.
        min_length: Shortest output, without end of sentence. If it contradicts the longest output, the latter holds.
        min_length_ratio: The shortest output has at least min_length_ratio * source tokens.
        unk_penalty: Penalty that is subtracted from the log-probability of the unknown piece.
        no_repeat_ngram_size: No output contains the same sequence of n tokens twice; 0 for no such rule. A hypothesis
            without any other continuation may end, even if it is too short.
        temperature: Divisor of logits. In an ensemble it applies to each member, before probabilities are averaged.
        sampling: Whether to draw `beam` independent samples instead of searching. Samples may be equal.
        top_k: Number of likeliest continuations to sample from; 0 for all.
        top_p: Probability mass of the smallest set of likeliest continuations to sample from, after `top_k` (Holtzman
            et al. 2020).
        epsilon: Probability below which no continuation is sampled, except the likeliest one (epsilon sampling, Hewitt
            et al. 2022). It is applied before `top_k` and `top_p`; 0 for no such threshold.
        seed: Seed of sampling. Together with the row id, the number of the sample and the position it decides every
            draw, so that neither batches nor order change a sample.
        diverse_groups: Number of groups in diverse beam search (Vijayakumar et al. 2016), which take turns at each
            step. Groups may find the same translation. 1 for plain beam search.
        diverse_strength: Penalty for each candidate of an earlier group with the same token at the same step. It is
            subtracted from the log-probability of a continuation, and so from the final score.
    """

    beam: int = 5
    nbest: int = 1
    length_penalty: float = 1.0
    normalization: Normalization = "power"
    stopping: Stopping = "first"
    max_length_ratio: float = 2.0
    max_length_extra: int = 10
    min_length: int = 1
    min_length_ratio: float = 0.0
    unk_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    temperature: float = 1.0
    sampling: bool = False
    top_k: int = 0
    top_p: float = 1.0
    epsilon: float = 0.0
    seed: int = 1
    diverse_groups: int = 1
    diverse_strength: float = 0.5

    def __post_init__(self) -> None:
        if not 1 <= self.beam <= 64:
            raise ValueError(f"beam must be from 1 to 64, got {self.beam}")
        if not 1 <= self.nbest <= self.beam:
            raise ValueError(f"nbest must be from 1 to the beam of {self.beam}, got {self.nbest}")
        if not math.isfinite(self.length_penalty):
            raise ValueError(f"length_penalty must be finite, got {self.length_penalty}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not 0.0 <= self.epsilon < 1.0:
            raise ValueError(f"epsilon must be at least 0 and below 1, got {self.epsilon}")
        if (self.top_k or self.top_p < 1.0 or self.epsilon) and not self.sampling:
            raise ValueError("top_k, top_p and epsilon are for sampling, but sampling is off")
        if self.beam % self.diverse_groups:
            raise ValueError(f"diverse_groups must divide the beam of {self.beam}, got {self.diverse_groups}")
        if self.sampling and self.diverse_groups > 1:
            raise ValueError("diverse_groups is for beam search, but sampling is on")

    @property
    def whole(self) -> bool:
        """Whether every step needs all log-probabilities instead of the best few of each row."""
        return self.temperature != 1.0 or self.no_repeat_ngram_size > 0 or self.sampling or self.diverse_groups > 1

    def max_length(self, source_tokens: int, max_positions: int) -> int:
        """Return the longest output for a source of `source_tokens` tokens, both without end of sentence.

        The positions of the model limit it, too: the decoder reads the start and every token except the end.
        """
        return min(int(self.max_length_ratio * source_tokens) + self.max_length_extra, max_positions - 1)

    def shortest(self, source_tokens: int) -> int:
        """Return the shortest output for a source of `source_tokens` tokens, both without end of sentence."""
        return max(self.min_length, math.ceil(self.min_length_ratio * source_tokens - ROUNDING))


_LEAST = {
    "max_length_ratio": 0,
    "max_length_extra": 1,
    "min_length": 0,
    "min_length_ratio": 0,
    "unk_penalty": 0,
    "no_repeat_ngram_size": 0,
    "top_k": 0,
    "diverse_groups": 1,
    "diverse_strength": 0,
}


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One translation.

    Attributes:
        ids: Target ids, including a forced prefix, without end of sentence.
        score: Length-normalised log-probability.
        logprob: Log-probability, including end of sentence and a forced prefix. It is that of the search, after
            temperature and penalties and before top_k, top_p and epsilon; `score_pairs` gives that of the model.
        ended: eos if the model ended it; max_length if it was cut off with a forced end of sentence.
    """

    ids: list[int]
    score: float
    logprob: float
    ended: Ended

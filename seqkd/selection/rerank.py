"""Scoring of hypotheses by models other than the teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqkd.errors import CorpusError
from seqkd.search import score_pairs
from seqkd.search.loading import SearchTeam, load_team
from seqkd.selection.lists import Floats, Lists
from seqkd.selection.settings import PRECISION, ModelScorerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranker:
    """Values by forced decoding with one or two models.

    The value of target y for source x is log p(y | x) / |y| + channel_weight * log p(x | y) / |x|, where both lengths
    include end of sentence. This is the noisy channel of Yee et al. 2019, "Simple and Effective Noisy Channel Modeling
    for Neural Machine Translation", section 3, but without a language model.

    Attributes:
        forward: The model of p(y | x), or None for the teacher's own log-probabilities.
        reverse: The model of p(x | y), or None to leave the second term out.
        channel_weight: The weight of the second term.
        batch_tokens: Tokens that are scored together, including padding.
    """

    forward: SearchTeam | None
    reverse: SearchTeam | None
    channel_weight: float = 1.0
    batch_tokens: int = 4000

    def values(self, lists: Lists) -> Floats:
        """Return the value of each hypothesis `[hypotheses]`; minus infinity if a text is too long for a model."""
        sources = lists.sources.take(lists.owners).to_pylist()
        texts = lists.texts.to_pylist()
        if self.forward is None:
            logprobs = lists.hypotheses.field("logprob").to_numpy(zero_copy_only=False).astype(np.float64)
            if np.isnan(logprobs).any():
                raise CorpusError(
                    "the hypotheses have no log-probabilities, which are needed without a `forward` model",
                    where="rerank",
                    expected="k-best lists of a source that gives log-probabilities",
                    hint="name a `forward` model",
                )
            found: Floats = logprobs / (lists.lengths + 1)
        else:
            found = self._score(self.forward, sources, texts)
        if self.reverse is not None and self.channel_weight:  # zero times minus infinity is no number
            found = found + self.channel_weight * self._score(self.reverse, texts, sources)
        return found

    def _score(self, team: SearchTeam, sources: list[str], targets: list[str]) -> Floats:
        """Return the log-probability of each pair divided by its length."""
        vocabularies = team.loaded[0].vocabularies
        scorers = team.scorers
        limit = min(int(scorer.max_positions) for scorer in scorers)
        pairs = list(zip(vocabularies.source.encode(sources), vocabularies.target.encode(targets), strict=True))
        fits = [index for index, pair in enumerate(pairs) if max(map(len, pair)) < limit]
        values = np.full(len(pairs), -np.inf)
        scored = score_pairs(
            scorers, [pairs[index] for index in fits], batch_tokens=self.batch_tokens, device=team.device
        )
        values[fits] = [score.logprob / score.tokens for score in scored]
        return values


def build(settings: ModelScorerSettings, device: str) -> Callable[[Lists], Floats]:
    """Load the models and return the function that scores hypotheses.

    Raises:
        ModelError: A model folder is damaged or missing.
    """

    def team(path: Path | None) -> SearchTeam | None:
        return None if path is None else load_team([path], device=device, precision=PRECISION)

    return Reranker(
        forward=team(settings.forward),
        reverse=team(settings.reverse),
        channel_weight=settings.channel_weight,
        batch_tokens=settings.batch_tokens,
    ).values

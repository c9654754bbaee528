"""Judging hypotheses by other models than the teacher."""

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

    The value of target y for source x is log p(y | x) / |y| + channel_weight * log p(x | y) / |x|, ends of sentence in
    both lengths: the noisy channel of Yee et al. 2019, "Simple and Effective Noisy Channel Modeling for Neural
    Machine Translation", section 3, but without a language model.

    Attributes:
        forward: Gives p(y | x); None: the teacher's own log-probabilities.
        reverse: Gives p(x | y); None: the second term is left out.
        channel_weight: Of the second term.
        batch_tokens: Padded tokens that are scored together.
    """

    forward: SearchTeam | None
    reverse: SearchTeam | None
    channel_weight: float = 1.0
    batch_tokens: int = 4000

    def values(self, lists: Lists) -> Floats:
        """Of each hypothesis `[hypotheses]`; minus infinity where a model cannot take so long a text."""
        sources = lists.sources.take(lists.owners).to_pylist()
        texts = lists.texts.to_pylist()
        if self.forward is None:
            logprobs = lists.hypotheses.field("logprob").to_numpy(zero_copy_only=False).astype(np.float64)
            if np.isnan(logprobs).any():
                raise CorpusError(
                    "hypotheses have no log-probability, which stands in for a model `forward`",
                    where="rerank",
                    expected="k-best lists of a source that gives log-probabilities",
                    hint="name a model `forward`",
                )
            found: Floats = logprobs / (lists.lengths + 1)
        else:
            found = self._scored(self.forward, sources, texts)
        if self.reverse is not None and self.channel_weight:  # zero times minus infinity is no number
            found = found + self.channel_weight * self._scored(self.reverse, texts, sources)
        return found

    def _scored(self, team: SearchTeam, sources: list[str], targets: list[str]) -> Floats:
        """Log-probability over length of each pair."""
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
    """Load the models; give the function that values hypotheses.

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

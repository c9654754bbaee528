"""The perplexity of references, for each token and for each character."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from seqkd.search import score_pairs
from seqkd.search.loading import SearchTeam

_MOST = 700.0  # a float cannot exceed e^709


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The likelihood of references.

    Attributes:
        logprob: The sum of their log-probabilities.
        tokens: Their tokens, ends of sentences counted.
        characters: The characters of their text, which do not depend on the vocabulary.
    """

    logprob: float
    tokens: int
    characters: int

    @property
    def per_token(self) -> float:
        """The perplexity per token. Models with different vocabularies cannot be compared by it."""
        return math.exp(min(-self.logprob / self.tokens, _MOST))

    @property
    def per_character(self) -> float | None:
        """The perplexity per character; None if the references have no text."""
        return math.exp(min(-self.logprob / self.characters, _MOST)) if self.characters else None


def measure_likelihood(
    rows: Sequence[tuple[list[int], list[int], str]], team: SearchTeam, batch_tokens: int
) -> tuple[Likelihood | None, int, int]:
    """Compute the likelihood of references, and count rows that are too long and rows that were retried.

    Args:
        rows: The ids of the source, the ids of the reference, and its text.
        team: The model.
        batch_tokens: Tokens that are scored together, including padding.

    Returns:
        The likelihood, or None if all rows are too long; the rows that were left out because they are too long; the
        rows that were scored again in float32.
    """
    fitting = [row for row in rows if max(len(row[0]), len(row[1])) < team.max_positions]
    unscored = len(rows) - len(fitting)
    if not fitting:
        return None, unscored, 0
    pairs = [(source, target) for source, target, _ in fitting]
    scores = score_pairs(
        team.scorers, pairs, batch_tokens=batch_tokens, device=team.device, fallback=team.scorers_in_float32
    )
    found = Likelihood(
        logprob=sum(score.logprob for score in scores),
        tokens=sum(score.tokens for score in scores),
        characters=sum(len(text) for _, _, text in fitting),
    )
    return found, unscored, sum(score.retried for score in scores)

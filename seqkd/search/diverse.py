"""Diverse beam search (Vijayakumar et al. 2016): groups of hypotheses, penalised for the tokens of earlier groups."""

from __future__ import annotations

import torch
from torch import Tensor

from seqkd.search.candidates import top_k
from seqkd.search.constraints import NEVER


def rank_groups(scores: Tensor, *, groups: int, strength: float, forced: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rank the continuations of each group, one group after the other, with the paper's Hamming penalty (section 3).

    As in fairseq, hypothesis k belongs to group k mod `groups`, a token is penalised once for each candidate (the best
    2K / groups continuations) of an earlier group that holds it, and the groups' lists are interleaved by rank.

    Args:
        scores: `[slots, beam, vocab]`: log-probabilities of the continued hypotheses.
        groups: Number of groups, a divisor of the beam.
        strength: The penalty.
        forced: `[slots]` bool: the token is forced, so there is no penalty.

    Returns:
        Scores, ids and hypotheses of at most 2K candidates in their order of precedence, `[slots, 2K]`.
    """
    slots, beam, vocab = scores.shape
    size = beam // groups
    count = min(2 * size, size * vocab)
    weight = torch.where(forced, 0.0, strength)[:, None].expand(-1, count)
    penalty = scores.new_zeros(slots, vocab)
    ranked, ids, beams = [], [], []
    for group in range(groups):
        mine = scores[:, group::groups]
        values, places = top_k((mine - penalty[:, None] if group else mine).flatten(1), count)
        tokens = places % vocab
        penalty.scatter_add_(1, tokens, weight.masked_fill(values.eq(NEVER), 0.0))
        ranked.append(values)
        ids.append(tokens)
        beams.append(places // vocab * groups + group)
    return (
        torch.stack(ranked, dim=2).flatten(1),
        torch.stack(ids, dim=2).flatten(1),
        torch.stack(beams, dim=2).flatten(1),
    )

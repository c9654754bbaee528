"""The likeliest token of each position, and candidates put in order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqkd.models.nat.stack import DecodingStack
from seqkd.models.protocol import Output


def best_tokens(
    stack: DecodingStack, features: Tensor, wanted: Tensor, forbidden: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The likeliest token of each position.

    Args:
        stack: It has the output layer.
        features: `[batch, target, dim]`.
        wanted: `[batch, target]`, True at the positions to look at.
        forbidden: Ids that are not to be chosen. They keep their share of the probability.

    Returns:
        Ids `[batch, target]` int64 and their log-probabilities `[batch, target]` float32; 0 at other positions.
    """
    peaks, best, totals = stack.top_pieces(features[wanted], 1, forbidden)
    ids = torch.zeros(wanted.shape, dtype=torch.int64, device=features.device)
    logprobs = torch.zeros(wanted.shape, device=features.device)
    ids[wanted], logprobs[wanted] = best[:, 0], peaks[:, 0] - totals
    return ids, logprobs


def rank_outputs(ids: Tensor, logprobs: Tensor, lengths: Tensor, priors: Tensor, nbest: int) -> list[list[Output]]:
    """Candidates as outputs, best first; each text once, equals in their order.

    A candidate's log-probability is that of its length, or its fertilities, and of its tokens; its score is that over
    the tokens. (The tokens' mean alone, as in Ghazvininejad et al. 2019, takes to lengths that hardly ever occur:
    the more candidates, the worse the outputs.)

    Args:
        ids: `[batch * candidates, target]`.
        logprobs: Likewise; 0 beyond the lengths.
        lengths: `[batch, candidates]` tokens, at least 1.
        priors: `[batch, candidates]` log-probabilities of the lengths or fertilities; -inf where there is none.
        nbest: How many are kept for each sentence.
    """
    batch, count = lengths.shape
    totals = (logprobs.double().sum(1).view(batch, count) + priors.double()).tolist()
    texts, widths = ids.tolist(), lengths.tolist()
    found: list[list[Output]] = []
    for row in range(batch):
        distinct: dict[tuple[int, ...], Output] = {}
        for index, total in enumerate(totals[row]):
            text = texts[row * count + index][: widths[row][index]]
            output = Output(text, total / len(text), total)
            known = distinct.get(tuple(text))
            if total > float("-inf") and (known is None or known.score < output.score):
                distinct[tuple(text)] = output
        found.append(sorted(distinct.values(), key=lambda output: -output.score)[:nbest])
    return found

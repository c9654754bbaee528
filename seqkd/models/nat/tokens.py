"""The likeliest token of each position, and the ranking of candidates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqkd.models.nat.output import marked_places
from seqkd.models.nat.stack import DecodingStack
from seqkd.models.protocol import Output


def best_tokens(
    stack: DecodingStack, features: Tensor, wanted: Tensor, count: int, forbidden: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Find the likeliest token of each position.

    Args:
        stack: The stack that computes the output layer.
        features: `[batch, target, dim]`.
        wanted: `[batch, target]`, True at the positions to compute.
        count: Number of these positions.
        forbidden: Ids that must not be chosen. They keep their share of the probability.

    Returns:
        Ids `[batch, target]` int64 and their log-probabilities `[batch, target]` float32. Both are 0 at other
        positions.
    """
    places = marked_places(wanted, count)
    peaks, best, totals = stack.top_pieces(features.flatten(0, 1)[places], 1, forbidden)
    ids = torch.zeros(wanted.numel(), dtype=torch.int64, device=features.device)
    logprobs = torch.zeros(wanted.numel(), device=features.device)
    ids[places], logprobs[places] = best[:, 0], peaks[:, 0] - totals
    return ids.view(wanted.shape), logprobs.view(wanted.shape)


def rank_outputs(ids: Tensor, logprobs: Tensor, lengths: Tensor, priors: Tensor, nbest: int) -> list[list[Output]]:
    """Rank candidates, best first. Each text occurs once, and ties keep their order.

    The log-probability of a candidate is that of its length, or of its fertilities, and of its tokens. Its score is the
    log-probability divided by the number of tokens. (Ghazvininejad et al. 2019 use the mean over the tokens alone. This
    prefers very unlikely lengths, so that outputs become worse with more candidates.)

    Args:
        ids: `[batch * candidates, target]`.
        logprobs: `[batch * candidates, target]`, log-probabilities of the tokens, 0 after the last one.
        lengths: `[batch, candidates]`, numbers of tokens, at least 1.
        priors: `[batch, candidates]`, log-probabilities of the lengths or fertilities; -inf for a missing candidate.
        nbest: Number of outputs to keep for each sentence.
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

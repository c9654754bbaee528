"""The likeliest token of each position, and candidates put in order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from seqkd.models.protocol import Output

CHUNK_ELEMENTS = 1 << 24  # logits at a time


def best_tokens(
    features: Tensor, wanted: Tensor, weight: Tensor, forbidden: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """The likeliest token of each position.

    Args:
        features: `[batch, target, dim]`.
        wanted: `[batch, target]`, True at the positions to look at.
        weight: `[vocab, dim]`, the output layer.
        forbidden: Ids that are not to be chosen. They keep their share of the probability.

    Returns:
        Ids `[batch, target]` int64 and their log-probabilities `[batch, target]` float32; 0 at other positions.
    """
    places = wanted.flatten().nonzero()[:, 0]
    ids = torch.zeros(wanted.numel(), dtype=torch.int64, device=features.device)
    logprobs = torch.zeros(wanted.numel(), device=features.device)
    rows = features.flatten(0, 1)
    for part in torch.split(places, max(1, CHUNK_ELEMENTS // len(weight))):
        logits = functional.linear(rows[part], weight).float()
        total = logits.logsumexp(-1)
        logits[:, list(forbidden)] = float("-inf")
        peak, ids[part] = logits.max(-1)
        logprobs[part] = peak - total
    return ids.view_as(wanted), logprobs.view_as(wanted)


def outputs(ids: Tensor, logprobs: Tensor, lengths: Tensor, possible: Tensor, nbest: int) -> list[list[Output]]:
    """Candidates as outputs, by log-probability, mean over tokens; each text once, equals in their order.

    Args:
        ids: `[batch * candidates, target]`.
        logprobs: Likewise; 0 beyond the lengths.
        lengths: `[batch, candidates]` tokens, at least 1.
        possible: `[batch, candidates]`; others are left out.
        nbest: How many are kept for each sentence.
    """
    batch, count = lengths.shape
    sums = logprobs.double().sum(1).view(batch, count)
    texts, widths, chances = ids.tolist(), lengths.tolist(), sums.tolist()
    found: list[list[Output]] = []
    for row, marks in enumerate(possible.tolist()):
        distinct: dict[tuple[int, ...], Output] = {}
        for index in range(count):
            text = texts[row * count + index][: widths[row][index]]
            total = chances[row][index]
            output = Output(text, total / len(text), total)
            if marks[index] and (tuple(text) not in distinct or distinct[tuple(text)].score < output.score):
                distinct[tuple(text)] = output
        found.append(sorted(distinct.values(), key=lambda output: -output.score)[:nbest])
    return found

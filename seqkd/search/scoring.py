"""Log-probabilities of given translations, by teacher forcing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class ForcedModel(Protocol):
    """What scoring asks of a model: logits of every target position at once."""

    pad_id: int
    eos_id: int
    start_id: int

    def __call__(self, source: Tensor, target_in: Tensor) -> Tensor:
        """`[batch, source]` and `[batch, target]` ids to logits `[batch, target, vocab]`."""
        ...


@dataclass(frozen=True, slots=True)
class PairScore:
    """Log-probability of a target given its source, end of sentence counted in both fields."""

    logprob: float
    tokens: int


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """Ragged id lists to `[rows, longest]` int64, padded on the right."""
    width = max(map(len, rows), default=0)
    out = torch.full((len(rows), width), pad_id, dtype=torch.long)
    for index, row in enumerate(rows):
        out[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return out


@torch.inference_mode()
def score_pairs(
    models: Sequence[ForcedModel],
    pairs: Sequence[tuple[list[int], list[int]]],
    *,
    batch_tokens: int,
    device: torch.device | str = "cpu",
) -> list[PairScore]:
    """Score source and target ids, given without end of sentence.

    Args:
        models: One model, or several whose probabilities are averaged as in ensemble search.
        pairs: Source and target ids.
        batch_tokens: Padded target tokens scored together.
        device: Where the models are.

    Returns:
        One score for each pair, in order.
    """
    first = models[0]
    scores: list[PairScore | None] = [None] * len(pairs)
    for batch in length_batches([len(target) + 1 for _, target in pairs], batch_tokens):
        source = pad_rows([[*pairs[index][0], first.eos_id] for index in batch], first.pad_id).to(device)
        target_in = pad_rows([[first.start_id, *pairs[index][1]] for index in batch], first.pad_id).to(device)
        target_out = pad_rows([[*pairs[index][1], first.eos_id] for index in batch], first.pad_id).to(device)
        members = [model(source, target_in).float().log_softmax(dim=-1) for model in models]
        mean = members[0] if len(members) == 1 else torch.logsumexp(torch.stack(members), 0) - math.log(len(members))
        chosen = mean.gather(-1, target_out[..., None])[..., 0]
        lengths = torch.tensor([len(pairs[index][1]) + 1 for index in batch], device=device)
        inside = torch.arange(target_out.size(1), device=device) < lengths[:, None]
        sums = torch.where(inside, chosen, 0.0).double().sum(dim=1)
        for index, logprob, tokens in zip(batch, sums.tolist(), lengths.tolist(), strict=True):
            scores[index] = PairScore(logprob, tokens)
    return [score for score in scores if score is not None]


def length_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices of rows of like length, whose padded size stays within the budget (a longer row stands alone)."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch

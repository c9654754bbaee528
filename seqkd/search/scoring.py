"""Log-probabilities of given translations, by teacher forcing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from seqkd.errors import WorkError


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
    """Log-probability of a target given its source, end of sentence counted in both fields.

    Attributes:
        logprob: Natural logarithm.
        tokens: Of the target.
        retried: Whether it was not finite at first and was computed again in float32.
    """

    logprob: float
    tokens: int
    retried: bool = False


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """Ragged id lists to `[rows, longest]` int64, padded on the right."""
    width = max(map(len, rows), default=0)
    out = torch.full((len(rows), width), pad_id, dtype=torch.long)
    for index, row in enumerate(rows):
        out[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return out


def score_pairs(
    models: Sequence[ForcedModel],
    pairs: Sequence[tuple[list[int], list[int]]],
    *,
    batch_tokens: int,
    device: torch.device | str = "cpu",
    fallback: Callable[[], Sequence[ForcedModel]] | None = None,
) -> list[PairScore]:
    """Score source and target ids, given without end of sentence.

    Args:
        models: One model, or several whose probabilities are averaged as in ensemble search.
        pairs: Source and target ids.
        batch_tokens: Padded target tokens scored together.
        device: Where the models are.
        fallback: Gives the same models in float32. Pairs whose log-probability is not finite are scored again with
            them; without it they are an error.

    Returns:
        One score for each pair, in order.

    Raises:
        WorkError: A log-probability is not finite, in float32 too.
    """
    scores = raw_scores(models, pairs, batch_tokens=batch_tokens, device=device)
    bad = [index for index, score in enumerate(scores) if not math.isfinite(score.logprob)]
    if bad and fallback is not None:
        again = raw_scores(fallback(), [pairs[index] for index in bad], batch_tokens=batch_tokens, device=device)
        for index, score in zip(bad, again, strict=True):
            scores[index] = replace(score, retried=True)
        bad = [index for index in bad if not math.isfinite(scores[index].logprob)]
    if bad:
        named = ", ".join(str(index + 1) for index in bad[:10]) + (" ..." if len(bad) > 10 else "")
        raise WorkError(
            f"log-probabilities of {len(bad)} pairs are NaN or infinite",
            where=f"of {len(pairs)} pairs, number {named}",
            hint="check the checkpoint, or score in float32",
        )
    return scores


@torch.inference_mode()
def raw_scores(
    models: Sequence[ForcedModel],
    pairs: Sequence[tuple[list[int], list[int]]],
    *,
    batch_tokens: int,
    device: torch.device | str = "cpu",
) -> list[PairScore]:
    """`score_pairs` whose log-probabilities may be NaN or infinite."""
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

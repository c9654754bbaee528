"""Log-probabilities of given translations, by teacher forcing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from seqkd.errors import WorkError

Pairs = Sequence[tuple[list[int], list[int]]]


class ForcedModel(Protocol):
    """A model that gives the logits of all target positions at once."""

    pad_id: int
    eos_id: int
    start_id: int
    max_positions: int

    def __call__(self, source: Tensor, target_in: Tensor) -> Tensor:
        """Map `[batch, source]` and `[batch, target]` ids to logits `[batch, target, vocab]`."""
        ...


@runtime_checkable
class PairModel(Protocol):
    """A model that scores pairs without writing logits to memory."""

    max_positions: int

    def token_logprobs(self, pairs: Pairs, *, batch_tokens: int) -> Tensor:
        """Score source and target ids, given without end of sentence.

        Args:
            pairs: One or more pairs. Neighbours with equal sources may share their encoding.
            batch_tokens: Target tokens that are scored together.

        Returns:
            `[tokens]` float32 on the CPU, the log-probabilities of each target's ids and its end of sentence, in the
            order of the pairs. They do not depend on other pairs.
        """
        ...


Scorer = ForcedModel | PairModel


@dataclass(frozen=True, slots=True)
class PairScore:
    """The log-probability of a target given its source. Both numbers include end of sentence.

    Attributes:
        logprob: The natural logarithm of the probability.
        tokens: Number of target tokens.
        retried: Whether it was first not finite and was computed again in float32.
    """

    logprob: float
    tokens: int
    retried: bool = False


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """Pad id lists of different lengths on the right to `[rows, longest]` int64."""
    width = max(map(len, rows), default=0)
    out = torch.full((len(rows), width), pad_id, dtype=torch.long)
    for index, row in enumerate(rows):
        out[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return out


def score_pairs(
    models: Sequence[Scorer],
    pairs: Pairs,
    *,
    batch_tokens: int,
    device: torch.device | str = "cpu",
    fallback: Callable[[], Sequence[Scorer]] | None = None,
) -> list[PairScore]:
    """Score source and target ids, given without end of sentence.

    Args:
        models: One model, or several whose probabilities are averaged as in ensemble search.
        pairs: Source and target ids.
        batch_tokens: Target tokens that are scored together, including padding.
        device: The device of the models.
        fallback: Returns the same models in float32. Pairs whose log-probability is not finite are scored again with
            them; without a fallback they are an error.

    Returns:
        One score for each pair, in order.

    Raises:
        WorkError: A log-probability is not finite even in float32.
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
    models: Sequence[Scorer],
    pairs: Pairs,
    *,
    batch_tokens: int,
    device: torch.device | str = "cpu",
) -> list[PairScore]:
    """Score pairs like `score_pairs`, but allow log-probabilities that are NaN or infinite."""
    if not pairs:
        return []
    members = [
        model.token_logprobs(pairs, batch_tokens=batch_tokens)
        if isinstance(model, PairModel)
        else _forced_logprobs(model, pairs, batch_tokens=batch_tokens, device=device)
        for model in models
    ]
    mean = members[0] if len(members) == 1 else torch.logsumexp(torch.stack(members), 0) - math.log(len(members))
    lengths = [len(target) + 1 for _, target in pairs]
    return [
        PairScore(float(part.sum()), tokens)
        for part, tokens in zip(torch.split(mean.double(), lengths), lengths, strict=True)
    ]


def _forced_logprobs(model: ForcedModel, pairs: Pairs, *, batch_tokens: int, device: torch.device | str) -> Tensor:
    """Do the work of `PairModel.token_logprobs` with a `ForcedModel`."""
    lengths = [len(target) + 1 for _, target in pairs]
    found: list[Tensor] = [torch.empty(0)] * len(pairs)
    for batch in length_batches(lengths, batch_tokens):
        source = pad_rows([[*pairs[index][0], model.eos_id] for index in batch], model.pad_id).to(device)
        target_in = pad_rows([[model.start_id, *pairs[index][1]] for index in batch], model.pad_id).to(device)
        target_out = pad_rows([[*pairs[index][1], model.eos_id] for index in batch], model.pad_id).to(device)
        logprobs = model(source, target_in).float().log_softmax(dim=-1)
        for index, row in zip(batch, logprobs.gather(-1, target_out[..., None])[..., 0].cpu(), strict=True):
            found[index] = row[: lengths[index]]
    return torch.cat(found)


def length_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield indices of rows of similar length whose padded size is within `budget`; a longer row is a batch alone."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch

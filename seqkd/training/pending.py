"""Losses and gradient norms of updates that the device may not have finished. They are read late and checked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import mul
from typing import NamedTuple

import torch
from torch import Tensor

from seqkd.errors import WorkError
from seqkd.objectives.base import Batch
from seqkd.training.data import name_rows


@dataclass(frozen=True, slots=True)
class UpdateNumbers:
    """The numbers of one update.

    Attributes:
        update: Its number, from 1.
        loss: The loss of this rank's batches, as a sum over target tokens that count 1 each.
        tokens: Number of target tokens over all ranks.
        means: For each term, the loss of this rank's batches divided by this rank's denominator.
        mean: The weighted sum of `means`.
        norm: Gradient norm before clipping, or None if it was not computed.
    """

    update: int
    loss: float
    tokens: int
    means: list[float]
    mean: float
    norm: float | None


class Counts(NamedTuple):
    """An update's denominators, one per term.

    Attributes:
        own: Those of this rank's batches.
        all: Those of all ranks.
    """

    own: list[float]
    all: list[float]


@dataclass(frozen=True, slots=True)
class _UnreadUpdate:
    update: int
    losses: Sequence[tuple[Batch, Sequence[Tensor]]]
    tokens: int
    counts: Counts
    norm: Tensor | None


class PendingUpdates:
    """The updates whose numbers have not been read from the device yet.

    Args:
        terms: Name and weight of each term of the objective.
        scaled: Whether a gradient scaler handles overflows by skipping the update and scaling less (fp16).
    """

    def __init__(self, terms: Sequence[tuple[str, float]], *, scaled: bool) -> None:
        self._terms = terms
        self._scaled = scaled
        self._unread: list[_UnreadUpdate] = []

    def add(
        self,
        update: int,
        losses: Sequence[tuple[Batch, Sequence[Tensor]]],
        *,
        tokens: int,
        counts: Counts,
        norm: Tensor | None,
    ) -> None:
        """Add an update without reading its numbers.

        Args:
            update: Its number, from 1.
            losses: This rank's batches, each with its sums, one scalar per term.
            tokens: Number of target tokens over all ranks.
            counts: The denominators of the sums.
            norm: Gradient norm, a scalar.
        """
        self._unread.append(_UnreadUpdate(update, losses, tokens, counts, norm))

    def read(self, keep: int) -> Iterator[UpdateNumbers]:
        """Yield the numbers of all but the last `keep` updates, oldest first.

        Raises:
            WorkError: A number is not finite.
        """
        while len(self._unread) > keep:
            entry = self._unread.pop(0)
            read = torch.stack([loss for _, losses in entry.losses for loss in losses])
            values = read.view(len(entry.losses), -1).tolist()
            for (batch, _), found in zip(entry.losses, values, strict=True):
                self._check(found, entry.update, batch)
            norm = None if entry.norm is None else float(entry.norm)
            if norm is not None and not math.isfinite(norm) and not self._scaled:
                batches = [batch for batch, _ in entry.losses]
                raise not_finite(f"the gradient's norm is {norm}", entry.update, batches)
            sums = [sum(column) for column in zip(*values, strict=True)]
            means = [value / (count or 1) for value, count in zip(sums, entry.counts.own, strict=True)]
            weights = [weight for _, weight in self._terms]
            whole = [value * (entry.tokens / (count or 1)) for value, count in zip(sums, entry.counts.all, strict=True)]
            yield UpdateNumbers(
                update=entry.update,
                loss=math.fsum(map(mul, weights, whole)),
                tokens=entry.tokens,
                means=means,
                mean=math.fsum(map(mul, weights, means)),
                norm=norm,
            )

    def _check(self, values: Sequence[float], update: int, batch: Batch) -> None:
        for (name, _), value in zip(self._terms, values, strict=True):
            if not math.isfinite(value):
                which = f" of {name}" if len(self._terms) > 1 else ""
                raise not_finite(f"the loss{which} is {value}", update, [batch])


def not_finite(what: str, update: int, batches: Sequence[Batch]) -> WorkError:
    """Make the error for a number that is not finite, which names the rows of `batches`."""
    named = name_rows(batches)
    return WorkError(
        what,
        where=f"update {update}" + (f", rows {named}" if named else ""),
        hint="check these rows, lower learning_rate, raise warmup_updates, or train in float32",
    )

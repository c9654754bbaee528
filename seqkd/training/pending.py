"""Losses and gradient norms of updates that the device may still be working on: read late, and checked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqkd.errors import WorkError
from seqkd.objectives.base import Batch
from seqkd.training.data import name_rows


@dataclass(frozen=True, slots=True)
class Read:
    """The numbers of one update.

    Attributes:
        update: Its number, from 1.
        loss: Of this rank's batches, summed over target tokens; with weights, as of whole tokens.
        tokens: Target tokens over all ranks.
        mean: The loss of this rank's batches per target token.
        norm: Of the gradient, before it was clipped; None where nobody asked for it.
    """

    update: int
    loss: float
    tokens: int
    mean: float
    norm: float | None


@dataclass(frozen=True, slots=True)
class _Unread:
    update: int
    losses: list[tuple[Batch, Tensor]]
    tokens: int
    total: float
    norm: Tensor | None


class Pending:
    """Updates whose numbers have not been read from the device yet.

    Args:
        scaled: A scaler answers an overflow: it leaves the update out and scales less (fp16).
    """

    def __init__(self, *, scaled: bool) -> None:
        self._scaled = scaled
        self._unread: list[_Unread] = []

    def add(
        self, update: int, losses: list[tuple[Batch, Tensor]], *, tokens: int, total: float, norm: Tensor | None
    ) -> None:
        """Note an update; nothing is read.

        Args:
            update: Its number, from 1.
            losses: This rank's batches, each with its summed loss, a scalar.
            tokens: Target tokens, over all ranks.
            total: What the losses of all ranks are divided by.
            norm: Of the gradient, a scalar.
        """
        self._unread.append(_Unread(update, losses, tokens, total, norm))

    def read(self, keep: int) -> Iterator[Read]:
        """Yield the numbers of all but the last `keep` updates, oldest first.

        Raises:
            WorkError: One is not finite.
        """
        while len(self._unread) > keep:
            entry = self._unread.pop(0)
            values = torch.stack([loss for _, loss in entry.losses]).tolist()
            for (batch, _), value in zip(entry.losses, values, strict=True):
                if not math.isfinite(value):
                    raise not_finite(f"the loss is {value}", entry.update, [batch])
            norm = None if entry.norm is None else float(entry.norm)
            if norm is not None and not math.isfinite(norm) and not self._scaled:
                batches = [batch for batch, _ in entry.losses]
                raise not_finite(f"the gradient's norm is {norm}", entry.update, batches)
            yield Read(
                update=entry.update,
                loss=sum(values) * (entry.tokens / (entry.total or 1)),
                tokens=entry.tokens,
                mean=sum(values) / (sum(batch.total for batch, _ in entry.losses) or 1),
                norm=norm,
            )


def not_finite(what: str, update: int, batches: Sequence[Batch]) -> WorkError:
    """The error for a number that is not finite; it names the rows of `batches`."""
    named = name_rows(batches)
    return WorkError(
        what,
        where=f"update {update}" + (f", rows {named}" if named else ""),
        hint="look at these rows, lower learning_rate, raise warmup_updates, or train in float32",
    )

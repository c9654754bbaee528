"""A teacher that runs beside the student, and its distributions at every target position, in chunks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from seqkd.models.functional import pad_rows
from seqkd.models.registry import NO_TRACES, Traces
from seqkd.models.trace import Trace, traced
from seqkd.objectives.base import Batch, TeacherForced, kept_features, output_layer
from seqkd.objectives.projection import padding_multiple, rows_within

# Number of logits in a chunk. About five tensors of that size, of the student and the teacher, exist at a time.
CHUNK_ELEMENTS = 1 << 21
CHUNK_ELEMENTS_CUDA = 1 << 24


def chunk_rows(vocab: int, device: torch.device, elements: int | None = None) -> int:
    """Return the number of rows of logits in a chunk.

    Args:
        vocab: Number of logits in a row.
        device: The device of the logits.
        elements: Number of logits in a chunk; None for a number that suits the device.
    """
    return rows_within(elements or (CHUNK_ELEMENTS if device.type == "cpu" else CHUNK_ELEMENTS_CUDA), vocab)


class Projection:
    """The product `features @ weight.T` in its own type, computed in chunks of rows.

    Args:
        features: `[rows, dim]`.
        weight: `[vocab, dim]`.
        dtype: The type of the products.
        elements: See `chunk_rows`.

    Attributes:
        rows: The features in `dtype`, padded with zero rows.
        weight: The weight in `dtype`.
        multiple: The number to a multiple of which the rows are padded.
    """

    def __init__(self, features: Tensor, weight: Tensor, dtype: torch.dtype, elements: int | None = None) -> None:
        self.multiple = padding_multiple(chunk_rows(len(weight), features.device, elements))
        self.rows = pad_rows(features.detach(), dtype, self.multiple)
        self.weight = weight.detach().to(dtype)

    def logits(self, start: int, stop: int) -> Tensor:
        """Compute the logits `[stop - start, vocab]` of a chunk, in float32 or a wider type."""
        last = start - (start - stop) // self.multiple * self.multiple
        logits = torch.mm(self.rows[start:last], self.weight.t())[: stop - start]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


class Teacher:
    """One model, or several as an ensemble whose members' probabilities are averaged.

    It is not a module, so that it is not part of the student's parameters and file, the optimiser or the state of a
    run.

    Args:
        models: Models in evaluation mode, with the student's target vocabulary, on the student's device.
        autocast: The type of autocast for the models; None for the type of their weights.
        elements: See `chunk_rows`.

    Attributes:
        models: The models.
    """

    def __init__(
        self,
        models: Sequence[TeacherForced],
        *,
        autocast: torch.dtype | None = None,
        elements: int | None = None,
    ) -> None:
        self.models = tuple(models)
        self._autocast, self._elements = autocast, elements

    def __call__(self, batch: Batch, wanted: Traces = NO_TRACES) -> Answer:
        """Compute the teacher's answer at the batch's kept positions, with the wanted states and attention."""
        kind = batch.source.device.type
        members, traces = [], []
        with torch.no_grad(), _autocast(kind, self._autocast):
            for model in self.models:
                with traced(cast(nn.Module, model), wanted) if wanted else nullcontext() as trace:
                    members.append((kept_features(model, batch), output_layer(model)))
                traces.append(trace or Trace())
        return Answer(members, self._autocast, traces, self._elements)


def _autocast(kind: str, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    if dtype is None:
        return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
    return torch.autocast(kind, dtype=dtype)


class Answer:
    """A teacher's answer to a batch. Its distributions are computed when a chunk of rows asks for them.

    Attributes:
        members: For each model the input of its output layer `[rows, dim]`, and that layer's weight `[vocab, dim]`.
        autocast: The type of the products; None for that of the weights.
        traces: For each model the states and attention that were asked for, without gradients.
        elements: See `chunk_rows`.
    """

    def __init__(
        self,
        members: Sequence[tuple[Tensor, Tensor]],
        autocast: torch.dtype | None = None,
        traces: Sequence[Trace] = (),
        elements: int | None = None,
    ) -> None:
        self.members, self.autocast, self.traces, self.elements = members, autocast, traces, elements

    def take(self, places: Tensor) -> Answer:
        """Return the answer at some of the rows, `[places]` int64, without traces."""
        members = [(rows.index_select(0, places), weight) for rows, weight in self.members]
        return Answer(members, self.autocast, (), self.elements)

    @cached_property
    def _projections(self) -> list[Projection]:
        return [Projection(rows, weight, self.autocast or weight.dtype, self.elements) for rows, weight in self.members]

    def logprobs(self, start: int, stop: int, temperature: float = 1.0) -> Tensor:
        """Compute the log-probabilities `[stop - start, vocab]` of a chunk, in float32 or a wider type.

        Args:
            start: The first row of the chunk.
            stop: The row after its last one.
            temperature: Divisor of the logits.
        """
        with torch.no_grad(), torch.autocast(self.members[0][0].device.type, enabled=False):
            logits = (member.logits(start, stop) for member in self._projections)
            members = [(each / temperature).log_softmax(dim=-1) for each in logits]
            if len(members) == 1:
                return members[0]
            return torch.logsumexp(torch.stack(members), dim=0) - math.log(len(members))

"""Batches, and the interface of models that objectives use."""

from __future__ import annotations

from typing import Annotated, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

LabelSmoothing = Annotated[float, Field(ge=0.0, lt=1.0)]


class SoftTargets(NamedTuple):
    """A teacher's distributions at target positions, each over a part of the vocabulary.

    Attributes:
        ids: `[tokens, k]` int64. With `tail`, the ids of a position are distinct. Without it, ids that only pad a row
            have probability zero.
        logprobs: `[tokens, k]` float32.
        tail: `[tokens]` float32, the log-probability of all other ids together. None if `ids` holds the whole
            distribution, as with sampled ids.
    """

    ids: Tensor
    logprobs: Tensor
    tail: Tensor | None


class RowWeights(NamedTuple):
    """The weights of the rows of a batch.

    Attributes:
        rows: `[batch]` float32, not negative.
        total: The sum of the weights over the target tokens. It is known on the host.
    """

    rows: Tensor
    total: float


class Rivals(NamedTuple):
    """Worse targets of the rows of a batch, padded on the right. A row without a rival has its own target here.

    Attributes:
        target_in: `[batch, rival]` int64, the start symbol first.
        target_out: `[batch, rival]` int64, end of sentence last.
        kept: `[tokens]` int64, the positions of `target_out.flatten()` that are not padding.
        margins: `[batch]` float32, the gain of the target minus that of the rival.
        differ: `[batch]` float32, 1 for rows whose rival differs from the target, 0 for others.
        any_differ: Whether there is such a row. It is known on the host.
    """

    target_in: Tensor
    target_out: Tensor
    kept: Tensor
    margins: Tensor
    differ: Tensor
    any_differ: bool


class Batch(NamedTuple):
    """Sentence pairs, padded on the right.

    A tuple rather than a dataclass: Fabric and DDP look into tuples to move and cast what is inside.

    Attributes:
        ids: `[batch]` int64 row ids.
        source: `[batch, source]` int64, end of sentence last.
        target_in: `[batch, target]` int64, the start symbol first.
        target_out: `[batch, target]` int64, end of sentence last.
        kept: `[tokens]` int64, the positions of `target_out.flatten()` that are not padding. Its length is known
            without asking the device.
        tokens: Number of target tokens, including end of sentence and without padding.
        progress: The share of the training that is done, from 0 to 1, for objectives with a schedule.
        soft: Stored soft targets of the kept positions, if there are any.
        origins: `[batch]`, the folder of each row's corpus if several are mixed, because their ids may be equal.
        weights: The weights of the rows, or None if each counts 1.
        groups: `[batch]`, the data set of each row if there are several.
        rivals: The rivals of the targets, if the objective reads them.
    """

    ids: npt.NDArray[np.int64]
    source: Tensor
    target_in: Tensor
    target_out: Tensor
    kept: Tensor
    tokens: int
    progress: float = 0.0
    soft: SoftTargets | None = None
    origins: npt.NDArray[np.str_] | None = None
    weights: RowWeights | None = None
    groups: npt.NDArray[np.str_] | None = None
    rivals: Rivals | None = None

    @property
    def total(self) -> float:
        """Return the denominator of a sum over the target tokens: their number, or the sum of their weights."""
        return self.tokens if self.weights is None else self.weights.total

    def row_sums(self, values: Tensor, places: Tensor, width: int) -> Tensor:
        """Sum values `[places]` at places of a flattened `[batch, width]` by row, `[batch]`."""
        return values.new_zeros(len(self.source)).index_add_(0, places // width, values)

    def weights_at(self, places: Tensor, width: int) -> Tensor | None:
        """Return the weights `[places]` float32 of places of a flattened `[batch, width]`, or None if all are 1."""
        return None if self.weights is None else self.weights.rows.index_select(0, places // width)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`."""
        if device.type == "cpu":
            return self

        def moved(x: Tensor) -> Tensor:
            return x.pin_memory().to(device, non_blocking=True)

        soft = self.soft
        if soft is not None:
            soft = SoftTargets(moved(soft.ids), moved(soft.logprobs), None if soft.tail is None else moved(soft.tail))
        weights = self.weights
        if weights is not None:
            weights = weights._replace(rows=moved(weights.rows))
        rivals = self.rivals
        if rivals is not None:
            rivals = rivals._replace(
                target_in=moved(rivals.target_in),
                target_out=moved(rivals.target_out),
                kept=moved(rivals.kept),
                margins=moved(rivals.margins),
                differ=moved(rivals.differ),
            )
        return self._replace(
            source=moved(self.source),
            target_in=moved(self.target_in),
            target_out=moved(self.target_out),
            kept=moved(self.kept),
            soft=soft,
            weights=weights,
            rivals=rivals,
        )


class TeacherForced(Protocol):
    """A model that gives its features at all target positions at once, as the Transformer does.

    A model whose output layer has a bias has the attribute `output_bias`, `[vocab]`.
    """

    @property
    def output_weight(self) -> Tensor:
        """Return the weights of the output layer, `[vocab, dim]`."""
        ...

    def encode(self, source: Tensor) -> Tensor:
        """Map `[batch, source]` ids to encoder states `[batch, source, dim]`."""
        ...

    def decode_features(self, target_in: Tensor, source: Tensor, memory: Tensor) -> Tensor:
        """Compute the inputs of the output layer under teacher forcing, `[batch, target, dim]`."""
        ...


# A bias of the output layer becomes a column of its weights, whose input is 1. Columns of zeros follow, because the
# kernels need a width that is a multiple of this number.
_BIAS_COLUMNS = 32


def output_layer(model: TeacherForced) -> Tensor:
    """Return the weights of a model's output layer for the inputs that `kept_features` returns.

    They are `[vocab, dim]`, or `[vocab, dim + 32]` if the layer has a bias.
    """
    bias: Tensor | None = getattr(model, "output_bias", None)
    if bias is None:
        return model.output_weight
    return torch.cat((model.output_weight, functional.pad(bias[:, None], (0, _BIAS_COLUMNS - 1))), 1)


def kept_features(model: TeacherForced, batch: Batch) -> Tensor:
    """Return the inputs of the output layer at the batch's kept positions, without padding.

    They are `[tokens, dim]`, or `[tokens, dim + 32]` if the layer has a bias; see `output_layer`.
    """
    features = model.decode_features(batch.target_in, batch.source, model.encode(batch.source))
    rows = features.flatten(0, 1).index_select(0, batch.kept)
    if getattr(model, "output_bias", None) is None:
        return rows
    one = functional.pad(rows.new_ones(len(rows), 1), (0, _BIAS_COLUMNS - 1))
    return torch.cat((rows, one), 1)

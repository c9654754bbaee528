"""The state from which training resumes, and the checkpoints that become the model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqkd.corpus.files import atomic_path
from seqkd.errors import ConflictError, WorkError
from seqkd.metrics.registry import METRICS
from seqkd.models.checkpoint import read_weights, write_weights
from seqkd.training.groups import split_measure

LAST = "last.pt"
FORMAT = 1

_CHECKPOINT = re.compile(r"^update-(\d{8})\.safetensors$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """One line of history.json.

    Attributes:
        update: Number of updates done.
        epoch: Epoch of the last batch, from 0.
        train_loss: The objective per target token, since the validation before.
        valid_nll: Negative log-likelihood in nats per target token.
        valid_bleu: BLEU of greedy outputs, or None if it was not computed.
        metrics: Values of further metrics of greedy outputs, by name. With several groups all values are means over
            the groups, and those of each group are here, too (see `name_measure`).
        tokens_per_second: Target tokens trained on per second, without the time of validations.
        learning_rate: Learning rate of the last update.
    """

    update: int
    epoch: int
    train_loss: float
    valid_nll: float
    valid_bleu: float | None
    tokens_per_second: float
    learning_rate: float
    metrics: dict[str, float] = field(default_factory=dict)

    def value(self, metric: str) -> float:
        """The value of a metric that was measured."""
        found = {"nll": self.valid_nll, "bleu": self.valid_bleu, **self.metrics}[metric]
        assert found is not None
        return found

    def to_json(self) -> dict[str, Any]:
        """Its line; without further metrics it has no key for them."""
        return {name: value for name, value in asdict(self).items() if name != "metrics" or value}


@dataclass(slots=True, kw_only=True)
class TrainState:
    """The progress of training, beside weights and moments.

    Attributes:
        world: Number of processes. Batches are divided among them, so it cannot change in a resumed run.
        precision: Precision of the products.
        update: Number of updates done.
        epoch: Epoch of the next batch.
        step: Batches of that epoch that were used, on each rank.
        loss: Sum of the loss over the target tokens since the last validation.
        tokens: Target tokens since the last validation.
        seconds: Seconds of training since the last validation.
        history: All validations so far.
    """

    world: int
    precision: str
    update: int = 0
    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    history: list[Validation] = field(default_factory=list)


def save_state(folder: Path, state: TrainState, tensors: dict[str, Any]) -> None:
    """Write `last.pt` atomically.

    Args:
        folder: The state folder.
        state: The progress of training.
        tensors: The weights, and the states of the optimiser, the gradient scaler, the objective and the hooks, in
            plain containers of tensors, numbers and strings.

    Raises:
        WorkError: The file cannot be written, for example because the disk is full.
    """
    values = {"format": FORMAT, "state": asdict(state), **tensors}
    with atomic_path(folder / LAST) as temporary:
        try:
            torch.save(values, temporary)
        except RuntimeError as error:  # torch's writer wraps the error of the system
            raise OSError(None, str(error).splitlines()[0]) from error


def load_state(folder: Path, *, world: int, precision: str) -> tuple[TrainState, dict[str, Any]] | None:
    """Read `last.pt`, or return None if it does not exist yet. Only tensors and plain values are unpickled.

    Raises:
        ConflictError: The state was written with another number of processes or in another precision.
        WorkError: The file is damaged.
    """
    path = folder / LAST
    if not path.exists():
        return None
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        if values.pop("format") != FORMAT:
            raise ValueError("another format")
        plain = values.pop("state")
        history = [Validation(**line) for line in plain.pop("history")]
        state = TrainState(history=history, **plain)
    except Exception as error:  # torch.load raises any exception for a damaged file
        raise WorkError(
            f"is not a usable training state: {error}", where=str(path), hint="--overwrite starts training anew"
        ) from error
    for name, old, new in (("processes", state.world, world), ("precision", state.precision, precision)):
        if old != new:
            raise ConflictError(
                f"training began with {name}: {old}, now {name}: {new}",
                where=str(path),
                expected="the same value, so that the result stays the same",
                hint="continue with the same value, or start anew with --overwrite",
            )
    return state, values


def best_index(history: list[Validation], by: str) -> int:
    """Return the index of the first of the best validations by a metric, or by a metric on a group."""
    return min(range(len(history)), key=lambda i: (_badness(history[i], by), i))


def averaged_updates(history: list[Validation], by: str, average: int) -> list[int]:
    """Return the updates whose checkpoints are averaged: the best and the `average - 1` validations before it."""
    best = best_index(history, by)
    return [line.update for line in history[max(0, best + 1 - average) : best + 1]]


def needed_updates(history: list[Validation], by: str, average: int) -> set[int]:
    """Return the updates whose checkpoints are needed for the model, or may still be needed."""
    latest = history[max(0, len(history) + 1 - average) :]
    return {*averaged_updates(history, by, average), *(line.update for line in latest)}


def checkpoint_path(folder: Path, update: int) -> Path:
    """Return the path of the checkpoint of an update."""
    return folder / f"update-{update:08d}.safetensors"


def save_checkpoint(folder: Path, update: int, weights: dict[str, Tensor]) -> None:
    """Write the weights of an update."""
    write_weights(checkpoint_path(folder, update), weights)


def prune_checkpoints(folder: Path, needed: set[int]) -> None:
    """Delete the checkpoints of all other updates."""
    for path in folder.iterdir():
        match = _CHECKPOINT.match(path.name)
        if match and int(match[1]) not in needed:
            path.unlink()


def average_checkpoints(paths: Iterable[Path]) -> dict[str, Tensor]:
    """Return the mean of each weight, summed in float64.

    Raises:
        ModelError: A file is missing or damaged.
    """
    total: dict[str, Tensor] = {}
    kinds: dict[str, torch.dtype] = {}
    count = 0
    for path in paths:
        for name, value in read_weights(path).items():
            kinds[name] = value.dtype
            total[name] = value.double() + total[name] if count else value.double()
        count += 1
    return {name: (value / count).to(kinds[name]) for name, value in total.items()}


def _badness(line: Validation, by: str) -> float:
    return -line.value(by) if METRICS.get(split_measure(by)[0]).direction == "higher" else line.value(by)

"""The training loop, on one process or several.

A run that is stopped and run again ends with the same weights, bit for bit, as one that never stopped: batches follow
from (seed, epoch), dropout from (seed, update), and everything else is in the state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from seqkd.errors import WorkError
from seqkd.models.checkpoint import load_weights, weights_of
from seqkd.objectives.base import Batch, Objective
from seqkd.progress import Progress, say
from seqkd.stopping import StopRequest
from seqkd.training.data import TrainingData, read_ahead
from seqkd.training.optim import OptimSettings, build_optimizer, learning_rate
from seqkd.training.pending import Pending, not_finite
from seqkd.training.runtime import Precision
from seqkd.training.state import (
    TrainState,
    Validation,
    average_checkpoints,
    averaged_updates,
    best_index,
    checkpoint_path,
    load_state,
    needed_updates,
    prune_checkpoints,
    save_checkpoint,
    save_state,
)

NOTE_EVERY = 10  # updates between curve points


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """How long, and how often.

    Attributes:
        max_updates: Updates of the weights.
        accumulate: Batches to an update, on each process.
        clip_norm: Largest norm of the gradient of the loss per token; 0 for no clipping.
        validate_every: Updates between validations; each also saves the state.
        patience: Validations without a better one before training stops; 0 for never.
        average: How many validations' checkpoints, up to the best, the model is the mean of.
        best_by: What the best is judged by.
        seed: Of dropout.
        optim: Optimiser and schedule.
    """

    max_updates: int
    accumulate: int = 1
    clip_norm: float = 1.0
    validate_every: int = 500
    patience: int = 0
    average: int = 1
    best_by: Literal["nll", "bleu"] = "nll"
    seed: int = 1
    optim: OptimSettings


class Observer(Protocol):
    """Told about the run by rank 0."""

    def trained(self, update: int, values: dict[str, float]) -> None:
        """Some updates on the way: loss, learning_rate, gradient_norm."""
        ...

    def validated(self, history: Sequence[Validation]) -> None:
        """After each validation, and once when a run is gone on with."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """How a run ended.

    Attributes:
        updates: Updates done.
        best: The best validation.
        averaged: Updates whose checkpoints the model is the mean of.
        history: All validations.
    """

    updates: int
    best: Validation
    averaged: list[int]
    history: list[Validation]


class _Step(nn.Module):
    """Model and objective as one forward, which Fabric and DDP can wrap."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Batch) -> Tensor:
        return self.objective(self.model, batch).loss


def fit(
    *,
    fabric: Fabric,
    model: nn.Module,
    objective: Objective,
    data: TrainingData,
    validate: Callable[[nn.Module], tuple[float, float | None]],
    settings: LoopSettings,
    precision: Precision,
    folder: Path,
    observer: Observer,
) -> TrainResult:
    """Train `model`, going on from `folder` if there is a state in it; the model ends with its final weights.

    Args:
        fabric: Device, precision and processes.
        model: On the CPU, with its first weights.
        objective: What is minimised, summed over target tokens.
        data: Batches of this rank.
        validate: Gives nats per target token, and BLEU or None; called on every rank with the model in evaluation mode.
        settings: See `LoopSettings`.
        precision: What `fabric` was made with.
        folder: Where the state goes.
        observer: Hears of progress.

    Raises:
        WorkError: The loss is not finite; the run was asked to stop; the system refuses to write.
        ConflictError: The state was written by another number of processes or in another precision.
    """
    return _Run(fabric, model, objective, data, validate, settings, precision, folder, observer).run()


class _Run:
    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        objective: Objective,
        data: TrainingData,
        validate: Callable[[nn.Module], tuple[float, float | None]],
        settings: LoopSettings,
        precision: Precision,
        folder: Path,
        observer: Observer,
    ) -> None:
        self.fabric, self.model, self.data, self.validate = fabric, model, data, validate
        self.settings, self.folder, self.observer = settings, folder, observer
        scaled = precision == "fp16"
        optimizer = build_optimizer(model.parameters(), settings.optim, fused=not scaled)
        self.module: Any
        self.optimizer: Any
        self.module, self.optimizer = fabric.setup(_Step(model, objective), optimizer)
        self.state = TrainState(world=fabric.world_size, precision=precision)
        self.pending = Pending(scaled=scaled)
        # A GPU runs ahead of us: its numbers are read one update late, so that it never waits.
        self.lag = 0 if fabric.device.type == "cpu" else 1
        self.mark = time.monotonic()
        self.latest = math.nan

    def run(self) -> TrainResult:
        self._load()
        state, settings = self.state, self.settings
        trained, began = 0, time.monotonic()
        with StopRequest() as stop, self._progress() as progress:
            self.mark = time.monotonic()
            for batches in self._batches():
                tokens, total, stopped = self._agree(batches, stop.made)
                if stopped:
                    self._save()
                    raise WorkError(
                        f"stopped at update {state.update:,} of {settings.max_updates:,}",
                        hint="run the same command to go on",
                    )
                self._update(batches, tokens, total)
                trained += tokens
                if progress is not None:
                    speed = trained / max(time.monotonic() - began, 1e-9)
                    progress.advance()
                    progress.note(f"loss {self.latest:.3f}, {speed:,.0f} target tokens/s")
                if state.update % settings.validate_every == 0 or state.update == settings.max_updates:
                    self._validate()
        return self._finish()

    def _progress(self) -> AbstractContextManager[Progress | None]:
        if not self.fabric.is_global_zero:
            return nullcontext()
        return Progress("train", self.settings.max_updates, "updates", done=self.state.update)

    def _batches(self) -> Iterator[list[Batch]]:
        """Each update's batches on this rank, from where the state stands to the end of training."""
        state, size = self.state, self.settings.accumulate
        while not self._done():
            plan = self.data.plan(state.epoch)
            if not plan:
                raise ValueError("there is nothing to train on")
            groups = [plan[start : start + size] for start in range(state.step, len(plan), size)]
            with closing(read_ahead(self.data.load, groups)) as loaded:
                for batches in loaded:
                    yield batches
                    if self._done():
                        return
            state.epoch, state.step = state.epoch + 1, 0

    def _done(self) -> bool:
        state, settings = self.state, self.settings
        if state.update >= settings.max_updates:
            return True
        if not settings.patience or not state.history:
            return False
        return len(state.history) - 1 - best_index(state.history, settings.best_by) >= settings.patience

    def _agree(self, batches: list[Batch], stop: bool) -> tuple[int, float, bool]:
        """An update's target tokens and the sum of their weights over all ranks, and whether any was asked to stop."""
        tokens, total = sum(batch.tokens for batch in batches), sum(batch.total for batch in batches)
        if self.fabric.world_size == 1:
            return tokens, total, stop
        numbers = torch.tensor([tokens, total, int(stop)], dtype=torch.float64, device=self.fabric.device)
        tokens, total, stops = cast(Tensor, self.fabric.all_reduce(numbers, reduce_op="sum")).tolist()
        return int(tokens), total, stops > 0

    def _update(self, batches: list[Batch], tokens: int, total: float) -> None:
        state, fabric = self.state, self.fabric
        update = state.update + 1
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings.optim, update)
        # The gradient of the (weighted) mean over all tokens of all ranks, which DDP averages over the ranks.
        scale = fabric.world_size / (total or 1)
        losses = []
        for index, batch in enumerate(batches):
            torch.manual_seed(self._seed(update, index))
            batch = batch._replace(progress=state.update / self.settings.max_updates).to(fabric.device)
            with fabric.no_backward_sync(self.module, enabled=index < len(batches) - 1):
                loss = self.module(batch)
                fabric.backward(loss * scale)
            losses.append((batch, loss.detach()))
        norm = None
        if self.settings.clip_norm:
            norm = fabric.clip_gradients(
                self.module, self.optimizer, max_norm=self.settings.clip_norm, error_if_nonfinite=False
            )
        self.pending.add(update, losses, tokens=tokens, total=total, norm=norm)
        self._settle(self.lag)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.update, state.step = update, state.step + len(batches)

    def _seed(self, update: int, index: int) -> int:
        """Of dropout: one for each batch, whoever computes it, so that a resumed run draws the same numbers."""
        place = index * self.fabric.world_size + self.fabric.global_rank
        mixed = np.random.SeedSequence([self.settings.seed, update, place]).generate_state(1, np.uint64)
        return int(mixed[0] >> np.uint64(1))

    def _settle(self, keep: int) -> None:
        """Count the losses of all but the last `keep` updates.

        Raises:
            WorkError: One is not finite.
        """
        for entry in self.pending.read(keep):
            self.state.loss += entry.loss
            self.state.tokens += entry.tokens
            self.latest = entry.mean
            if entry.update % NOTE_EVERY == 0 and self.fabric.is_global_zero:
                point = {
                    "loss": self.latest,
                    "learning_rate": learning_rate(self.settings.optim, entry.update),
                }
                if entry.norm is not None:
                    point["gradient_norm"] = entry.norm
                self.observer.trained(entry.update, point)

    def _validate(self) -> None:
        self._settle(0)
        state, settings = self.state, self.settings
        seconds = state.seconds + time.monotonic() - self.mark
        loss = self._sum(state.loss)
        self.model.eval()
        nll, bleu = self.validate(self.model)
        self.model.train()
        if not math.isfinite(nll):
            raise not_finite(f"the validation loss is {nll}", state.update, [])
        line = Validation(
            update=state.update,
            epoch=state.epoch,
            train_loss=loss / max(state.tokens, 1),
            valid_nll=nll,
            valid_bleu=bleu,
            tokens_per_second=round(state.tokens / max(seconds, 1e-9), 1),
            learning_rate=learning_rate(settings.optim, state.update),
        )
        state.history.append(line)
        state.loss, state.tokens, state.seconds = 0.0, 0, 0.0
        self.mark = time.monotonic()
        needed = needed_updates(state.history, settings.best_by, settings.average)
        if self.fabric.is_global_zero and state.update in needed:
            save_checkpoint(self.folder, state.update, weights_of(self.model))
        self._save()
        if self.fabric.is_global_zero:
            # After the state: until it is written, a killed run goes on from the one before and needs its checkpoints.
            prune_checkpoints(self.folder, needed)
            self.observer.validated(state.history)
        self.mark = time.monotonic()

    def _sum(self, value: float) -> float:
        """Over all ranks."""
        if self.fabric.world_size == 1:
            return value
        summed = self.fabric.all_reduce(
            torch.tensor(value, dtype=torch.float64, device=self.fabric.device), reduce_op="sum"
        )
        return float(cast(Tensor, summed))

    def _save(self) -> None:
        self._settle(0)
        state, now = self.state, time.monotonic()
        state.seconds, self.mark = state.seconds + now - self.mark, now
        loss = self._sum(state.loss)
        state.loss = loss if self.fabric.is_global_zero else 0.0
        if self.fabric.is_global_zero:
            tensors = {
                "model": weights_of(self.model),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.fabric.strategy.precision.state_dict(),
            }
            save_state(self.folder, state, tensors)
        self.fabric.barrier()

    def _load(self) -> None:
        found = load_state(self.folder, world=self.state.world, precision=self.state.precision)
        if found is None:
            return
        self.state, tensors = found
        load_weights(self.model, tensors["model"], self.folder)
        self.optimizer.load_state_dict(tensors["optimizer"])
        self.fabric.strategy.precision.load_state_dict(tensors["scaler"])
        if self.fabric.is_global_zero:
            say(f"train: going on after update {self.state.update:,} of {self.settings.max_updates:,}")
            if self.state.history:
                self.observer.validated(self.state.history)
        else:
            self.state.loss = 0.0

    def _finish(self) -> TrainResult:
        history, settings = self.state.history, self.settings
        averaged = averaged_updates(history, settings.best_by, settings.average)
        weights = average_checkpoints(checkpoint_path(self.folder, update) for update in averaged)
        load_weights(self.model, weights, self.folder)
        self.model.eval()
        return TrainResult(
            updates=self.state.update,
            best=history[best_index(history, settings.best_by)],
            averaged=averaged,
            history=history,
        )

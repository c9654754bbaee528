"""The training loop, on one process or several.

A run that is stopped and resumed ends with the same weights, bit for bit, as one that never stopped: batches depend on
(seed, epoch), dropout on (seed, update), and everything else is in the state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from functools import reduce
from operator import add, mul
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from seqkd.errors import WorkError
from seqkd.models.checkpoint import collect_weights, load_weights
from seqkd.objectives.base import Batch
from seqkd.objectives.loss import Loss
from seqkd.progress import Progress, say
from seqkd.stopping import StopRequest
from seqkd.training.data import TrainingData, read_ahead
from seqkd.training.hooked import Hooks
from seqkd.training.hooks import Hook
from seqkd.training.optim import OptimizerBuilder, OptimSettings, build_optimizer, learning_rate
from seqkd.training.pending import Counts, PendingUpdates, not_finite
from seqkd.training.precision import Precision
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
Measured = tuple[float, Mapping[str, float]]  # nats per target token, and metrics of outputs by name


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """Settings of the training loop.

    Attributes:
        max_updates: Number of updates of the weights.
        accumulate: Batches in an update, on each process.
        clip_norm: Largest norm of the gradient of the loss per token; 0 for no clipping.
        validate_every: Updates between validations. Each validation also saves the state.
        patience: Validations without improvement before training stops; 0 for no limit.
        average: Number of validations, up to the best one, whose checkpoints are averaged for the model.
        best_by: The metric that decides the best validation, or a metric on a group (see `name_measure`).
        keep: Updates whose checkpoints are kept in any case.
        seed: The seed of dropout.
        optim: Optimiser and schedule.
    """

    max_updates: int
    accumulate: int = 1
    clip_norm: float = 1.0
    validate_every: int = 500
    patience: int = 0
    average: int = 1
    best_by: str = "nll"
    keep: Collection[int] = ()
    seed: int = 1
    optim: OptimSettings


class Observer(Protocol):
    """An observer, to which rank 0 reports the run."""

    def trained(self, update: int, values: dict[str, float]) -> None:
        """Report the loss, learning_rate and gradient_norm of some updates."""
        ...

    def validated(self, history: Sequence[Validation]) -> None:
        """Report all validations, after each validation and once when a run is resumed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """The result of a run.

    Attributes:
        updates: Number of updates done.
        best: The best validation.
        averaged: Updates whose checkpoints were averaged for the model.
        history: All validations.
    """

    updates: int
    best: Validation
    averaged: list[int]
    history: list[Validation]


class _Step(nn.Module):
    """Model and objective as one forward pass, which Fabric and DDP can wrap."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, batch: Batch) -> tuple[Tensor, ...]:
        return cast(tuple[Tensor, ...], self.loss(self.model, batch))


def fit(
    *,
    fabric: Fabric,
    model: nn.Module,
    loss: Loss,
    data: TrainingData,
    validate: Callable[[nn.Module], Measured],
    settings: LoopSettings,
    precision: Precision,
    folder: Path,
    observer: Observer,
    hooks: Sequence[Hook] = (),
    make_optimizer: OptimizerBuilder = build_optimizer,
) -> TrainResult:
    """Train `model`, and continue from the state in `folder` if there is one. The model gets its final weights.

    Args:
        fabric: Device, precision and processes.
        model: The model on the CPU, with its initial weights.
        loss: The objective. Parameters of its terms are trained, too, but saved with the state only.
        data: The batches of this rank.
        validate: See `Measured`. It is called on every rank with the model in evaluation mode.
        settings: See `LoopSettings`.
        precision: The precision of `fabric`.
        folder: The folder of the state.
        observer: The observer of the run.
        hooks: The hooks in the order of their calls.
        make_optimizer: Makes the optimiser, as `build_optimizer` does.

    Raises:
        WorkError: The loss is not finite, a stop was requested, or a file cannot be written.
        ConflictError: The state was written with another number of processes or in another precision.
    """
    run = _Run(fabric, model, loss, data, validate, settings, precision, folder, observer, hooks, make_optimizer)
    return run.run()


class _Run:
    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        loss: Loss,
        data: TrainingData,
        validate: Callable[[nn.Module], Measured],
        settings: LoopSettings,
        precision: Precision,
        folder: Path,
        observer: Observer,
        hooks: Sequence[Hook],
        make_optimizer: OptimizerBuilder,
    ) -> None:
        self.fabric, self.model, self.loss, self.data, self.validate = fabric, model, loss, data, validate
        self.settings, self.folder, self.observer = settings, folder, observer
        scaled = precision == "fp16"
        step = _Step(model, loss)
        trained = (weight for weight in step.parameters() if weight.requires_grad)
        optimizer = make_optimizer(trained, settings.optim, fused=not scaled)
        self.module: Any
        self.optimizer: Any
        self.module, self.optimizer = fabric.setup(step, optimizer)
        self.state = TrainState(world=fabric.world_size, precision=precision)
        self.hooks = Hooks(hooks, fabric, self._hook_seed)
        self.pending = PendingUpdates([(part.name, part.weight) for part in loss.terms], scaled=scaled)
        # Numbers of a GPU are read one update late, so that the GPU never waits for the host.
        self.lag = 0 if fabric.device.type == "cpu" else 1
        self.mark = time.monotonic()
        self.latest = math.nan

    def run(self) -> TrainResult:
        self._load()
        state, settings = self.state, self.settings
        self._keep()
        trained, began = 0, time.monotonic()
        with StopRequest() as stop, self._progress() as progress:
            self.mark = time.monotonic()
            for batches in self._batches():
                tokens, counts, stopped = self._agree(batches, stop.made)
                if stopped:
                    self.hooks.put_back(batches)
                    self._save()
                    raise WorkError(
                        f"stopped at update {state.update:,} of {settings.max_updates:,}",
                        hint="run the same command again to continue",
                    )
                self._update(batches, tokens, counts)
                self._keep()
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
        """Yield the batches of each update on this rank, from the current state to the end of training."""
        state, size = self.state, self.settings.accumulate
        while not self._done():
            plan = self.data.plan(state.epoch)
            if not plan:
                raise ValueError("there is nothing to train on")
            used = state.step + self.hooks.waiting
            groups = [plan[start : start + size] for start in range(used, len(plan), size)]
            with closing(read_ahead(self.data.load, groups)) as loaded:
                for batches in self.hooks.apply(loaded):
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

    def _agree(self, batches: list[Batch], stop: bool) -> tuple[int, Counts, bool]:
        """Sum an update's target tokens and denominators over all ranks, and tell whether any rank must stop."""
        tokens = sum(batch.tokens for batch in batches)
        own = [sum(counts) for counts in zip(*(self.loss.counts(batch) for batch in batches), strict=True)]
        if self.fabric.world_size == 1:
            return tokens, Counts(own, own), stop
        numbers = torch.tensor([tokens, int(stop), *own], dtype=torch.float64, device=self.fabric.device)
        tokens, stops, *shared = cast(Tensor, self.fabric.all_reduce(numbers, reduce_op="sum")).tolist()
        return int(tokens), Counts(own, shared), stops > 0

    def _update(self, batches: list[Batch], tokens: int, counts: Counts) -> None:
        state, fabric = self.state, self.fabric
        update = state.update + 1
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings.optim, update)
        # Each term's gradient is that of its mean over the batches of all ranks. DDP averages gradients over the ranks.
        scales = [
            part.weight * (fabric.world_size / (count or 1))
            for part, count in zip(self.loss.terms, counts.all, strict=True)
        ]
        losses = []
        for index, batch in enumerate(batches):
            torch.manual_seed(self._seed(update, index))
            batch = batch._replace(progress=state.update / self.settings.max_updates).to(fabric.device)
            with fabric.no_backward_sync(self.module, enabled=index < len(batches) - 1):
                sums = self.module(batch)
                fabric.backward(reduce(add, map(mul, sums, scales)))
            losses.append((batch, [value.detach() for value in sums]))
        norm = None
        if self.settings.clip_norm:
            norm = fabric.clip_gradients(
                self.module, self.optimizer, max_norm=self.settings.clip_norm, error_if_nonfinite=False
            )
        self.pending.add(update, losses, tokens=tokens, counts=counts, norm=norm)
        self._settle(self.lag)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.update, state.step = update, state.step + len(batches)
        self.hooks.stepped(update)

    def _keep(self) -> None:
        """Write the weights of an update that the settings keep."""
        if self.state.update in self.settings.keep and self.fabric.is_global_zero:
            save_checkpoint(self.folder, self.state.update, collect_weights(self.model))

    def _seed(self, update: int, index: int) -> int:
        """Return the seed of a batch's dropout. It does not depend on the process, so a resumed run draws the same."""
        return _mix_seed(self.settings.seed, update, index * self.fabric.world_size + self.fabric.global_rank)

    def _hook_seed(self, number: int) -> int:
        return _mix_seed(self.settings.seed, self.state.update, self.fabric.global_rank, number)

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
                if len(entry.means) > 1:
                    names = [f"loss_{part.name}" for part in self.loss.terms]
                    point |= zip(names, entry.means, strict=True)
                self.observer.trained(entry.update, point)

    def _validate(self) -> None:
        self._settle(0)
        state, settings = self.state, self.settings
        seconds = state.seconds + time.monotonic() - self.mark
        loss = self._sum(state.loss)
        self.module.eval()
        nll, metrics = self.validate(self.model)
        self.module.train()
        for name, value in {"the validation loss": nll, **metrics}.items():
            if not math.isfinite(value):
                raise not_finite(f"{name} is {value}", state.update, [])
        line = Validation(
            update=state.update,
            epoch=state.epoch,
            train_loss=loss / max(state.tokens, 1),
            valid_nll=nll,
            valid_bleu=metrics.get("bleu"),
            metrics={name: value for name, value in metrics.items() if name != "bleu"},
            tokens_per_second=round(state.tokens / max(seconds, 1e-9), 1),
            learning_rate=learning_rate(settings.optim, state.update),
        )
        state.history.append(line)
        state.loss, state.tokens, state.seconds = 0.0, 0, 0.0
        self.mark = time.monotonic()
        needed = needed_updates(state.history, settings.best_by, settings.average)
        if self.fabric.is_global_zero and state.update in needed:
            save_checkpoint(self.folder, state.update, collect_weights(self.model))
        noted = self.hooks.validated(line)
        if noted:
            state.history[-1] = replace(line, metrics={**line.metrics, **noted})
        self._save()
        if self.fabric.is_global_zero:
            # Prune after the state is written: until then a killed run continues from the state before.
            prune_checkpoints(self.folder, needed.union(settings.keep))
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
        hooks = {"hooks": self.hooks.state()} if self.hooks else {}
        if self.fabric.is_global_zero:
            learned = self.loss.state_dict()
            tensors = {
                "model": collect_weights(self.model),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.fabric.strategy.precision.state_dict(),
                **({"objective": learned} if learned else {}),
                **hooks,
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
        self.loss.load_state_dict(tensors.get("objective", {}))
        if self.hooks:
            self.hooks.load_state(tensors["hooks"])
        if self.fabric.is_global_zero:
            say(f"train: continuing after update {self.state.update:,} of {self.settings.max_updates:,}")
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


def _mix_seed(*numbers: int) -> int:
    """Return a seed that depends on all numbers, from 0 to 2**63 - 1."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))

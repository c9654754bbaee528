"""A tiny task and what a run of it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from seqkd.corpus.batches import Rows, plan_epoch
from seqkd.models.settings import StackSettings
from seqkd.models.transformer import Transformer
from seqkd.objectives.base import Batch
from seqkd.objectives.loss import Loss, WeightedTerm
from seqkd.objectives.nll import LabelSmoothedNll
from seqkd.objectives.teacher import Teacher
from seqkd.objectives.terms import Term
from seqkd.training.data import SpecialIds
from seqkd.training.hooks import Hook
from seqkd.training.loop import LoopSettings, Measured, TrainResult, fit
from seqkd.training.optim import OptimizerBuilder, OptimSettings, build_optimizer
from seqkd.training.runtime import make_fabric
from seqkd.training.state import Validation
from seqkd.training.translation import collate
from seqkd.training.validation import held_out_nll

VOCAB = 12
SPECIAL = SpecialIds(pad=1, eos=2, start=2)


def copy_rows(count: int, seed: int = 0) -> pa.Table:
    """Targets equal sources, of 1 to 5 tokens."""
    random = np.random.default_rng(seed)
    rows = [random.integers(4, VOCAB, random.integers(1, 6)).tolist() for _ in range(count)]
    lists = pa.array(rows, pa.list_(pa.int32()))
    return pa.table({"id": pa.array(np.arange(count) + 100), "source_ids": lists, "target_ids": lists})


def add_rivals(table: pa.Table) -> pa.Table:
    """Add the first tokens of each target as its rival; for targets of one token the rival is the target."""
    rivals = [target[: max(1, len(target) - 1)] for target in table.column("target_ids").to_pylist()]
    margins = np.linspace(0.0, 1.0, len(rivals), dtype=np.float32)
    return table.append_column("rival_ids", pa.array(rivals, pa.list_(pa.int32()))).append_column(
        "rival_margin", pa.array(margins)
    )


class TableData:
    """Training data of a table in memory."""

    def __init__(self, table: pa.Table, *, batch_tokens: int = 40, rank: int = 0, world: int = 1) -> None:
        self.table, self.batch_tokens, self.rank, self.world = table, batch_tokens, rank, world
        self.lengths = np.array([len(row) for row in table.column("source_ids").to_pylist()], dtype=np.int32)

    def plan(self, epoch: int) -> list[Rows]:
        return plan_epoch(
            self.lengths,
            self.lengths,
            batch_tokens=self.batch_tokens,
            seed=1,
            epoch=epoch,
            window=1000,
            rank=self.rank,
            world=self.world,
        )

    def load(self, rows: Rows) -> Batch:
        return collate(self.table.take(pa.array(rows)), SPECIAL)


class Recorder:
    """An observer that remembers."""

    def __init__(self, on_update: Callable[[int], None] = lambda _: None) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []
        self.history: list[Validation] = []
        self.on_update = on_update

    def trained(self, update: int, values: dict[str, float]) -> None:
        self.points.append((update, values))
        self.on_update(update)

    def validated(self, history: Sequence[Validation]) -> None:
        self.history = list(history)


def tiny_model(*, dropout: float = 0.1, dim: int = 32) -> Transformer:
    torch.manual_seed(5)
    return Transformer(
        StackSettings(
            dim=dim,
            heads=4,
            ffn_dim=2 * dim,
            encoder_layers=1,
            decoder_layers=1,
            dropout=dropout,
            max_positions=16,
        ),
        source_vocab=VOCAB,
        target_vocab=VOCAB,
    )


def settings(max_updates: int, **more: Any) -> LoopSettings:
    optim = OptimSettings(learning_rate=5e-3, warmup_updates=10, max_updates=max_updates)
    defaults = LoopSettings(max_updates=max_updates, validate_every=10, optim=optim)
    return replace(defaults, **more)


def loss_of(term: Term, teacher: Teacher | None = None) -> Loss:
    """An objective of one term."""
    return Loss([WeightedTerm(term=term)], teacher=teacher)


def train(
    folder: Path,
    loop: LoopSettings,
    *,
    model: nn.Module | None = None,
    data: Any = None,
    objective: Term | Loss | None = None,
    observer: Recorder | None = None,
    validate: Callable[[nn.Module], Measured] | None = None,
    held_out: pa.Table | None = None,
    smoothing: float = 0.1,
    hooks: Sequence[Hook] = (),
    make_optimizer: OptimizerBuilder = build_optimizer,
) -> tuple[nn.Module, TrainResult, Recorder]:
    """Run the loop on the copy task."""
    folder.mkdir(exist_ok=True, parents=True)
    fabric = make_fabric(torch.device("cpu"), "float32")
    model = model or tiny_model()
    loss = objective if isinstance(objective, Loss) else loss_of(objective or LabelSmoothedNll(smoothing=smoothing))
    observer = observer or Recorder()
    valid = TableData(held_out or copy_rows(20, seed=9))
    result = fit(
        fabric=fabric,
        model=model,
        loss=loss,
        data=data or TableData(copy_rows(60)),
        validate=validate or (lambda current: (held_out_nll(fabric, current, loss, valid), {})),
        settings=loop,
        precision="float32",
        folder=folder,
        observer=observer,
        hooks=hooks,
        make_optimizer=make_optimizer,
    )
    return model, result, observer


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def plain_descent(parameters: Iterable[nn.Parameter], *_: object, **__: object) -> torch.optim.Optimizer:
    """Adam would blow up the rounding of gradients that are zero in theory."""
    return torch.optim.SGD(parameters)

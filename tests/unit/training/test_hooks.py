"""Hooks of the loop: they see and change batches and weights, and their state survives a kill."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from seqkd.errors import WorkError
from seqkd.objectives.base import Batch
from seqkd.objectives.loss import Loss, WeightedTerm
from seqkd.objectives.margin import Margin
from seqkd.objectives.nll import LabelSmoothedNll
from tests.unit.training.support import (
    Recorder,
    TableData,
    add_rivals,
    copy_rows,
    same_weights,
    settings,
    tiny_model,
    train,
)
from tests.unit.training.terms import Swaps


class KilledError(Exception):
    """Ends a run as SIGKILL would: nothing is saved."""


def hooks_of(model: torch.nn.Module) -> list[Swaps]:
    """Two that see another number of updates at a time, so that groups of each wait for the other."""
    return [Swaps(model, 4), Swaps(model, 3)]


@pytest.mark.parametrize("kill_at", [10, 20, 30])
def test_a_killed_run_with_hooks_goes_on_to_the_same_weights(tmp_path: Path, kill_at: int) -> None:
    def kill(update: int) -> None:
        if update == kill_at:
            raise KilledError

    loop = settings(35, accumulate=2, validate_every=7)
    model = tiny_model()
    whole, expected, _ = train(tmp_path / "whole", loop, model=model, hooks=hooks_of(model))
    first, second = tiny_model(), tiny_model()
    with pytest.raises(KilledError):
        train(tmp_path / "killed", loop, model=first, observer=Recorder(kill), hooks=hooks_of(first))
    resumed, result, _ = train(tmp_path / "killed", loop, model=second, hooks=hooks_of(second))
    assert same_weights(whole, resumed)
    assert [line.train_loss for line in result.history] == [line.train_loss for line in expected.history]
    plain, _, _ = train(tmp_path / "plain", loop)
    assert not same_weights(whole, plain)


def test_a_stopped_run_saves_the_batches_that_are_waiting(tmp_path: Path) -> None:
    def stop(update: int) -> None:
        if update == 10:
            os.kill(os.getpid(), signal.SIGTERM)

    loop = settings(24, accumulate=2, validate_every=12)
    model = tiny_model()
    whole, _, _ = train(tmp_path / "whole", loop, model=model, hooks=hooks_of(model))
    first, second = tiny_model(), tiny_model()
    with pytest.raises(WorkError, match="stopped at update 10"):
        train(tmp_path / "stopped", loop, model=first, observer=Recorder(stop), hooks=hooks_of(first))
    state = torch.load(tmp_path / "stopped" / "last.pt", weights_only=True)
    (own,) = state["hooks"]
    assert sum(len(made) for made in own["made"]) > 0
    resumed, _, _ = train(tmp_path / "stopped", loop, model=second, hooks=hooks_of(second))
    assert same_weights(whole, resumed)


def test_weights_rows_and_rivals_of_waiting_batches_are_kept(tmp_path: Path) -> None:
    import pyarrow as pa

    class Marks(Swaps):
        def before(self, batches: Sequence[Batch]) -> Sequence[Batch]:
            return [batch._replace(origins=batch.ids.astype(str), groups=batch.ids.astype(str)) for batch in batches]

    def kill(update: int) -> None:
        if update == 10:
            raise KilledError

    rows = copy_rows(60).append_column("weight", pa.array([0.5 + n % 3 for n in range(60)], pa.float32()))
    rows = add_rivals(rows)
    loss = Loss([WeightedTerm(term=LabelSmoothedNll(smoothing=0.1), name="nll"), WeightedTerm(term=Margin())])
    run = partial(train, loop=settings(12, validate_every=6), data=TableData(rows), objective=loss)
    model, other = tiny_model(), tiny_model()
    whole, _, _ = run(tmp_path / "whole", model=model, hooks=[Marks(model, 4)])
    first = tiny_model()
    with pytest.raises(KilledError):
        run(tmp_path / "killed", model=first, observer=Recorder(kill), hooks=[Marks(first, 4)])
    state = torch.load(tmp_path / "killed" / "last.pt", weights_only=True)
    saved = state["hooks"][0]["made"][0][0][0]
    assert saved["origins"] == saved["groups"] == [str(row) for row in saved["ids"].tolist()]
    resumed, _, _ = run(tmp_path / "killed", model=other, hooks=[Marks(other, 4)])
    assert same_weights(whole, resumed)


def test_groups_end_with_the_epoch(tmp_path: Path) -> None:
    model, data = tiny_model(), TableData(copy_rows(60))
    batches = len(data.plan(0))
    assert batches % 3
    hook = Swaps(model, 3)
    train(tmp_path, settings(batches, validate_every=batches), model=model, data=data, hooks=[hook])
    assert hook.groups == [3] * (batches // 3) + [batches % 3]


def test_a_hook_that_does_not_look_at_batches_is_not_given_any(tmp_path: Path) -> None:
    model = tiny_model()
    hook = Swaps(model, 0)
    trained, _, _ = train(tmp_path, settings(6, validate_every=3), model=model, hooks=[hook])
    assert hook.groups == []
    assert hook.best < float("inf")
    assert not same_weights(trained, train(tmp_path / "plain", settings(6, validate_every=3))[0])


@pytest.mark.parametrize("count", [-1, 1])
def test_a_hook_must_not_change_how_many_batches_there_are(tmp_path: Path, count: int) -> None:
    class Miscounts(Swaps):
        def before(self, batches: Sequence[Batch]) -> Sequence[Batch]:
            return [*batches, batches[0]] if count > 0 else batches[:-1]

    model = tiny_model()
    with pytest.raises(ValueError, match="Miscounts has changed the number of batches"):
        train(tmp_path, settings(6), model=model, hooks=[Miscounts(model, 2)])

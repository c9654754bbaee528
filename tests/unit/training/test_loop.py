from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from seqkd.corpus.batches import Rows
from seqkd.errors import ConflictError, WorkError
from seqkd.models.checkpoint import read_weights
from seqkd.objectives.base import Batch
from seqkd.objectives.nll import LabelSmoothedNll
from seqkd.objectives.terms import NOTHING, Forward, TermOutput
from seqkd.training.loop import Measured
from seqkd.training.state import checkpoint_path, load_state
from tests.unit.training.support import (
    Recorder,
    TableData,
    copy_rows,
    plain_descent,
    same_weights,
    settings,
    tiny_model,
    train,
)


class Altered:
    """The likelihood, changed by a function."""

    reads = NOTHING

    def __init__(self, change: Callable[[TermOutput, Forward], TermOutput]) -> None:
        self.change = change

    def count(self, batch: Batch) -> float:
        return batch.total

    def __call__(self, forward: Forward) -> TermOutput:
        return self.change(LabelSmoothedNll(smoothing=0.1)(forward), forward)


def test_learns_to_copy(tmp_path: Path) -> None:
    rows = copy_rows(40)
    loop = settings(150, validate_every=50)
    model, result, observer = train(
        tmp_path, loop, model=tiny_model(dropout=0.0), data=TableData(rows), held_out=rows, smoothing=0.0
    )
    losses = [line.valid_nll for line in result.history]
    assert [line.update for line in result.history] == [50, 100, 150]
    assert losses[-1] < 0.1 < 0.2 < losses[0] < math.log(12)
    batch = TableData(rows).load(np.arange(40))
    right = model(batch.source, batch.target_in).argmax(-1).eq(batch.target_out).flatten()[batch.kept]
    assert right.float().mean() > 0.99
    assert observer.history == result.history
    assert all(line.tokens_per_second > 0 for line in result.history)
    assert [update for update, _ in observer.points] == list(range(10, 151, 10))


@pytest.mark.parametrize("stop_at", [10, 30, 40])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path, stop_at: int, number: signal.Signals) -> None:
    loop = settings(45, accumulate=2, average=2)
    whole, expected, _ = train(tmp_path / "whole", loop)

    def stop(update: int) -> None:
        if update == stop_at:
            os.kill(os.getpid(), number)

    with pytest.raises(WorkError, match=rf"stopped at update {stop_at} of 45\n.*run the same command") as raised:
        train(tmp_path / "stopped", loop, observer=Recorder(stop))
    assert raised.value.exit_code == 1
    resumed, result, _ = train(tmp_path / "stopped", loop, model=tiny_model())
    assert same_weights(whole, resumed)
    for got, want in zip(result.history, expected.history, strict=True):
        assert (got.update, got.epoch, got.train_loss, got.valid_nll) == (
            want.update,
            want.epoch,
            want.train_loss,
            want.valid_nll,
        )
    assert result.averaged == expected.averaged


def test_a_killed_run_goes_on_from_its_last_state(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(update: int) -> None:
        if update == 40:
            raise KilledError

    loop = settings(50, validate_every=15)
    whole, _, _ = train(tmp_path / "whole", loop)
    with pytest.raises(KilledError):
        train(tmp_path / "killed", loop, observer=Recorder(kill))
    found = load_state(tmp_path / "killed", world=1, precision="float32")
    assert found is not None
    assert found[0].update == 30
    resumed, _, _ = train(tmp_path / "killed", loop)
    assert same_weights(whole, resumed)


def test_dropout_depends_on_the_update(tmp_path: Path) -> None:
    seen = []

    def drawing(output: TermOutput, _: Forward) -> TermOutput:
        seen.append(float(torch.rand(())))
        return output

    train(tmp_path, settings(8), objective=Altered(drawing), validate=lambda _: (1.0, {}))
    assert len(set(seen)) == 8


class Joined(TableData):
    """Three batches of the plan in one."""

    def plan(self, epoch: int) -> list[Rows]:
        parts = super().plan(epoch)
        return [np.concatenate(parts[start : start + 3]) for start in range(0, len(parts), 3)]


def test_accumulated_batches_equal_one_of_all_their_rows(tmp_path: Path) -> None:
    table, loop = copy_rows(60), settings(12, validate_every=12, clip_norm=0.5)
    first = tiny_model(dropout=0.0)
    apart, _, _ = train(
        tmp_path / "a",
        replace(loop, accumulate=3),
        model=tiny_model(dropout=0.0),
        data=TableData(table),
        make_optimizer=plain_descent,
    )
    together, _, _ = train(
        tmp_path / "b", loop, model=tiny_model(dropout=0.0), data=Joined(table), make_optimizer=plain_descent
    )
    for a, b, before in zip(apart.parameters(), together.parameters(), first.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        assert not torch.equal(a, before)


def test_the_gradient_is_that_of_the_mean_over_tokens(tmp_path: Path) -> None:
    data = TableData(copy_rows(60))
    objective = LabelSmoothedNll(smoothing=0.1)
    expected = tiny_model(dropout=0.0)
    batch = data.load(data.plan(0)[0])
    (objective(Forward(expected, batch)).loss / batch.tokens).backward()  # type: ignore[no-untyped-call]
    loop = settings(1, clip_norm=0.0)
    got, _, _ = train(
        tmp_path, loop, model=tiny_model(dropout=0.0), data=data, objective=objective, make_optimizer=plain_descent
    )
    rate = 5e-3 / 10
    for moved, weight in zip(got.parameters(), expected.parameters(), strict=True):
        assert weight.grad is not None
        torch.testing.assert_close(moved, weight.detach() - rate * weight.grad)


def weighted_rows(weights: list[float]) -> pa.Table:
    table = copy_rows(len(weights), seed=4)
    return table.append_column("weight", pa.array(weights, pa.float32()))


def test_two_updates_with_weights_are_those_computed_by_hand(tmp_path: Path) -> None:
    weights = [0.5, 0.25, 1.0, 0.0, 2.0, 0.125, 0.375, 1.0]
    data = TableData(weighted_rows(weights), batch_tokens=14)
    plan = data.plan(0)
    assert len(plan) > 2
    model = tiny_model(dropout=0.0)
    losses = []
    for update, rows in enumerate(plan[:2], start=1):
        batch = data.load(rows)
        words = functional.log_softmax(model(batch.source, batch.target_in), -1)
        nll = -words.gather(2, batch.target_out[..., None])[..., 0] * batch.target_out.ne(1)
        counts = batch.target_out.ne(1).sum(1)
        own = torch.tensor([weights[row] for row in rows])
        mean = (nll.sum(1) * own).sum() / (counts * own).sum()
        gradients = torch.autograd.grad(mean, list(model.parameters()))
        with torch.no_grad():
            for weight, gradient in zip(model.parameters(), gradients, strict=True):
                weight.sub_(gradient, alpha=5e-3 * update / 10)
        losses.append((float(mean.detach()), int(counts.sum())))
    loop = settings(2, validate_every=2, clip_norm=0.0)
    got, result, _ = train(
        tmp_path, loop, model=tiny_model(dropout=0.0), data=data, smoothing=0.0, make_optimizer=plain_descent
    )
    assert not same_weights(got, tiny_model(dropout=0.0))
    for moved, weight in zip(got.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(moved, weight, rtol=1e-5, atol=1e-6)
    tokens = sum(count for _, count in losses)
    assert result.history[0].train_loss == pytest.approx(sum(mean * n for mean, n in losses) / tokens, rel=1e-5)


def test_copies_of_a_row_that_share_its_weight_count_as_the_row(tmp_path: Path) -> None:
    table, loop = copy_rows(6, seed=4), settings(3, validate_every=3)
    once = TableData(table, batch_tokens=1000)
    copies = pa.concat_tables([table] * 4).append_column("weight", pa.array([0.25] * 24, pa.float32()))
    one, first, _ = train(tmp_path / "a", loop, model=tiny_model(dropout=0.0), data=once, make_optimizer=plain_descent)
    four = TableData(copies, batch_tokens=1000)
    other, second, _ = train(
        tmp_path / "b", loop, model=tiny_model(dropout=0.0), data=four, make_optimizer=plain_descent
    )
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert second.history[0].train_loss == pytest.approx(first.history[0].train_loss, rel=1e-5)


def test_weights_of_one_change_nothing(tmp_path: Path) -> None:
    plain, expected, _ = train(tmp_path / "a", settings(10), data=TableData(copy_rows(60)))
    rows = copy_rows(60).append_column("weight", pa.array([1.0] * 60, pa.float32()))
    got, result, _ = train(tmp_path / "b", settings(10), data=TableData(rows))
    assert result.history[0].train_loss == pytest.approx(expected.history[0].train_loss, rel=1e-6)
    for a, b in zip(plain.parameters(), got.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_early_stopping_and_the_average_up_to_the_best(tmp_path: Path) -> None:
    losses = iter([5.0, 4.0, 3.0, 3.5, 3.0, 3.2, 1.0])
    seen: dict[int, dict[str, Tensor]] = {}

    def validate(model: nn.Module) -> Measured:
        assert not model.training
        seen[10 * (len(seen) + 1)] = {name: value.detach().clone() for name, value in model.named_parameters()}
        return next(losses), {}

    loop = settings(1000, patience=3, average=2)
    model, result, _ = train(tmp_path, loop, validate=validate)
    assert result.updates == 60  # the tie at 50 is no improvement on 30
    assert result.best.update == 30
    assert result.averaged == [20, 30]
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.detach(), (seen[20][name] + seen[30][name]) / 2)
    kept = sorted(path.name for path in tmp_path.glob("update-*"))
    assert kept == [checkpoint_path(tmp_path, update).name for update in (20, 30, 60)]
    # Done is done: running again gives the same without another update.
    again, result, _ = train(tmp_path, loop, validate=validate)
    assert result.updates == 60
    assert same_weights(model, again)


@pytest.mark.parametrize(("metric", "best"), [("bleu", 20), ("chrf", 10), ("ter", 30)])
def test_the_best_is_chosen_by_a_metric_in_its_direction(tmp_path: Path, metric: str, best: int) -> None:
    scores = [{"bleu": 3.0, "chrf": 9.0, "ter": 9.0}, {"bleu": 7.0, "chrf": 3.0, "ter": 8.0}]
    values = iter([(1.0, scores[0]), (2.0, scores[1]), (0.5, {"bleu": 5.0, "chrf": 5.0, "ter": 7.0})])
    _, result, _ = train(tmp_path, settings(30, best_by=metric), validate=lambda _: next(values))
    assert result.best.update == best
    assert (result.history[1].valid_bleu, result.history[1].metrics) == (7.0, {"chrf": 3.0, "ter": 8.0})
    assert list(tmp_path.glob("update-*")) == [checkpoint_path(tmp_path, best)]
    assert read_weights(checkpoint_path(tmp_path, best))


def test_a_loss_that_is_not_finite_names_update_and_rows(tmp_path: Path) -> None:
    table = copy_rows(60)

    def sick(output: TermOutput, forward: Forward) -> TermOutput:
        return output._replace(loss=output.loss * float("nan")) if 107 in forward.batch.ids else output

    with pytest.raises(WorkError, match=r"update \d+, rows .*\b107\b.*: the loss is nan") as raised:
        train(tmp_path, settings(50), data=TableData(table), objective=Altered(sick))
    assert raised.value.exit_code == 1
    assert raised.value.hint


def test_a_gradient_that_is_not_finite_stops_too(tmp_path: Path) -> None:
    def steep(output: TermOutput, forward: Forward) -> TermOutput:
        zero = next(forward.model.parameters()).sum() * 0.0
        return output._replace(loss=output.loss + zero.sqrt())  # whose slope is infinite there

    with pytest.raises(WorkError, match=r"update 1, rows .*: the gradient's norm is"):
        train(tmp_path, settings(5), objective=Altered(steep))


def test_a_validation_loss_that_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="update 10: the validation loss is inf"):
        train(tmp_path, settings(20), validate=lambda _: (math.inf, {}))


def test_a_metric_that_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="update 10: comet is nan"):
        train(tmp_path, settings(20), validate=lambda _: (1.0, {"comet": math.nan}))


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to train on"):
        train(tmp_path, settings(5), data=TableData(copy_rows(60).slice(0, 0)))


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    train(tmp_path, settings(10))
    with pytest.raises(ConflictError, match="processes: 1, now processes: 2"):
        load_state(tmp_path, world=2, precision="float32")
    with pytest.raises(ConflictError, match="precision: float32, now precision: bf16"):
        load_state(tmp_path, world=1, precision="bf16")

"""Sums of terms in the loop: own denominators, and terms that learn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import pytest
import torch

from seqkd.errors import WorkError
from seqkd.models.checkpoint import read_weights
from seqkd.models.registry import Traces
from seqkd.models.trace import traced
from seqkd.objectives.base import Batch, TeacherForced
from seqkd.objectives.loss import Loss, WeightedTerm
from seqkd.objectives.nll import LabelSmoothedNll
from seqkd.objectives.teacher import Teacher
from seqkd.objectives.terms import NOTHING, Forward, TermOutput
from seqkd.objectives.word_kd import WordKd
from seqkd.training.loop import LoopSettings
from seqkd.training.state import load_state
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
from tests.unit.training.terms import Projected

TEACHER_WIDTH = 16


def teacher() -> Teacher:
    return Teacher([cast(TeacherForced, tiny_model(dim=TEACHER_WIDTH).eval().requires_grad_(False))])


def learning() -> Loss:
    torch.manual_seed(11)
    terms = [
        WeightedTerm(term=LabelSmoothedNll(smoothing=0.1), name="nll"),
        WeightedTerm(term=Projected(32, TEACHER_WIDTH), name="states", weight=2.0),
    ]
    return Loss(terms, teacher=teacher())


def projection(loss: Loss) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in loss.state_dict().items()}


def test_a_terms_projection_is_optimised_saved_and_left_out_of_the_model(tmp_path: Path) -> None:
    loss = learning()
    before = projection(loss)
    model, result, observer = train(tmp_path, settings(30, validate_every=15), objective=loss)
    after = projection(loss)
    assert set(after) == {"learned.states.projection.weight", "learned.states.projection.bias"}
    assert all(not torch.equal(before[name], after[name]) for name in after)
    found = load_state(tmp_path, world=1, precision="float32")
    assert found is not None
    torch.testing.assert_close(found[1]["objective"], after, rtol=0, atol=0)
    names = set(read_weights(next(tmp_path.glob("update-*"))))
    assert names == {name for name, _ in model.named_parameters()}
    assert set(observer.points[0][1]) == {"loss", "learning_rate", "gradient_norm", "loss_nll", "loss_states"}
    point = observer.points[0][1]
    assert point["loss"] == pytest.approx(point["loss_nll"] + 2.0 * point["loss_states"])
    assert observer.points[-1][1]["loss_states"] < observer.points[0][1]["loss_states"]
    assert result.history[-1].train_loss < result.history[0].train_loss


@pytest.mark.parametrize("stop_at", [10, 20])
def test_a_killed_run_goes_on_with_the_terms_projection_bit_for_bit(tmp_path: Path, stop_at: int) -> None:
    class KilledError(Exception):
        pass

    def kill(update: int) -> None:
        if update == stop_at:
            raise KilledError

    loop = settings(30, accumulate=2, validate_every=8)
    whole = learning()
    expected, _, _ = train(tmp_path / "whole", loop, objective=whole)
    with pytest.raises(KilledError):
        train(tmp_path / "killed", loop, objective=learning(), observer=Recorder(kill))
    resumed = learning()
    got, _, _ = train(tmp_path / "killed", loop, objective=resumed, model=tiny_model())
    assert same_weights(expected, got)
    torch.testing.assert_close(projection(resumed), projection(whole), rtol=0, atol=0)


class Rows:
    """The length of each decoder feature, averaged over a row's positions; its denominator is the rows."""

    reads = NOTHING

    def count(self, batch: Batch) -> float:
        return len(batch.ids)

    def __call__(self, forward: Forward) -> TermOutput:
        width = forward.batch.target_out.size(1)
        ones = torch.ones(len(forward.features))
        positions = forward.batch.row_sums(ones, forward.batch.kept, width)
        sums = forward.batch.row_sums(forward.features.square().sum(-1), forward.batch.kept, width)
        return TermOutput((sums / positions.clamp(min=1.0)).sum())


def test_each_term_is_divided_by_its_own_denominator_over_accumulated_batches(tmp_path: Path) -> None:
    data = TableData(copy_rows(60))
    batches = [data.load(rows) for rows in data.plan(0)[:3]]
    assert len({len(batch.ids) / batch.tokens for batch in batches}) > 1  # so that one denominator would not do
    model = tiny_model(dropout=0.0)
    words, lengths = 0.0, 0.0
    for batch in batches:
        logprobs = model(batch.source, batch.target_in).log_softmax(-1)
        nll = -logprobs.gather(2, batch.target_out[..., None])[..., 0] * batch.target_out.ne(1)
        words = words + nll.sum()
        features = model.decode_features(batch.target_in, batch.source, model.encode(batch.source))
        for row, target in zip(features, batch.target_out, strict=True):
            lengths = lengths + row[target.ne(1)].square().sum(-1).mean()
    expected = words / sum(batch.tokens for batch in batches) + 0.1 * lengths / sum(len(batch.ids) for batch in batches)
    gradients = torch.autograd.grad(cast(torch.Tensor, expected), list(model.parameters()))
    loss = Loss(
        [
            WeightedTerm(term=LabelSmoothedNll(smoothing=0.0), name="nll"),
            WeightedTerm(term=Rows(), name="rows", weight=0.1),
        ]
    )
    loop = settings(1, accumulate=3, clip_norm=0.0)
    got, result, _ = train(
        tmp_path, loop, model=tiny_model(dropout=0.0), data=data, objective=loss, make_optimizer=plain_descent
    )
    rate = 5e-3 / 10
    for moved, weight, gradient in zip(got.parameters(), model.parameters(), gradients, strict=True):
        torch.testing.assert_close(moved, weight.detach() - rate * gradient, rtol=1e-5, atol=1e-7)
    assert result.history[0].train_loss == pytest.approx(cast(torch.Tensor, expected).item(), rel=1e-5)


def test_a_loss_of_one_term_that_is_not_finite_is_named(tmp_path: Path) -> None:
    class Sick(Rows):
        def __call__(self, forward: Forward) -> TermOutput:
            return TermOutput(forward.features.sum() * math.nan)

    terms = [WeightedTerm(term=LabelSmoothedNll(smoothing=0.0), name="nll"), WeightedTerm(term=Sick(), name="lengths")]
    with pytest.raises(WorkError, match=r"update 1, rows .*: the loss of lengths is nan"):
        train(tmp_path, settings(5), objective=Loss(terms))


def test_terms_share_one_pass_of_the_student_and_one_of_the_teacher() -> None:
    passes = []
    student, asked = tiny_model(), tiny_model(dim=TEACHER_WIDTH).eval()
    for model in (student, asked):
        model.encoder[0].register_forward_hook(lambda *_, model=model: passes.append(model))
    terms = [
        WeightedTerm(term=Projected(32, TEACHER_WIDTH), name="states"),
        WeightedTerm(term=LabelSmoothedNll(smoothing=0.1), name="nll"),
        WeightedTerm(term=WordKd(alpha=1.0), name="word_kd"),
    ]
    loss = Loss(terms, teacher=Teacher([cast(TeacherForced, asked)]), measure=LabelSmoothedNll(smoothing=0.0))
    data = TableData(copy_rows(8))
    batch = data.load(data.plan(0)[0])
    sums = loss(student, batch)
    assert (passes.count(student), passes.count(asked)) == (1, 1)
    assert len(sums) == 3
    by_row = loss.outputs(student, batch, by_row=True)
    for output in by_row:
        assert output.rows is not None
        assert output.rows.shape == (len(batch.ids),)
        torch.testing.assert_close(output.rows.sum(), output.loss.detach(), rtol=1e-5, atol=1e-4)


def test_the_teachers_trace_is_that_of_a_plain_pass() -> None:
    asked = tiny_model(dim=TEACHER_WIDTH).eval()
    data = TableData(copy_rows(8))
    batch = data.load(data.plan(0)[0])
    wanted = Traces(hidden=("encoder", "decoder"), attention=("cross",))
    answer = Teacher([cast(TeacherForced, asked)])(batch, wanted)
    with torch.no_grad(), traced(asked, wanted) as trace:
        asked(batch.source, batch.target_in)
    assert len(answer.traces) == 1
    for kind in ("hidden", "attention"):
        for name, expected in getattr(trace, kind).items():
            for got, want in zip(getattr(answer.traces[0], kind)[name], expected, strict=True):
                torch.testing.assert_close(got, want)
                assert not got.requires_grad
    assert all(getattr(module, "watcher", None) is None for module in asked.modules())


def test_names_of_terms_are_unique() -> None:
    terms = [WeightedTerm(term=LabelSmoothedNll(smoothing=0.0), name="nll")] * 2
    with pytest.raises(ValueError, match="two terms have the same name: nll, nll"):
        Loss(terms)


def test_a_trace_that_was_not_asked_for_is_refused() -> None:
    data = TableData(copy_rows(8))
    with pytest.raises(ValueError, match="reads a trace that its `reads` does not request"):
        _ = Forward(tiny_model(), data.load(data.plan(0)[0])).trace


def test_frozen_weights_stay(tmp_path: Path) -> None:
    model = tiny_model()
    model.target_embedding.requires_grad_(False)
    before = model.target_embedding.clone()
    loop: LoopSettings = settings(12)
    trained, _, _ = train(tmp_path, loop, model=model)
    assert torch.equal(cast(torch.Tensor, trained.target_embedding), before)
    assert not same_weights(trained, tiny_model())

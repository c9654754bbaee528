"""Rows that count differently: every objective that takes weights against single rows, each times its own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from seqkd.kernels import products as native
from seqkd.objectives.base import Batch, RowWeights, SoftTargets
from seqkd.objectives.ctc import CtcLoss
from seqkd.objectives.dag import DagLoss
from seqkd.objectives.divergence import top_k
from seqkd.objectives.nll import LabelSmoothedNll
from seqkd.objectives.projection import projected_nll
from seqkd.objectives.teacher import Teacher
from seqkd.objectives.terms import Term
from seqkd.objectives.word_kd import WordKd
from tests.unit.models.nat.ctc_dag import ctc_model, dag_model
from tests.unit.objectives.support import batch_of, loss_of
from tests.unit.objectives.test_word_kd import transformer

PAIRS = [([5, 6], [8, 9, 10]), ([7, 9, 4], [11]), ([12, 13, 14, 15], [4, 5, 6, 7, 8, 9])]
WEIGHTS = [0.25, 1.5, 0.0]


def weighted(batch: Batch, weights: Sequence[float]) -> Batch:
    rows = torch.tensor(weights)
    counts = batch.target_out.ne(1).sum(1)
    return batch._replace(weights=RowWeights(rows, float((rows * counts).sum())))


def soft_targets(tokens: int, vocab: int) -> SoftTargets:
    draw = torch.Generator().manual_seed(3)
    return top_k(torch.randn(tokens, vocab, generator=draw).log_softmax(-1), 4)


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), found, strict=True)]


TEACHER = Teacher([transformer(1).eval()])
CASES: dict[str, tuple[nn.Module, Term, Teacher | None]] = {
    "nll": (transformer(0), LabelSmoothedNll(smoothing=0.0), None),
    "smoothed nll": (transformer(0), LabelSmoothedNll(smoothing=0.1), None),
    "word_kd": (transformer(0), WordKd(temperature=2.0, alpha=0.7, smoothing=0.1), TEACHER),
    "word_kd on soft targets": (transformer(0), WordKd(alpha=0.7), None),
    "ctc": (ctc_model(), CtcLoss(smoothing=0.1, glancing=None), None),
    "dag": (dag_model(), DagLoss(glancing=None), None),
}


@pytest.mark.parametrize("name", CASES)
def test_a_loss_is_the_sum_of_rows_times_their_weights(name: str) -> None:
    model, term, teacher = CASES[name]
    model.train()
    batch = batch_of(PAIRS)
    soft = soft_targets(batch.tokens, 20)
    heavy = weighted(batch._replace(soft=soft), WEIGHTS)
    output = loss_of(term, model, heavy, teacher=teacher)
    by_row = loss_of(term, model, heavy, teacher=teacher, by_row=True).rows
    loss, nll, rows = torch.zeros(()), torch.zeros(()), []
    start = 0
    for pair, weight in zip(PAIRS, WEIGHTS, strict=True):
        one = batch_of([pair])
        stop = start + one.tokens
        part = SoftTargets(soft.ids[start:stop], soft.logprobs[start:stop], _part(soft.tail, start, stop))
        alone = loss_of(term, model, one._replace(soft=part), teacher=teacher)
        rows.append(weight * alone.loss.detach())
        loss, nll, start = loss + weight * alone.loss, nll + weight * alone.nll, stop
    torch.testing.assert_close(output.loss, loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.nll, nll, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(by_row, torch.stack(rows), rtol=1e-5, atol=1e-5)
    assert output.rows is None
    assert term.count(heavy) == 0.25 * 4 + 1.5 * 2
    for got, want in zip(gradients(model, output.loss), gradients(model, loss), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def _part(tail: Tensor | None, start: int, stop: int) -> Tensor:
    assert tail is not None
    return tail[start:stop]


@pytest.mark.parametrize("name", CASES)
def test_an_idle_ranks_batch_counts_nothing(name: str) -> None:
    model, term, teacher = CASES[name]
    batch = batch_of([])._replace(soft=SoftTargets(torch.zeros(0, 1, dtype=torch.long), torch.zeros(0, 1), None))
    output = loss_of(term, model, batch._replace(weights=RowWeights(torch.zeros(1), 0.0)), teacher=teacher, by_row=True)
    assert output.rows is not None
    assert output.rows.tolist() == [0.0]
    assert output.loss.item() == 0.0
    assert not any(grad.any() for grad in gradients(model, output.loss))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("vocab", "dim"), [(64, 32), (65, 33)])
def test_in_bf16_weights_scale_loss_and_gradients_as_well(smoothing: float, vocab: int, dim: int) -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(40, dim, generator=draw).requires_grad_()
    weight = torch.randn(vocab, dim, generator=draw).requires_grad_()
    targets, scales = torch.randint(vocab, (40,), generator=draw), torch.rand(40, generator=draw)
    scales[3] = 0.0

    def found(scaled: bool) -> tuple[Tensor, ...]:
        if scaled:
            loss, nll = projected_nll(features, weight, targets, smoothing, scales)
        else:
            parts = [projected_nll(features[n, None], weight, targets[n, None], smoothing) for n in range(40)]
            loss, nll = (torch.stack([part[i] for part in parts]) @ scales for i in (0, 1))
        return loss.detach(), nll, *torch.autograd.grad(loss, (features, weight))

    exact = found(scaled=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        by_kernel = native.can_multiply(features, weight)
        got = found(scaled=True)
    assert by_kernel == (dim == 32 and native.kernels() is not None)
    for value, want in zip(got, exact, strict=True):
        assert float((value - want).norm() / want.norm()) < 0.02
    assert not got[2][3].any()

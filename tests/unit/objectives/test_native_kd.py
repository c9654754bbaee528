from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from seqkd.kernels import products as training
from seqkd.objectives.divergence import Mixture
from seqkd.objectives.native_kd import kernels_serve, native_kd
from seqkd.objectives.teacher import Answer, Teacher
from seqkd.objectives.word_kd import WordKd
from tests.unit.objectives.support import loss_of
from tests.unit.objectives.test_word_kd import BATCH, transformer

pytestmark = pytest.mark.skipif(training.kernels() is None, reason="needs a CPU with products of bf16, and a compiler")

TOKENS, VOCAB = 70, 320


def low(x: Tensor) -> Tensor:
    """Rounded to bf16, then exact."""
    return x.bfloat16().double()


def far(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm().clamp_min(1e-12))


def leaves() -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """The student's features and output layer, targets, and the same two of a teacher that is wider."""
    torch.manual_seed(3)
    features, weight = torch.randn(TOKENS, 64), torch.randn(VOCAB, 64) / 8
    member = torch.randn(TOKENS, 96), torch.randn(VOCAB, 96) / 8
    return features.requires_grad_(), weight.requires_grad_(), torch.randint(VOCAB, (TOKENS,)), member


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("mixture", [Mixture(1.0, 0.5, 0.1), Mixture(1.0, 0.3, 0.0), Mixture(1.0, 1.0, 0.1)])
def test_equals_the_plain_formula(mixture: Mixture, scaled: bool) -> None:
    features, weight, targets, member = leaves()
    _, alpha, smoothing = mixture
    scales = torch.rand(TOKENS) if scaled else None
    each = torch.ones(TOKENS) if scales is None else scales
    x, w = (low(leaf.detach()).requires_grad_() for leaf in (features, weight))
    logits = x @ w.t()
    q = (low(member[0]) @ low(member[1]).t()).softmax(-1)
    soft = -(q * logits.log_softmax(-1)).sum(-1)
    hard = functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    expected = (each * (alpha * soft + (1 - alpha) * hard)).sum()
    plain = (each * functional.cross_entropy(logits, targets, reduction="none")).sum()
    teacher = Answer([member], torch.bfloat16)
    loss, nll = native_kd(features, weight, targets, teacher, mixture, scales)
    torch.testing.assert_close(loss.double(), expected, rtol=2e-3, atol=1e-3)
    torch.testing.assert_close(nll.double(), plain, rtol=1e-5, atol=1e-3)
    assert not nll.requires_grad
    wanted = torch.autograd.grad(2 * expected, (x, w))
    for got, want in zip(torch.autograd.grad(2 * loss, (features, weight)), wanted, strict=True):
        assert far(got, want) < 1.5e-2


def test_a_teacher_that_is_the_student_gives_no_gradient() -> None:
    features, weight, targets, _ = leaves()
    teacher = Answer([(features.detach(), weight.detach())], torch.bfloat16)
    loss, _ = native_kd(features, weight, targets, teacher, Mixture(1.0, 1.0, 0.0))
    to_features, to_weight = torch.autograd.grad(loss, (features, weight))
    assert not to_features.any()
    assert to_weight.abs().max() < 1e-5


def test_when_they_serve() -> None:
    features, weight, _, member = leaves()
    teacher, mixture = Answer([member], torch.bfloat16), Mixture(1.0, 0.5, 0.1)
    assert not kernels_serve(features, weight, teacher, mixture)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert kernels_serve(features, weight, teacher, mixture)
        assert not kernels_serve(features, weight, teacher, Mixture(2.0, 0.5, 0.1))
        for others in (
            Answer([member]),
            Answer([member, member], torch.bfloat16),
            Answer([(member[0], member[1][:90])], torch.bfloat16),
        ):
            assert not kernels_serve(features, weight, others, mixture)
        with torch.no_grad():
            assert not kernels_serve(features, weight, teacher, mixture)


@pytest.mark.parametrize(("settings", "served"), [({}, True), ({"top": 3}, False), ({"direction": "reverse"}, False)])
def test_the_loss_takes_them_where_they_serve(settings: dict[str, Any], served: bool) -> None:
    student = transformer(0, dim=32, vocab=32)
    teacher = Teacher([transformer(1, dim=64, vocab=32).eval()], autocast=torch.bfloat16)
    losses = []
    for by_row in (False, True):  # the kernels give no values by row, which are therefore torch's
        with torch.autocast("cpu", dtype=torch.bfloat16):
            term = WordKd(alpha=0.5, smoothing=0.1, **settings)
            loss = loss_of(term, student, BATCH, teacher=teacher, by_row=by_row).loss
        found = torch.autograd.grad(loss, list(student.parameters()), allow_unused=True)
        losses.append([loss, *(gradient for gradient in found if gradient is not None)])
    kernels, plain = losses
    # Products that are rounded elsewhere tell which of the two it was.
    assert all(torch.equal(got, want) for got, want in zip(kernels, plain, strict=True)) == (not served)
    torch.testing.assert_close(kernels[0], plain[0], rtol=5e-3, atol=0.0)
    for got, want in zip(kernels[1:], plain[1:], strict=True):
        assert far(got, want) < 5e-2

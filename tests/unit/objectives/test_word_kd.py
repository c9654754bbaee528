"""Word-level distillation against plain torch formulas over full logits, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from seqkd.models.registry import build
from seqkd.models.settings import StackSettings
from seqkd.models.transformer import Transformer
from seqkd.objectives.base import SoftTargets
from seqkd.objectives.divergence import Direction, Mixture, full_divergence, sparse_divergence, top_k
from seqkd.objectives.nll import LabelSmoothedNll
from seqkd.objectives.teacher import Teacher
from seqkd.objectives.word_kd import Divergence, WordKd, projected_kd
from tests.properties import examples
from tests.unit.objectives.support import batch_of, loss_of

VOCAB = 20
BATCH = batch_of([([5, 6], [8, 9, 10]), ([7], [11]), ([12, 13, 14, 15], [4, 5, 6, 7, 8, 9])])


def transformer(seed: int, *, dim: int = 16, dropout: float = 0.0, vocab: int = VOCAB) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(
        StackSettings(
            dim=dim,
            heads=2,
            ffn_dim=32,
            encoder_layers=1,
            decoder_layers=1,
            dropout=dropout,
        ),
        source_vocab=vocab,
        target_vocab=vocab,
    )


def coarse(probabilities: Tensor, ids: Tensor) -> Tensor:
    """Probabilities of the ids and of all others together."""
    rest = probabilities.scatter(1, ids, 0.0).sum(-1, keepdim=True)
    return torch.cat([probabilities.gather(1, ids), rest], 1)


def plain_kd(logits: Tensor, teacher: Tensor, *, temperature: float, top: int, direction: Direction) -> Tensor:
    """T^2 times the divergence of each row, from logits; the tail's event is left out where it is empty."""
    p, q = (logits / temperature).softmax(-1), (teacher / temperature).softmax(-1)
    if 0 < top < logits.size(1):
        ids = q.topk(top).indices
        p, q = coarse(p, ids), coarse(q, ids)
    value = -(q * p.log()).sum(-1) if direction == "forward" else (p * (p.log() - q.log())).sum(-1)
    return temperature**2 * value


def leaves(tokens: int, vocab: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(tokens, 6, generator=draw, dtype=torch.float64).requires_grad_()
    weight = torch.randn(vocab, 6, generator=draw, dtype=torch.float64).requires_grad_()
    teacher = 2 * torch.randn(tokens, vocab, generator=draw, dtype=torch.float64)
    return features, weight, teacher, torch.randint(vocab, (tokens,), generator=draw)


def from_logits(teacher: Tensor, temperature: float, top: int, direction: Direction) -> Divergence:
    logprobs = (teacher / temperature).log_softmax(-1)

    def divergence(student: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        if top:
            return sparse_divergence(student, top_k(logprobs[start:stop], top), direction)
        return full_divergence(student, logprobs[start:stop], direction)

    return divergence


@given(
    tokens=st.integers(1, 30),
    vocab=st.integers(2, 40),
    share=st.floats(0.0, 1.0),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    alpha=st.sampled_from([0.0, 0.3, 1.0]),
    smoothing=st.sampled_from([0.0, 0.2]),
    direction=st.sampled_from(["forward", "reverse"]),
    chunk=st.sampled_from([1, 100, None]),
    scaled=st.booleans(),
    seed=st.integers(0, 99),
)
@examples(150)
def test_equals_the_plain_formula(
    tokens: int,
    vocab: int,
    share: float,
    temperature: float,
    alpha: float,
    smoothing: float,
    direction: Direction,
    chunk: int | None,
    scaled: bool,
    seed: int,
) -> None:
    top = round(share * vocab)
    features, weight, teacher, targets = leaves(tokens, vocab, seed)
    logits = features @ weight.t()
    draw = torch.Generator().manual_seed(seed)
    scales = torch.rand(tokens, generator=draw, dtype=torch.float64).round(decimals=1) if scaled else None
    each = torch.ones(tokens, dtype=torch.float64) if scales is None else scales
    hard = functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    soft = plain_kd(logits, teacher, temperature=temperature, top=top, direction=direction)
    expected = each @ (alpha * soft + (1 - alpha) * hard)
    loss, nll, _ = projected_kd(
        features,
        weight,
        targets,
        from_logits(teacher, temperature, top, direction),
        Mixture(temperature, alpha, smoothing),
        scales,
        elements=chunk,
    )
    torch.testing.assert_close(loss, expected)
    plain = functional.cross_entropy(logits, targets, reduction="none").detach()
    torch.testing.assert_close(nll, each @ plain)
    assert not nll.requires_grad
    wanted = torch.autograd.grad(0.37 * expected, (features, weight))
    for got, want in zip(torch.autograd.grad(0.37 * loss, (features, weight)), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-9)


def test_against_one_hot_targets_it_is_the_likelihood() -> None:
    features, weight, _, targets = leaves(9, 12, 1)
    certain = functional.one_hot(targets, 12).double().log()
    for divergence in (
        lambda student, start, stop: full_divergence(student, certain[start:stop], "forward"),
        lambda student, start, stop: sparse_divergence(
            student, SoftTargets(targets[start:stop, None], torch.zeros(stop - start, 1), None), "forward"
        ),
    ):
        loss, nll, _ = projected_kd(features, weight, targets, divergence, Mixture(1.0, 1.0, 0.0))
        expected = functional.cross_entropy(features @ weight.t(), targets, reduction="sum")
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(nll, expected.detach())
        wanted = torch.autograd.grad(expected, (features, weight))
        for got, want in zip(torch.autograd.grad(loss, (features, weight)), wanted, strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("top", [0, 3, VOCAB])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_teacher_that_is_the_student_gives_no_gradient(direction: Direction, top: int, temperature: float) -> None:
    student = transformer(0)
    twin = transformer(0).eval()
    objective = WordKd(temperature=temperature, alpha=1.0, top=top, direction=direction)
    output = loss_of(objective, student, BATCH, teacher=Teacher([twin]))
    output.loss.backward()  # type: ignore[no-untyped-call]
    for weight in student.parameters():
        assert weight.grad is not None
        assert float(weight.grad.abs().max()) < 1e-5
    assert all(weight.grad is None for weight in twin.parameters())
    if direction == "reverse":
        assert abs(output.loss.item()) < 1e-5


@pytest.mark.parametrize("arch", ["lstm", "sru"])
def test_teachers_of_other_architectures_are_averaged_in_probability(arch: str) -> None:
    torch.manual_seed(3)
    shape = {"dim": 8, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.5}
    shape |= {"heads": 2, "ffn_dim": 16} if arch == "sru" else {}
    other: Any = build(arch, shape, source_vocab=VOCAB, target_vocab=VOCAB).eval()
    student, third = transformer(0), transformer(7, dim=32, dropout=0.3).eval()
    objective = WordKd(temperature=2.0, alpha=0.4, smoothing=0.1)
    output = loss_of(objective, student, BATCH, teacher=Teacher([other, third]))
    logits = student(BATCH.source, BATCH.target_in).flatten(0, 1)[BATCH.kept]
    members = [
        (model(BATCH.source, BATCH.target_in).flatten(0, 1)[BATCH.kept] / 2.0).softmax(-1) for model in (other, third)
    ]
    mean = ((members[0] + members[1]) / 2).detach()
    soft = -4.0 * (mean * (logits / 2.0).log_softmax(-1)).sum()
    hard = functional.cross_entropy(
        logits, BATCH.target_out.flatten()[BATCH.kept], label_smoothing=0.1, reduction="sum"
    )
    expected = 0.4 * soft + 0.6 * hard
    torch.testing.assert_close(output.loss, expected)
    wanted = torch.autograd.grad(expected, list(student.parameters()), retain_graph=True)
    output.loss.backward()  # type: ignore[no-untyped-call]
    for weight, want in zip(student.parameters(), wanted, strict=True):
        torch.testing.assert_close(weight.grad, want, rtol=1e-4, atol=1e-5)


def test_in_evaluation_it_is_the_likelihood_and_no_teacher_is_asked() -> None:
    student = transformer(0).eval()
    with torch.no_grad():
        output = loss_of(WordKd(alpha=0.7, smoothing=0.1), student, BATCH)
        expected = loss_of(LabelSmoothedNll(smoothing=0.1), student, BATCH)
    torch.testing.assert_close(output.nll, expected.nll)
    torch.testing.assert_close(output.loss, expected.loss)


def test_soft_targets_in_the_batch_equal_the_live_teacher() -> None:
    student, teacher = transformer(0), transformer(1).eval()
    asked = Teacher([teacher])
    rows = asked(BATCH).logprobs(0, BATCH.tokens)
    for k in (4, VOCAB):
        live = loss_of(WordKd(alpha=0.8, top=k), student, BATCH, teacher=asked)
        written = loss_of(WordKd(alpha=0.8), student, BATCH._replace(soft=top_k(rows, k)))
        torch.testing.assert_close(written.loss, live.loss)


@pytest.mark.parametrize("sick", ["student", "teacher"])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("top", [0, 3])
def test_a_nan_is_not_hidden(sick: str, direction: Direction, top: int) -> None:
    models = {"student": transformer(0), "teacher": transformer(1).eval()}
    with torch.no_grad():
        models[sick].get_parameter("target_embedding")[9] = math.nan
    objective = WordKd(alpha=1.0, top=top, direction=direction)
    assert loss_of(objective, models["student"], BATCH, teacher=Teacher([models["teacher"]])).loss.isnan()


def test_under_autocast_it_is_close_and_gradients_keep_their_types() -> None:
    student, teacher = transformer(0), Teacher([transformer(1).eval()])
    exact = loss_of(WordKd(alpha=0.5), student, BATCH, teacher=teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = loss_of(WordKd(alpha=0.5), student, BATCH, teacher=teacher)
    assert low.loss.dtype == torch.float32
    torch.testing.assert_close(low.loss, exact.loss, rtol=2e-2, atol=0.0)
    low.loss.backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is not None and weight.grad.dtype == torch.float32 for weight in student.parameters())


def test_a_batch_without_tokens_has_no_loss_and_no_gradient() -> None:
    student = transformer(0)
    output = loss_of(WordKd(alpha=0.5), student, batch_of([]), teacher=Teacher([transformer(1).eval()]))
    assert output.loss.item() == 0.0
    output.loss.backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is None or not weight.grad.any() for weight in student.parameters())

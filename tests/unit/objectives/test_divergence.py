from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from seqkd.objectives.base import SoftTargets
from seqkd.objectives.divergence import Direction, full_divergence, likelihood, sparse_divergence, top_k
from tests.properties import examples


def logits_of(rows: int, vocab: int, seed: int) -> Tensor:
    return 2 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(
    rows=st.integers(1, 6),
    vocab=st.integers(2, 30),
    share=st.floats(0.0, 1.0),
    direction=st.sampled_from(["forward", "reverse"]),
    seed=st.integers(0, 999),
)
@examples(100)
def test_fewer_events_are_never_farther_apart_and_all_of_them_are_the_whole(
    rows: int, vocab: int, share: float, direction: Direction, seed: int
) -> None:
    student, teacher = (logits_of(rows, vocab, seed + offset).log_softmax(-1) for offset in (0, 1000))
    full, full_grad = full_divergence(student, teacher, direction)
    some, grad = sparse_divergence(student, top_k(teacher, max(1, round(share * vocab))), direction)
    assert bool((some <= full + 1e-12).all())
    torch.testing.assert_close(grad.sum(-1), torch.zeros(rows, dtype=torch.float64))  # logits' level is free
    whole, whole_grad = sparse_divergence(student, top_k(teacher, vocab), direction)
    torch.testing.assert_close(whole, full)
    torch.testing.assert_close(whole_grad, full_grad)


def test_sampled_ids_give_the_gradient_of_the_whole_on_average() -> None:
    student, teacher = (logits_of(1, 8, seed).log_softmax(-1) for seed in (1, 2))
    _, wanted = full_divergence(student, teacher, "forward")
    draws = torch.multinomial(teacher.exp()[0], 20_000, replacement=True, generator=torch.Generator().manual_seed(3))
    total = torch.zeros_like(wanted)
    for ids in draws.view(-1, 4):  # four ids at a time, as they come: an id may stand there twice
        evenly = torch.full((1, 4), math.log(1 / 4), dtype=torch.float64)
        total += sparse_divergence(student, SoftTargets(ids[None], evenly, None), "forward")[1]
    torch.testing.assert_close(total / 5000, wanted, rtol=0.0, atol=0.02)


def test_reverse_needs_a_tail() -> None:
    drawn = SoftTargets(torch.tensor([[0]]), torch.zeros(1, 1), None)
    with pytest.raises(ValueError, match="needs a teacher's tail"):
        sparse_divergence(torch.zeros(1, 3).log_softmax(-1), drawn, "reverse")


def test_a_tail_that_is_small_loses_no_precision() -> None:
    logits = torch.zeros(1, 50)
    logits[0, 0] = 30.0  # the others hold 5e-12 together: one minus the first is zero in float32
    student = logits.log_softmax(-1)
    value, grad = sparse_divergence(student, top_k(student, 1), "reverse")
    assert float(value) == pytest.approx(0.0, abs=1e-6)
    assert bool(grad.isfinite().all())
    even = SoftTargets(torch.tensor([[0]]), torch.tensor([[1 / 50]]).log(), torch.tensor([49 / 50]).log())
    value, grad = sparse_divergence(student, even, "forward")
    assert float(value) == pytest.approx(-(math.log(49) - 30) * 49 / 50, rel=1e-5)
    torch.testing.assert_close(grad.sum(), torch.tensor(0.0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_likelihood_is_cross_entropy(smoothing: float) -> None:
    logits, targets = logits_of(5, 9, 1).requires_grad_(), torch.tensor([3, 0, 8, 8, 2])
    expected = functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    value, grad, nll = likelihood(logits.detach().log_softmax(-1), targets, smoothing)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(grad, torch.autograd.grad(expected.sum(), logits)[0])
    torch.testing.assert_close(nll, functional.cross_entropy(logits, targets, reduction="none").detach())


def test_top_k_holds_all_probability() -> None:
    teacher = logits_of(4, 12, 1).log_softmax(-1)
    soft = top_k(teacher, 5)
    assert soft.tail is not None
    torch.testing.assert_close(soft.logprobs.exp().sum(-1) + soft.tail.exp(), torch.ones(4, dtype=torch.float64))
    assert bool((soft.logprobs[:, :-1] >= soft.logprobs[:, 1:]).all())
    everything = top_k(teacher, 12).tail
    assert everything is not None
    assert everything.tolist() == [-math.inf] * 4

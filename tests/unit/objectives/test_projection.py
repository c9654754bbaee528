from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from seqkd.objectives.projection import projected_log_sum_exp, projected_nll
from tests.properties import examples


def plain(features: Tensor, weight: Tensor, targets: Tensor, smoothing: float, scales: Tensor | None = None) -> Tensor:
    each = functional.cross_entropy(features @ weight.t(), targets, label_smoothing=smoothing, reduction="none")
    return each.sum() if scales is None else each @ scales


def leaves(tokens: int, vocab: int, seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = (scale * torch.randn(tokens, 12, generator=generator)).requires_grad_()
    weight = torch.randn(vocab, 12, generator=generator).requires_grad_()
    return features, weight, torch.randint(vocab, (tokens,), generator=generator)


@given(
    tokens=st.integers(1, 40),
    vocab=st.integers(2, 60),
    smoothing=st.sampled_from([0.0, 0.1, 0.7]),
    chunk=st.sampled_from([1, 100, None]),
    scaled=st.booleans(),
    seed=st.integers(0, 99),
)
@examples(60)
def test_equals_cross_entropy(
    tokens: int, vocab: int, smoothing: float, chunk: int | None, scaled: bool, seed: int
) -> None:
    features, weight, targets = leaves(tokens, vocab, seed)
    scales = torch.rand(tokens, generator=torch.Generator().manual_seed(seed)).round(decimals=1) if scaled else None
    expected = plain(features, weight, targets, smoothing, scales)
    expected_grads = torch.autograd.grad(expected * 0.37, (features, weight))
    loss, nll = projected_nll(features, weight, targets, smoothing, scales, elements=chunk)
    grads = torch.autograd.grad(loss * 0.37, (features, weight))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(nll, plain(features, weight, targets, 0.0, scales), rtol=1e-5, atol=1e-4)
    assert not nll.requires_grad
    for got, want in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_large_logits_stay_finite() -> None:
    features, weight, targets = leaves(8, 30, seed=1, scale=200.0)
    loss, _ = projected_nll(features, weight, targets, 0.1)
    torch.testing.assert_close(loss, plain(features, weight, targets, 0.1))
    loss.backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_under_autocast_is_close_and_grads_keep_their_types() -> None:
    features, weight, targets = leaves(64, 50, seed=2)
    expected = plain(features, weight, targets, 0.1)
    expected_grads = torch.autograd.grad(expected, (features, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = projected_nll(features, weight, targets, 0.1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0.0)
    for got, want in zip(torch.autograd.grad(loss, (features, weight)), expected_grads, strict=True):
        assert got.dtype == torch.float32
        assert float((got - want).norm() / want.norm()) < 0.02


def test_without_gradients_nothing_is_kept() -> None:
    features, weight, targets = leaves(8, 30, seed=3)
    with torch.no_grad():
        loss, _ = projected_nll(features, weight, targets, 0.1)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain(features, weight, targets, 0.1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_nan_features_give_nan(smoothing: float) -> None:
    features, weight, targets = leaves(8, 30, seed=4)
    with torch.no_grad():
        features[3] = float("nan")
    loss, _ = projected_nll(features, weight, targets, smoothing)
    assert loss.isnan()


@given(
    tokens=st.integers(1, 40),
    vocab=st.integers(2, 60),
    chunk=st.sampled_from([1, 100, None]),
    scale=st.sampled_from([1.0, 100.0]),
    seed=st.integers(0, 99),
)
@examples(40)
def test_log_sum_exp_of_each_row(tokens: int, vocab: int, chunk: int | None, scale: float, seed: int) -> None:
    features, weight, _ = leaves(tokens, vocab, seed, scale)
    shares = torch.randn(tokens, generator=torch.Generator().manual_seed(seed))
    expected = (features @ weight.t()).logsumexp(-1)
    expected_grads = torch.autograd.grad(expected @ shares, (features, weight))
    sums = projected_log_sum_exp(features, weight, elements=chunk)
    grads = torch.autograd.grad(sums @ shares, (features, weight))
    torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-4)
    for got, want in zip(grads, expected_grads, strict=True):
        # Terms as large as `scale` cancel out.
        torch.testing.assert_close(got, want, rtol=1e-3, atol=max(1e-4, 1e-5 * scale))


def test_log_sum_exp_under_autocast_is_close_and_float32() -> None:
    features, weight, _ = leaves(64, 50, seed=2)
    expected = (features @ weight.t()).logsumexp(-1)
    expected_grads = torch.autograd.grad(expected.sum(), (features, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums = projected_log_sum_exp(features, weight)
    assert sums.dtype == torch.float32
    torch.testing.assert_close(sums, expected, rtol=1e-2, atol=1e-2)
    for got, want in zip(torch.autograd.grad(sums.sum(), (features, weight)), expected_grads, strict=True):
        assert got.dtype == torch.float32
        assert float((got - want).norm() / want.norm()) < 0.02

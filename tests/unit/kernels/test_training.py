from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from seqkd.kernels import products as training
from seqkd.models.functional import feed_forward, linear
from seqkd.objectives.projection import projected_log_sum_exp, projected_nll
from tests.properties import examples

pytestmark = pytest.mark.skipif(training.kernels() is None, reason="needs a CPU with a bf16 matrix unit and a compiler")

THREADS = st.sampled_from([1, 2])
WIDTHS = st.sampled_from([32, 64, 96])
SEEDS = st.integers(0, 9)


def low(x: Tensor) -> Tensor:
    """Rounded to bf16, then exact."""
    return x.bfloat16().double()


def far(got: Tensor, want: Tensor) -> float:
    got, want = got.detach(), want.detach()
    return float((got.double() - want).norm() / want.norm().clamp_min(1e-12))


@given(rows=st.integers(1, 150), inputs=WIDTHS, outputs=WIDTHS, threads=THREADS, seed=st.integers(0, 9))
@examples(40)
def test_a_linear_layer_and_its_gradients(rows: int, inputs: int, outputs: int, threads: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    grad = torch.randn(rows, outputs)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y = training.linear(x, weight, bias)
        found = training.linear_backward(grad, x, weight, to_x=True, biased=True)
    finally:
        torch.set_num_threads(before)
    want = low(x) @ low(weight).t() + bias
    # float32 sums of exact products: what differs is their order.
    assert far(y, want) < 1e-5
    expected = (low(grad) @ low(weight), low(grad).t() @ low(x), grad.double().sum(0))
    for got, exact in zip(found, expected, strict=True):
        assert got is not None
        assert far(got, exact) < 1e-5


@given(rows=st.integers(1, 150), dim=WIDTHS, hidden=st.sampled_from([32, 160]), threads=THREADS, seed=st.integers(0, 9))
@examples(40)
def test_feed_forward_and_its_gradients(rows: int, dim: int, hidden: int, threads: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, grad = torch.randn(rows, dim), torch.randn(rows, dim)
    inner, inner_bias = torch.randn(hidden, dim) / dim**0.5, torch.randn(hidden)
    outer, outer_bias = torch.randn(dim, hidden) / hidden**0.5, torch.randn(dim)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y = training.feed_forward(x, inner, inner_bias, outer, outer_bias)
        found = training.feed_forward_backward(grad, x, inner, inner_bias, outer)
    finally:
        torch.set_num_threads(before)
    between = training.linear(x, inner, inner_bias).relu()
    slope = low(grad) @ low(outer) * (between > 0)
    assert far(y, low(between) @ low(outer).t() + outer_bias) < 1e-5
    # What is narrowed between two products may fall to another side of a rounding step than it does here.
    expected = (
        slope @ low(inner),
        slope.t() @ low(x),
        slope.sum(0),
        low(grad).t() @ low(between),
        grad.double().sum(0),
    )
    for got, exact, room in zip(found, expected, (5e-3, 5e-3, 1e-5, 1e-5, 1e-5), strict=True):
        assert got.shape == exact.shape
        assert far(got, exact) < room


def test_only_the_gradients_that_are_asked_for() -> None:
    x, weight, grad = torch.randn(40, 32), torch.randn(64, 32), torch.randn(40, 64)
    to_x, to_weight, to_bias = training.linear_backward(grad, x, weight, to_x=False, biased=False)
    assert to_x is None
    assert to_bias is None
    assert far(to_weight, low(grad).t() @ low(x)) < 1e-5
    assert far(training.linear(x, weight, None), low(x) @ low(weight).t()) < 1e-5


@given(
    rows=st.integers(1, 150),
    dim=WIDTHS,
    vocab=st.sampled_from([32, 96, 544, 1600]),
    scale=st.sampled_from([0.1, 1.0, 40.0]),
    threads=THREADS,
    seed=st.integers(0, 9),
)
@examples(40)
def test_log_sum_exp_and_its_gradients(rows: int, dim: int, vocab: int, scale: float, threads: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, weight, shares = scale * torch.randn(rows, dim), torch.randn(vocab, dim), torch.randn(rows)
    logits = low(x) @ low(weight).t()
    probabilities = logits.softmax(-1) * shares.double()[:, None]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        sums, grad_x, grad_w = training.log_sum_exp_gradients(x, weight, shares)
        alone = training.log_sum_exp(x, weight)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(sums.double(), logits.logsumexp(-1), rtol=1e-5, atol=1e-5)
    assert torch.equal(alone, sums)
    # Probabilities are bf16 in the products.
    assert far(grad_x, probabilities @ low(weight)) < 5e-3
    assert far(grad_w, probabilities.t() @ x.double()) < 1e-2


@given(
    rows=st.integers(1, 150), dim=WIDTHS, width=WIDTHS, vocab=st.sampled_from([32, 1600]), threads=THREADS, seed=SEEDS
)
@examples(25)
def test_what_a_softmax_expects_of_other_rows(
    rows: int, dim: int, width: int, vocab: int, threads: int, seed: int
) -> None:
    torch.manual_seed(seed)
    x, weight, shares = torch.randn(rows, dim), torch.randn(vocab, dim), torch.randn(rows)
    values, y, to = torch.randn(vocab, width), torch.randn(rows, width), torch.randn(vocab, width)
    probabilities = (low(x) @ low(weight).t()).softmax(-1) * shares.double()[:, None]
    before, added = torch.get_num_threads(), to.clone()
    torch.set_num_threads(threads)
    try:
        expected = training.expected_rows(x, weight, values, y, shares, added)
    finally:
        torch.set_num_threads(before)
    assert far(expected, probabilities @ low(values)) < 5e-3
    assert far(added - to, probabilities.t() @ y.double()) < 1e-2


@given(
    rows=st.integers(1, 150), dim=WIDTHS, vocab=st.sampled_from([32, 96, 1600]), threads=THREADS, seed=st.integers(0, 9)
)
@examples(20)
def test_the_likeliest_piece(rows: int, dim: int, vocab: int, threads: int, seed: int) -> None:
    torch.manual_seed(seed)
    # Small whole numbers: products are exact and ties are many.
    x, weight = torch.randint(-3, 4, (rows, dim)).float(), torch.randint(-2, 3, (vocab, dim)).float()
    logits = x @ weight.t()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = training.argmax_logits(x, weight)
    finally:
        torch.set_num_threads(before)
    ties = logits.eq(logits.amax(-1, keepdim=True)).float()
    assert torch.equal(found, ties.argmax(-1))


def test_a_logit_far_above_the_first_ones() -> None:
    weight = torch.zeros(1600, 32)
    weight[1500, 0] = 500.0
    x = torch.zeros(3, 32)
    x[1, 0] = 1.0
    sums, grad_x, _ = training.log_sum_exp_gradients(x, weight, None)
    torch.testing.assert_close(sums, torch.tensor([math.log(1600), 500.0, math.log(1600)]))
    torch.testing.assert_close(grad_x[:, 0], torch.tensor([500.0 / 1600, 500.0, 500.0 / 1600]), rtol=1e-2, atol=0.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so_in_its_row(bad: float) -> None:
    x, weight = torch.randn(40, 32), torch.randn(64, 32)
    x[3, 5] = bad
    sums = training.log_sum_exp(x, weight)
    assert not sums[3].isfinite()
    assert sums[torch.arange(40) != 3].isfinite().all()
    y = training.linear(x, weight, None)
    assert not y[3].isfinite().all()
    assert y[torch.arange(40) != 3].isfinite().all()


def test_rows_scattered() -> None:
    to, x = torch.zeros(5, 48), torch.randn(4, 48)
    training.scatter_rows(to, torch.tensor([2, 0, 2, 4]), x, -0.5)
    want = torch.zeros(5, 48).index_add_(0, torch.tensor([2, 0, 2, 4]), x, alpha=-0.5)
    torch.testing.assert_close(to, want)


def test_when_they_serve() -> None:
    x, weight = torch.randn(4, 64), torch.randn(96, 64)
    assert not training.can_multiply(x, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert training.can_multiply(x, weight)
        assert not training.can_multiply(x, weight[:90])
        assert not training.can_multiply(x[:0], weight)
        assert not training.can_multiply(x.to("meta"), weight)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("trains", [True, False])
def test_projected_nll_under_autocast(smoothing: float, trains: bool) -> None:
    torch.manual_seed(0)
    features = torch.randn(70, 64, requires_grad=trains)
    weight = torch.randn(320, 64, requires_grad=trains)
    targets = torch.randint(320, (70,))
    targets[:9] = 7
    logits = features.bfloat16().float() @ weight.bfloat16().float().t()
    expected = nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
    plain = nn.functional.cross_entropy(logits, targets, reduction="sum")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, nll = projected_nll(features, weight, targets, smoothing)
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(nll, plain, rtol=1e-5, atol=1e-3)
    assert not nll.requires_grad
    if trains:
        wanted = torch.autograd.grad(expected, (features, weight))
        for got, want in zip(torch.autograd.grad(2 * loss, (features, weight)), wanted, strict=True):
            assert far(got, 2 * want.double()) < 1e-2


def test_projected_log_sum_exp_under_autocast() -> None:
    torch.manual_seed(0)
    features, weight = torch.randn(70, 64, requires_grad=True), torch.randn(320, 64, requires_grad=True)
    shares = torch.randn(70)
    expected = (features @ weight.t()).logsumexp(-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums = projected_log_sum_exp(features, weight)
    torch.testing.assert_close(sums, expected, rtol=1e-2, atol=1e-2)
    wanted = torch.autograd.grad(expected @ shares, (features, weight))
    for got, want in zip(torch.autograd.grad(sums @ shares, (features, weight)), wanted, strict=True):
        assert got.dtype == torch.float32
        assert far(got, want.double()) < 2e-2


def test_linear_under_autocast_goes_through_autograd() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 96), torch.randn(5, 7, 64, requires_grad=True)
    slope = torch.randn(5, 7, 96)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = linear(x, layer)
    assert got.dtype == torch.float32
    leaves = (x, layer.weight, layer.bias)
    want = layer(x)
    assert far(got, want.double()) < 1e-2
    wanted = torch.autograd.grad((want * slope).sum(), leaves)
    for ours, theirs in zip(torch.autograd.grad((got * slope).sum(), leaves), wanted, strict=True):
        assert far(ours, theirs.double()) < 2e-2


def test_feed_forward_under_autocast_goes_through_autograd() -> None:
    torch.manual_seed(0)
    inner, outer, x = nn.Linear(64, 96), nn.Linear(96, 64), torch.randn(5, 7, 64, requires_grad=True)
    slope = torch.randn(5, 7, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = feed_forward(x, inner, outer)
    leaves = (x, *inner.parameters(), *outer.parameters())
    want = outer(inner(x).relu())
    assert far(got, want.double()) < 2e-2
    wanted = torch.autograd.grad((want * slope).sum(), leaves)
    for ours, theirs in zip(torch.autograd.grad((got * slope).sum(), leaves), wanted, strict=True):
        assert far(ours, theirs.double()) < 0.1  # near zero, rounding turns ReLU's gradient on or off

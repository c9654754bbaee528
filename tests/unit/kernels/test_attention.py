from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seqkd.kernels import attention
from seqkd.models.functional import attend
from tests.properties import examples

pytestmark = pytest.mark.skipif(attention.kernels() is None, reason="needs a C++ compiler")


def plain(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    scores = query @ key.transpose(-1, -2) / query.size(-1) ** 0.5
    return torch.softmax(scores.masked_fill(~visible, float("-inf")), -1) @ value


@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    targets=st.integers(1, 40),
    sources=st.integers(1, 40),
    width=st.sampled_from([16, 32, 48, 64, 80, 96, 128]),
    kind=st.sampled_from(["all", "mask", "causal"]),
    scale=st.sampled_from([1.0, 8.0]),
    threads=st.sampled_from([1, 2]),
    seed=st.integers(0, 9),
)
@examples(60)
def test_equals_the_definition(
    batch: int, heads: int, targets: int, sources: int, width: int, kind: str, scale: float, threads: int, seed: int
) -> None:
    torch.manual_seed(seed)
    if kind == "causal":
        sources = targets
    # As models have them: heads side by side in a row, keys and values side by side.
    query = (scale * torch.randn(batch, targets, heads, width)).transpose(1, 2).requires_grad_()
    both = torch.randn(batch, sources, 2, heads, width).requires_grad_()
    key, value = (part.transpose(1, 2) for part in both.unbind(2))
    visible = torch.ones(batch, 1, targets, sources, dtype=torch.bool)
    mask = None
    if kind == "mask":
        mask = torch.rand(batch, 1, 1, sources) < 0.6
        mask[..., 0] = True
        visible = visible & mask
    elif kind == "causal":
        visible = visible.tril()
    slope = torch.randn(batch, heads, targets, width)
    want = plain(query.double(), key.double(), value.double(), visible)
    expected = torch.autograd.grad((want * slope).sum(), (query, both), retain_graph=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert attention.can_attend(query, key, value)
        got = attend(query, key, value, mask=mask, causal=kind == "causal")
        found = torch.autograd.grad((got * slope).sum(), (query, both))
    finally:
        torch.set_num_threads(before)
    # A score's error in float32 grows with the scores, and so does the one that a softmax makes of it.
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5 * scale)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * scale)


def test_a_sentence_does_not_depend_on_its_padding() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 2, 5, 16, requires_grad=True) for _ in range(3))
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])[:, None, None]
    both = attend(query, key, value, mask=mask)
    alone = attend(query[1:], key[1:, :, :3], value[1:, :, :3])
    torch.testing.assert_close(both[1:], alone, rtol=1e-6, atol=1e-6)
    both.sum().backward()  # type: ignore[no-untyped-call]
    for part in (key, value):
        assert part.grad is not None
        assert not part.grad[1, :, 3:].any()


def test_no_key_seen_gives_zeros_and_no_gradient() -> None:
    query, key, value = (torch.randn(1, 1, 2, 16, requires_grad=True) for _ in range(3))
    out = attend(query, key, value, mask=torch.zeros(1, 1, 1, 2, dtype=torch.bool))
    assert not out.any()
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert query.grad is not None
    assert not query.grad.any()


def test_nan_stays() -> None:
    query, key, value = (torch.randn(1, 1, 3, 16, requires_grad=True) for _ in range(3))
    with torch.no_grad():
        query[0, 0, 1, 2] = float("nan")
    out = attend(query, key, value)
    assert out[0, 0, 1].isnan().all()
    assert out[0, 0, [0, 2]].isfinite().all()


def test_when_they_serve() -> None:
    x = torch.randn(1, 2, 3, 16)
    assert attention.can_attend(x, x, x)
    assert not attention.can_attend(x.double(), x.double(), x.double())
    assert not attention.can_attend(x[..., :12], x[..., :12], x[..., :12])
    assert not attention.can_attend(x.transpose(2, 3), x, x)
    assert not attention.can_attend(x[:, :, :0], x, x)

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from seqkd.models.functional import Dropout, attend, linear, pad_rows


def relative(got: Tensor | None, want: Tensor | None) -> float:
    assert got is not None
    assert want is not None
    return float((got - want).norm().detach() / want.norm().detach())


@pytest.mark.parametrize("rows", [1, 255, 256, 300])
def test_linear_under_autocast_is_the_layer_in_bf16(rows: int) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(12, 20), torch.randn(rows, 1, 12, requires_grad=True)
    slope = torch.randn(rows, 1, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = linear(x, layer)
        low = linear(x, layer, narrow=True)
    assert got.dtype == torch.float32
    assert low.dtype == torch.bfloat16
    assert torch.equal(got, low.float())
    assert got.shape == slope.shape
    got.backward(slope)  # type: ignore[no-untyped-call]
    found = [x.grad, layer.weight.grad, layer.bias.grad]
    x.grad = layer.weight.grad = layer.bias.grad = None
    want = layer(x)
    want.backward(slope)
    assert relative(got.float(), want) < 0.01
    for ours, theirs in zip(found, [x.grad, layer.weight.grad, layer.bias.grad], strict=True):
        assert ours is not None
        assert ours.dtype == torch.float32
        assert relative(ours, theirs) < 0.01


def test_linear_elsewhere_is_the_layer() -> None:
    layer, x = nn.Linear(3, 4), torch.randn(5, 3)
    assert torch.equal(linear(x, layer), layer(x))


def test_rounded_rows() -> None:
    x = torch.ones(5, 2)
    assert pad_rows(x, torch.float32, 5) is x
    full = pad_rows(x, torch.bfloat16, 4)
    assert full.sum(1).tolist() == [2.0] * 5 + [0.0] * 3
    assert pad_rows(x[:0], torch.float32, 4).shape == (0, 2)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention(causal: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    parts = [torch.randn(2, 3, 5, 4, dtype=dtype, requires_grad=True) for _ in range(3)]
    mask = None if causal else torch.tensor([[True] * 5, [True] * 3 + [False] * 2])[:, None, None]
    query, key, value = (part.detach().float().requires_grad_() for part in parts)
    scores = query @ key.transpose(-1, -2) / 2
    visible = torch.ones(5, 5, dtype=torch.bool).tril() if mask is None else mask
    want = torch.softmax(scores.masked_fill(~visible, float("-inf")), -1) @ value
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        got = attend(parts[0], parts[1], parts[2], mask=mask, causal=causal)
    torch.testing.assert_close(got.float(), want, rtol=1e-5, atol=1e-6)
    got.sum().backward()  # type: ignore[no-untyped-call]
    want.sum().backward()  # type: ignore[no-untyped-call]
    for ours, theirs in zip(parts, (query, key, value), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad.float(), theirs.grad, rtol=2e-2, atol=2e-2)
    with torch.no_grad():
        same = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=mask, is_causal=causal)
        assert torch.equal(attend(parts[0], parts[1], parts[2], mask=mask, causal=causal), same)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    layer = Dropout(p)
    x = torch.ones(333, 301, dtype=dtype, requires_grad=True)
    y = layer(x)
    dropped = y.eq(0)
    assert dropped.float().mean().item() == pytest.approx(p, abs=0.01)
    assert y[~dropped].unique().numel() == 1
    torch.testing.assert_close(y[~dropped][0].float(), torch.tensor(1 / (1 - p)), rtol=1e-2, atol=0)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad.ne(0), ~dropped)  # the same features pass a gradient
    # Rows and columns are independent: no pattern in the bits.
    for axis in (0, 1):
        assert dropped.float().mean(axis).std().item() < 2 * (p * (1 - p) / 300) ** 0.5


def test_dropout_onto_a_residual() -> None:
    layer = Dropout(0.4)
    x, onto = torch.randn(40, 30, requires_grad=True), torch.randn(40, 30, requires_grad=True)
    torch.manual_seed(4)
    alone = layer(x)
    torch.manual_seed(4)
    both = layer(x, onto=onto)
    torch.testing.assert_close(both, onto + alone)
    slope = torch.randn(40, 30)
    want = torch.autograd.grad(alone, x, slope)
    got = torch.autograd.grad(both, (x, onto), slope)
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], slope)
    assert torch.equal(layer.eval()(x, onto=onto), onto + x)


def test_dropout_follows_torchs_seed() -> None:
    layer, x = Dropout(0.3), torch.ones(50, 50)
    torch.manual_seed(4)
    first, second = layer(x), layer(x)
    torch.manual_seed(4)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)


def test_dropout_does_nothing_in_evaluation() -> None:
    x = torch.ones(5)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x

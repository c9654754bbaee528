"""Dropout on CPUs: what is drawn, and that both passes draw the same."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seqkd.kernels import dropout
from seqkd.models.functional import Dropout
from tests.properties import examples
from tests.unit.kernels.support import NATIVE, OTHERS, Target, harness

pytestmark = pytest.mark.skipif(dropout.kernels() is None, reason="needs a C++ compiler")
SOURCE = f'#include "{Path(dropout.__file__).parent / "cpp" / "training" / "dropout.cpp"}"\n'


def kept(count: int, steps: int, seed: int) -> Tensor:
    return dropout.drop(torch.ones(count), None, steps, seed) > 0


@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    width=st.sampled_from([1, 8, 31, 32, 33, 64]),
    p=st.sampled_from([0.1, 0.5, 0.9]),
    added=st.booleans(),
    turned=st.booleans(),
    seed=st.integers(0, 99),
)
@examples(60)
def test_what_stays_is_scaled_up_and_so_is_its_gradient(
    shape: list[int], width: int, p: float, added: bool, turned: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    x = torch.randn(width, *shape).transpose(0, -1) if turned else torch.randn(*shape, width)
    x.requires_grad_()
    onto = torch.randn(x.shape, requires_grad=True) if added else None
    slope = torch.randn(x.shape)
    state = torch.get_rng_state()
    out = Dropout(p)(x, onto)
    result = out if onto is None else (out - onto).detach()
    stays = (result != 0.0).detach()
    expected = x.detach() * stays / (1 - round(p * 65536) / 65536)
    torch.testing.assert_close(result, expected)
    grads = torch.autograd.grad((out * slope).sum(), [x] if onto is None else [x, onto])
    torch.testing.assert_close(grads[0], slope * stays / (1 - round(p * 65536) / 65536))
    if onto is not None:
        assert torch.equal(grads[1], slope)
    torch.set_rng_state(state)
    assert torch.equal(Dropout(p)(x, onto), out)  # by torch's seed
    assert torch.equal(Dropout(p).eval()(x), x)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
def test_the_share_that_is_dropped_is_that_of_chance(p: float) -> None:
    steps, count = round(p * dropout.STEPS), 1 << 20
    masks = torch.stack([kept(count, steps, 17 + (number << 31)) for number in range(4)] + [kept(count, steps, 18)])
    shares = 1 - masks.double().mean(1)
    assert float((shares - p).abs().max()) < 5 * (p * (1 - p) / count) ** 0.5
    # Neighbours, both halves of a word, and the same place under other seeds have nothing to do with each other.
    centred = masks.double() - masks.double().mean(1, keepdim=True)
    for apart in (1, 2, 8, 16, 32, 256):
        together = (centred[:, apart:] * centred[:, :-apart]).mean(1)
        assert float(together.abs().max()) < 5 * p * (1 - p) / count**0.5
    across = centred @ centred.T / count
    assert float((across - across.diag().diag()).abs().max()) < 5 * p * (1 - p) / count**0.5


def test_every_place_is_dropped_as_often_as_others() -> None:
    times = sum((~kept(4096, 6554, seed)).double() for seed in range(0, 2000 << 20, 1 << 20))
    assert isinstance(times, Tensor)
    # Chance has a variance of p (1 - p) times the seeds; 4,096 places, so five sigma is never reached.
    assert float((times / 2000 - 0.1).abs().max()) < 5 * (0.09 / 2000) ** 0.5


def test_how_many_threads_work_does_not_matter() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = kept(100_003, 20_000, 5)
        torch.set_num_threads(3)
        assert torch.equal(kept(100_003, 20_000, 5), alone)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("target", [NATIVE, *OTHERS], ids=lambda target: target.name)
def test_every_processor_drops_the_same(target: Target, tmp_path: Path) -> None:
    library = harness(tmp_path, SOURCE, target)
    x, onto, out = torch.randn(1_003), torch.randn(1_003), torch.empty(1_003)
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (x, onto, out)]
    numbers = (ctypes.c_int64(len(x)), ctypes.c_uint32(30_000), ctypes.c_float(1 / (1 - 30_000 / 65_536)))
    library.seqkd_dropout(*pointers[:2], *numbers, ctypes.c_uint64(1 << 40 | 7), 1, pointers[2])
    torch.testing.assert_close(out, dropout.drop(x, onto, 30_000, 1 << 40 | 7), rtol=1e-6, atol=1e-6)


def test_what_the_kernel_does_not_serve_goes_on_in_torch() -> None:
    x = torch.ones(10_000, dtype=torch.float64)
    assert not dropout.can_drop(x)
    assert not dropout.can_drop(x.float(), library=lambda: None)
    out = Dropout(0.25)(x, onto=x)
    assert out.dtype == torch.float64
    assert out.unique().tolist() == pytest.approx([1.0, 1 + 4 / 3])
    assert 0.2 < float((out == 1.0).double().mean()) < 0.3

"""The kernels' products alone, compiled by themselves, against exact references."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from seqkd.kernels import decoding as build
from seqkd.search.cpu.weights import ARITHMETIC, Arithmetic
from tests.unit.kernels.support import NATIVE, OTHERS, Target, harness

HARNESS = """
#include "gemm.h"
extern "C" void run(int arithmetic, int together, int finish, const float* a, const float* w, const float* bias,
                    float* c, int m, int n, int k) {
#if defined(__AMX_BF16__)
  static const TileConfig config;
  if (arithmetic != FLOAT32) _tile_loadconfig(&config);
#endif
  Weight weight;
  weight.together = ShortSums(together);
  weight.pack(w, bias, n, k, Arithmetic(arithmetic));
  Operand operand;
  operand.set(Arithmetic(arithmetic), a, m, k);
  multiply_panels(operand, weight, c, Finish(finish), 0, weight.panels);
#if defined(__AMX_BF16__)
  if (arithmetic != FLOAT32) _tile_release();
#endif
}
"""
FINISH = {"plain": 0, "relu": 1, "gelu": 2, "add": 3}


class Kernel(NamedTuple):
    """Products in an arithmetic, compiled for a processor; those of int8 are added in 16 bits, `together` of them."""

    target: Target
    arithmetic: Arithmetic
    together: int = 4


Multiply = Callable[[Kernel, str, Tensor, Tensor, Tensor, Tensor], Tensor]

pytestmark = pytest.mark.skipif(build.kernels() is None, reason="no C++ compiler here")
INT8 = [
    Kernel(target, "int8", together)
    for target in [NATIVE, *OTHERS]
    if "int8" in target.arithmetics
    for together in (2, 4)
]
KERNELS = [Kernel(target, name) for target in [NATIVE, *OTHERS] for name in target.arithmetics if name != "int8"] + INT8


def named(kernel: Kernel) -> str:
    return f"{kernel.target.name} {kernel.arithmetic}" + f" by {kernel.together}" * (kernel.arithmetic == "int8")


@pytest.fixture(scope="module")
def multiply(tmp_path_factory: pytest.TempPathFactory) -> Multiply:
    """finish(A * W^T + bias), started from what `onto` holds."""

    @functools.cache
    def library(target: Target) -> ctypes.CDLL:
        return harness(tmp_path_factory.mktemp("gemm"), HARNESS, target)

    def run(kernel: Kernel, finish: str, a: Tensor, w: Tensor, bias: Tensor, onto: Tensor) -> Tensor:
        out = onto.clone()
        tensors = [ctypes.c_void_p(tensor.contiguous().data_ptr()) for tensor in (a, w, bias, out)]
        library(kernel.target).run(
            ARITHMETIC[kernel.arithmetic], kernel.together, FINISH[finish], *tensors, len(a), len(w), a.size(1)
        )
        return out

    return run


def drawn(m: int, n: int, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(m + n + k)
    a, w = torch.randn(m, k, generator=draw), torch.randn(n, k, generator=draw)
    # Rows of very different sizes: each has a scale of its own.
    a *= torch.logspace(-3, 3, m)[:, None]
    w *= torch.logspace(2, -2, n)[:, None]
    return a, w, torch.randn(n, generator=draw), torch.randn(m, n, generator=draw)


def finished(finish: str, x: Tensor, onto: Tensor) -> Tensor:
    if finish == "add":
        return x + onto
    return {"plain": x, "relu": x.relu(), "gelu": torch.nn.functional.gelu(x)}[finish]


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """Integers `[rows, inputs]` and the scale of each row, `[rows]`: its largest magnitude becomes 127."""
    peak = x.abs().amax(dim=1)
    to = torch.where(peak > 0, torch.full_like(peak, 127.0) / peak, 0.0)  # `127.0 / peak` would round twice
    return (x * to[:, None]).round().long(), peak / 127.0


def quantised_weights(w: Tensor, together: int) -> tuple[Tensor, Tensor]:
    """The same, but of a row's weights that are added in 16 bits none of one sign may come to more than 128."""
    plain, back = quantised(w)
    eights = w.view(len(w), -1, 2, 2, 2)  # fours of two pairs of inputs
    numbers = [eights[:, :, four, :, one] for four in range(2) for one in range(2)]
    groups = [numbers] if together == 4 else [numbers[:2], numbers[2:]]
    tops = []
    for group in groups:
        for sign in (1.0, -1.0):
            total = torch.zeros_like(group[0])
            for number in group:  # in this order: floats
                total = total + (sign * number).clamp(min=0.0)
            tops.append(total.flatten(1).amax(1))
    top = torch.stack(tops).amax(0)
    room = torch.full_like(top, 128.0 - together / 2)  # the rest is for rounding
    less = room < top * (torch.full_like(top, 127.0) / w.abs().amax(1))
    return torch.where(less[:, None], (w * (room / top)[:, None]).round().long(), plain), torch.where(
        less, top / room, back
    )


def exactly(a: Tensor, w: Tensor, kernel: Kernel) -> Tensor:
    (left, rows), (right, columns) = quantised(a), quantised_weights(w, kernel.together)
    return (left @ right.T).double() * rows[:, None].double() * columns.double()


@pytest.mark.parametrize("kernel", INT8, ids=named)
@pytest.mark.parametrize("finish", FINISH)
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 16, 16), (32, 32, 64), (33, 48, 80), (70, 96, 192), (40, 64, 1024), (5, 32, 4096)]
)
def test_int8_products_are_those_of_the_integers(
    multiply: Multiply, kernel: Kernel, finish: str, m: int, n: int, k: int
) -> None:
    a, w, bias, onto = drawn(m, n, k)
    expected = finished(finish, exactly(a, w, kernel) + bias, onto)
    found = multiply(kernel, finish, a, w, bias, onto)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernel", INT8, ids=named)
def test_int8_products_of_the_largest_numbers_are_exact(multiply: Multiply, kernel: Kernel) -> None:
    draw = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (32, 64), generator=draw) * 2.0 - 1.0
    signs[0], signs[1] = 1.0, -1.0
    signs[2] = signs[2, 0::8].repeat_interleave(8)  # what is added together has one sign
    sizes = torch.rand(32, 64, generator=draw) ** 0.2
    a = torch.cat((torch.ones(1, 64), -torch.ones(1, 64), signs[:14]))
    for w in (signs, signs * sizes, signs * (sizes > 0.8)):
        found = multiply(kernel, "plain", a, w, torch.zeros(32), torch.zeros(16, 32))
        torch.testing.assert_close(found.double(), exactly(a, w, kernel), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernel", INT8, ids=named)
def test_int8_rows_of_zeros_and_of_tiny_numbers_give_the_bias(multiply: Multiply, kernel: Kernel) -> None:
    a, w, bias, onto = drawn(4, 32, 64)
    a[1], a[2], w[7] = 0.0, 1e-39, 0.0
    found = multiply(kernel, "plain", a, w, bias, onto)
    assert torch.equal(found[1], bias)
    assert torch.equal(found[2], bias)
    assert torch.equal(found[:, 7], bias[7].expand(4))


@pytest.mark.parametrize("kernel", KERNELS, ids=named)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so_and_spoils_nothing_else(multiply: Multiply, kernel: Kernel, value: float) -> None:
    a, w, bias, onto = drawn(40, 48, 64)
    clean = multiply(kernel, "plain", a, w, bias, onto)
    a[5, 60] = value
    found = multiply(kernel, "plain", a, w, bias, onto)
    assert not found[5].isfinite().any()
    others = [row for row in range(40) if row != 5]
    assert torch.equal(found[others], clean[others])
    a[5, 60], w[20, 3] = 1.0, value
    assert not multiply(kernel, "plain", a, w, bias, onto)[:, 20].isfinite().any()


# The largest error, relative to the lengths of the two rows.
@pytest.mark.parametrize("finish", FINISH)
@pytest.mark.parametrize("kernel", KERNELS, ids=named)
def test_products_are_near_those_of_float64(multiply: Multiply, kernel: Kernel, finish: str) -> None:
    a, w, bias, onto = drawn(70, 96, 192)
    plain = a.double() @ w.double().T + bias
    bound = {"float32": 1e-6, "bf16x3": 1e-5, "bf16": 2e-3, "int8": 5e-3}[kernel.arithmetic]
    size = a.norm(dim=1)[:, None] * w.norm(dim=1) + bias.abs() + onto.abs()
    error = (multiply(kernel, finish, a, w, bias, onto) - finished(finish, plain, onto)).abs() / size
    assert float(error.max()) < bound


@pytest.mark.parametrize("kernel", KERNELS, ids=named)
def test_a_row_is_the_same_in_every_bit_whatever_stands_beside_it(multiply: Multiply, kernel: Kernel) -> None:
    a, w, bias, onto = drawn(70, 48, 80)
    together = multiply(kernel, "add", a, w, bias, onto)
    for row in (0, 17, 31, 32, 69):
        alone = multiply(kernel, "add", a[row : row + 1], w, bias, onto[row : row + 1])
        assert torch.equal(alone[0], together[row])
    for rows in range(2, 34):  # they are taken in groups of near the same size
        assert torch.equal(multiply(kernel, "add", a[:rows], w, bias, onto[:rows]), together[:rows])

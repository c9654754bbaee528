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
from tests.unit.kernels.support import NATIVE, OTHERS, Target, harness, rounding
from tests.unit.search.cpu.rounded import UNIT, added_in_16_bits, to_bf16

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
// int8 weights as they lie, and the scale of each output.
extern "C" void pack(int together, const float* w, int n, int k, int8_t* bytes, float* scales) {
  Weight weight;
  weight.together = ShortSums(together);
  weight.pack(w, nullptr, n, k, INT8);
  memcpy(bytes, weight.bytes.data, size_t(weight.panels) * weight.depth * BLOCK);
  memcpy(scales, weight.scales.data(), weight.scales.size() * sizeof(float));
}
"""
FINISH = {"plain": 0, "relu": 1, "gelu": 2, "add": 3}


class Kernel(NamedTuple):
    """Products in an arithmetic, compiled for a processor; those of int8 are added in 16 bits, `together` of them."""

    target: Target
    arithmetic: Arithmetic
    together: int = 4


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


Library = Callable[[Target], ctypes.CDLL]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    @functools.cache
    def built(target: Target) -> ctypes.CDLL:
        return harness(tmp_path_factory.mktemp("gemm"), HARNESS, target)

    return built


Multiply = Callable[[Kernel, str, Tensor, Tensor, Tensor, Tensor], Tensor]


@pytest.fixture(scope="module")
def multiply(library: Library) -> Multiply:
    """finish(A * W^T + bias), started from what `onto` holds."""

    def run(kernel: Kernel, finish: str, a: Tensor, w: Tensor, bias: Tensor, onto: Tensor) -> Tensor:
        out = onto.clone()
        tensors = [ctypes.c_void_p(tensor.contiguous().data_ptr()) for tensor in (a, w, bias, out)]
        library(kernel.target).run(
            ARITHMETIC[kernel.arithmetic], kernel.together, FINISH[finish], *tensors, len(a), len(w), a.size(1)
        )
        return out

    return run


class Packed(NamedTuple):
    """int8 weights.

    Attributes:
        lie: `[panels, depth / 64, 2, 16, 16, 4]` int64 as they lie: sixteen fours of inputs of sixteen outputs.
        scales: `[outputs]` float64.
    """

    lie: Tensor
    scales: Tensor

    def whole(self, outputs: int, inputs: int) -> Tensor:
        """`[outputs, inputs]` int64."""
        panels, steps = self.lie.shape[:2]
        return self.lie.permute(0, 2, 4, 1, 3, 5).reshape(panels * 32, steps * 64)[:outputs, :inputs]


Pack = Callable[[Kernel, Tensor], Packed]


@pytest.fixture(scope="module")
def pack(library: Library) -> Pack:
    def run(kernel: Kernel, w: Tensor) -> Packed:
        outputs, inputs = w.shape
        panels, steps = -(-outputs // 32), -(-inputs // 64)
        lie = torch.empty(panels, steps, 2, 16, 16, 4, dtype=torch.int8)
        scales, w = torch.empty(panels * 32), w.contiguous()
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (w, lie, scales)]
        library(kernel.target).pack(kernel.together, pointers[0], outputs, inputs, *pointers[1:])
        return Packed(lie.long(), scales[:outputs].double())

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


def weights(count: int = 64, inputs: int = 192) -> Tensor:
    """Rows whose 16-bit sums are far from too large, near it, or the largest that there are."""
    draw = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (count, inputs), generator=draw) * 2.0 - 1.0
    sizes = torch.rand(count, inputs, generator=draw)
    alike = signs[:, ::8].repeat_interleave(8, dim=1)  # what is added together has one sign
    peaks = signs * 1e-3
    peaks[:, 5] = 1.0  # one weight alone is the limit
    rows = [signs, alike, signs * sizes, alike * sizes**0.2, alike * (sizes > 0.8), signs * sizes**4, peaks]
    return torch.cat([*rows, torch.randn(count, inputs, generator=draw), torch.zeros(1, inputs)])


@pytest.mark.parametrize("kernel", INT8, ids=named)
def test_int8_sums_that_avx2_adds_in_16_bits_fit_them_whatever_they_are_multiplied_with(
    pack: Pack, kernel: Kernel
) -> None:
    lie = pack(kernel, weights()).lie
    pairs = lie.view(*lie.shape[:-1], 2, 2)  # of bytes that lie side by side, which one instruction multiplies and adds
    if kernel.together == 4:  # and those of the next four are added to them
        pairs = torch.cat((pairs[:, :, :, ::2], pairs[:, :, :, 1::2]), dim=-1)
    for sign in (1, -1):
        largest = 255 * (sign * pairs).clamp_min(0).sum(-1).amax()
        assert largest < 2**15  # the activations are bytes without a sign
        assert largest > 0.98 * 2**15


@pytest.mark.parametrize("kernel", INT8, ids=named)
def test_int8_weights_are_the_nearest_steps_of_the_finest_scale_that_fits(pack: Pack, kernel: Kernel) -> None:
    w = weights()
    packed, exact = pack(kernel, w), w.double()
    error = (packed.whole(*w.shape) * packed.scales[:, None] - exact).abs()
    assert (error <= (0.5 + 1e-4) * packed.scales[:, None]).all()
    # A weight has all of its 127 steps, or a sum all of its 128, of which rounding may take half a step a weight.
    signed = torch.cat((exact, -exact), dim=1).clamp_min(0)
    sums = added_in_16_bits(signed, kernel.together).sum(-1).amax(1)
    finest = torch.maximum(exact.abs().amax(1) / 127, sums / (128 - kernel.together / 2))
    torch.testing.assert_close(packed.scales, finest, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kernel", INT8, ids=named)
def test_int8_activations_are_the_nearest_of_255_steps(multiply: Multiply, kernel: Kernel) -> None:
    a, zeros = drawn(40, 64, 64)[0], torch.zeros(64)
    found = multiply(kernel, "plain", a, torch.eye(64), zeros, torch.zeros(40, 64)).double()
    steps = a.double().abs().amax(1, keepdim=True) / 127
    torch.testing.assert_close(found / steps, (found / steps).round(), rtol=0, atol=1e-4)
    assert ((found - a) / steps).abs().max() < 0.5 + 1e-4


@pytest.mark.parametrize("kernel", INT8, ids=named)
@pytest.mark.parametrize("finish", FINISH)
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 16, 16), (32, 32, 64), (33, 48, 80), (70, 96, 192), (40, 64, 1024), (5, 32, 4096)]
)
def test_int8_products_are_those_of_the_integers(
    multiply: Multiply, pack: Pack, kernel: Kernel, finish: str, m: int, n: int, k: int
) -> None:
    _, w, bias, onto = drawn(m, n, k)
    draw = torch.Generator().manual_seed(k)
    a = torch.randint(-127, 128, (m, k), generator=draw)
    a[:, -1], a[0] = 127, 127  # so that the scale of a row is a power of two, and rounds nothing
    scales = 2.0 ** torch.arange(m).remainder(20).sub(10)[:, None]
    packed = pack(kernel, w)
    sums = (a @ packed.whole(n, k).T) * packed.scales * scales.double()
    found = multiply(kernel, finish, a * scales, w, bias, onto)
    torch.testing.assert_close(found.double(), finished(finish, sums + bias, onto), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernel", INT8, ids=named)
def test_int8_products_of_the_largest_numbers_are_exact(multiply: Multiply, pack: Pack, kernel: Kernel) -> None:
    w = weights()[:-1]  # outputs are a multiple of 16
    packed = pack(kernel, w)
    integers = packed.whole(*w.shape)
    a = torch.cat((torch.full((1, w.size(1)), 127), torch.full((1, w.size(1)), -127), 127 * integers[:70].sign()))
    a[:, -1] = 127
    found = multiply(kernel, "plain", a.float(), w, torch.zeros(len(w)), torch.zeros(len(a), len(w)))
    torch.testing.assert_close(found.double(), (a @ integers.T) * packed.scales, rtol=1e-6, atol=1e-9)


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


@pytest.mark.parametrize("finish", FINISH)
@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel.arithmetic != "int8"], ids=named)
def test_products_are_those_of_the_rounded_numbers(multiply: Multiply, kernel: Kernel, finish: str) -> None:
    a, w, bias, onto = drawn(70, 96, 192)
    rounds = rounding(kernel.arithmetic, kernel.target)
    left = to_bf16(a) if kernel.arithmetic == "bf16" and rounds.pairs else a
    left, right = left.double(), rounds.weight(w)
    # A sum of so many numbers in float32 is wrong by no more than as many of its units, in whatever order; GELU makes
    # 1.13 times as many of them, and some of its own.
    units = a.size(1) + 8
    if kernel.arithmetic == "bf16x3":
        # Three sums in one; each number is wrong by a unit of bf16's square, and so much is the product of the rests.
        units = 3 * units + 3 * 2**6
    size = left.abs() @ right.abs().T + bias.abs() + onto.abs()
    error = multiply(kernel, finish, a, w, bias, onto) - finished(finish, left @ right.T + bias, onto)
    assert (error.abs() <= 1.13 * units * UNIT * size).all()


@pytest.mark.parametrize("kernel", KERNELS, ids=named)
def test_a_row_is_the_same_in_every_bit_whatever_stands_beside_it(multiply: Multiply, kernel: Kernel) -> None:
    a, w, bias, onto = drawn(70, 48, 80)
    together = multiply(kernel, "add", a, w, bias, onto)
    for row in (0, 17, 31, 32, 69):
        alone = multiply(kernel, "add", a[row : row + 1], w, bias, onto[row : row + 1])
        assert torch.equal(alone[0], together[row])
    for rows in range(2, 34):  # they are taken in groups of near the same size
        assert torch.equal(multiply(kernel, "add", a[:rows], w, bias, onto[:rows]), together[:rows])

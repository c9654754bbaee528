"""What each processor's vectors do in their own way, against exact references."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from numpy.typing import NDArray

from seqkd.kernels import decoding as build
from tests.unit.kernels.support import NATIVE, OTHERS, harness

HARNESS = """
#include "../vector.h"
extern "C" {
int lanes() { return LANES; }
void exponentials(const float* x, int count, float* out) {
  for (int i = 0; i < count; i += LANES) store(out + i, vexp(load(x + i)));
}
void folded(const float* x, float* out) {
  vf rows[LANES];
  for (int i = 0; i < LANES; ++i) {
    rows[i] = load(x + i * LANES);
    out[i] = sum(rows[i]), out[LANES + i] = largest(rows[i]);
  }
  store(out + 2 * LANES, sums(rows));
}
void turned(const float* x, float* out) {
  vf rows[LANES];
  for (int i = 0; i < LANES; ++i) rows[i] = load(x + i * LANES);
  transpose(rows);
  for (int i = 0; i < LANES; ++i) store(out + i * LANES, rows[i]);
}
void moved(const float* before, const float* x, float* out) { store(out, moved_up(load(before), load(x))); }
unsigned lanes_above(const float* x, const float* y) { return above(load(x), load(y)); }
void narrowed(const float* x, int count, uint16_t* to, float* back) {
  for (int i = 0; i < count; i += LANES) store(to + i, load(x + i)), store(back + i, load(to + i));
}
}
"""
Floats = NDArray[np.float32]

pytestmark = pytest.mark.skipif(build.kernels() is None, reason="no C++ compiler here")


# The others' vectors are those of one of these.
TARGETS = [NATIVE, *(target for target in OTHERS if target.name.split()[0] in ("any", "avx2", "avx512", "bf16"))]


@pytest.fixture(scope="module", params=TARGETS, ids=lambda target: target.name)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return harness(tmp_path_factory.mktemp("vector"), HARNESS, request.param)


def at(x: NDArray[np.float32] | NDArray[np.uint16]) -> ctypes.c_void_p:
    assert x.flags.c_contiguous
    return ctypes.c_void_p(x.ctypes.data)


def drawn(*shape: int) -> Floats:
    return np.random.default_rng(len(shape)).standard_normal(shape, dtype=np.float32)


def test_exponentials_are_near_those_of_float64(kernels: ctypes.CDLL) -> None:
    x = np.linspace(-87, 88, 1 << 16, dtype=np.float32)
    found = np.empty_like(x)
    kernels.exponentials(at(x), x.size, at(found))
    error = np.abs(found / np.exp(x.astype(np.float64)) - 1)
    assert float((error / (np.abs(x) + 2)).max()) < 2.0**-23


def test_exponentials_underflow_to_next_to_nothing_and_keep_what_is_no_number(kernels: ctypes.CDLL) -> None:
    x = np.array([-88, -1000, -3e38, -np.inf, np.nan, 0, 0, 0] * 2, dtype=np.float32)
    found = np.empty_like(x)
    kernels.exponentials(at(x), x.size, at(found))
    assert ((found[:4] >= 0) & (found[:4] < 2e-38)).all()
    assert np.isnan(found[4])
    assert abs(float(found[5]) - 1) < 1e-6


def test_sums_fold_halves_onto_each_other(kernels: ctypes.CDLL) -> None:
    lanes = kernels.lanes()
    x = drawn(lanes, lanes)
    out = np.empty(3 * lanes, dtype=np.float32)
    kernels.folded(at(x), at(out))
    folded = x.copy()
    while folded.shape[1] > 1:
        half = folded.shape[1] // 2
        folded = folded[:, :half] + folded[:, half:]
    assert (out[:lanes] == folded[:, 0]).all()
    assert (out[lanes : 2 * lanes] == x.max(axis=1)).all()
    assert (out[2 * lanes :] == folded[:, 0]).all()


def test_rows_become_columns(kernels: ctypes.CDLL) -> None:
    x = drawn(kernels.lanes(), kernels.lanes())
    out = np.empty_like(x)
    kernels.turned(at(x), at(out))
    assert (out == x.T).all()


def test_lanes_move_up_and_the_last_one_before_comes_in(kernels: ctypes.CDLL) -> None:
    before, x = drawn(2, kernels.lanes())
    out = np.empty_like(x)
    kernels.moved(at(before), at(x), at(out))
    assert (out == np.concatenate((before[-1:], x[:-1]))).all()


def test_lanes_that_are_above_are_bits_and_no_number_is_above(kernels: ctypes.CDLL) -> None:
    x, y = drawn(2, kernels.lanes())
    x[0], y[1], y[2] = np.nan, np.nan, x[2]
    assert kernels.lanes_above(at(x), at(y)) == sum(1 << i for i in range(len(x)) if x[i] > y[i])


def test_bf16_is_the_nearest_and_of_two_the_even_one(kernels: ctypes.CDLL) -> None:
    x = np.array([1, -2.5, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 3e38, -0.0, np.inf], dtype=np.float32)
    x = np.concatenate((x, -x[:7], [np.nan]), dtype=np.float32)
    to, back = np.empty(x.size, dtype=np.uint16), np.empty_like(x)
    kernels.narrowed(at(x), x.size, at(to), at(back))
    expected = [1, -2.5, 1, 1 + 2**-6, 1 + 2**-7, float(np.float32(3e38)), -0.0, np.inf]
    assert back[:5].tolist() == expected[:5]
    assert back[8:13].tolist() == [-y for y in expected[:5]]
    assert abs(float(back[5]) / 3e38 - 1) < 2**-8
    assert back[7] == np.inf
    assert np.isnan(back[15])
    assert (to == back.view(np.uint32) >> 16).all()

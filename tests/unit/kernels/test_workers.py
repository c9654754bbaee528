"""The kernels' threads alone, compiled by themselves: every part is done once, and a turn ends after all its parts."""

from __future__ import annotations

import ctypes

import pytest

from seqkd.kernels import decoding as build
from tests.unit.kernels.support import harness

HARNESS = """
#include "workers.h"
#include <chrono>
#include <thread>
// Rounds of every size; returns how many numbers were not counted as often as they should have been, or too early.
extern "C" long run(int threads, int rounds, int* helpers, int* shared) {
  Workers workers;
  std::atomic<int> came{0};
  workers.start(threads, [&](const std::function<void()>& work) { ++came; work(); });
  // However busy the machine is, a helper comes in the end; a minute says that none does.
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  long wrong = 0;
  *shared = 0;
  for (int round = 0; round < rounds; ++round) {
    const int total = 1 + round * 7 % 90, unit = 1 + round % 40, width = 1 + round * 13 % 500, turns = round % 4;
    std::vector<int> rows(total), columns(width);
    workers.run(total, unit, round % 3 ? 1ll << 40 : 0, [&](int first, int count) {
      if (first % unit) ++columns[0];
      for (int i = first; i < first + count; ++i) ++rows[i];
      if (!workers.shares()) return;
      ++*shared;
      while (!came && std::chrono::steady_clock::now() < end) std::this_thread::yield();
      for (int turn = 1; turn <= turns; ++turn) {
        workers.share(width, [&](int from, int some) {
          if (turn == 2) std::this_thread::yield();
          for (int i = from; i < from + some; ++i) ++columns[i];
        });
        for (int column : columns) wrong += column != turn;
      }
    });
    for (int row : rows) wrong += row != 1;
    for (int column : columns) wrong += column != 0 && column != turns;
  }
  *helpers = came;
  return wrong;
}
"""

pytestmark = pytest.mark.skipif(build.kernels() is None, reason="no C++ compiler here")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    found = harness(tmp_path_factory.mktemp("workers"), HARNESS)
    found.run.restype = ctypes.c_long
    return found


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_every_part_is_done_once_and_a_turn_ends_after_all_of_its_own(library: ctypes.CDLL, threads: int) -> None:
    helpers, shared = ctypes.c_int(), ctypes.c_int()
    assert library.run(threads, 3000, ctypes.byref(helpers), ctypes.byref(shared)) == 0
    assert (shared.value > 0) == (threads > 1)
    assert (helpers.value > 0) == (threads > 1)

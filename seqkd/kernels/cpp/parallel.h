// Divides work among torch's own threads, through the OpenMP library that torch has loaded: a second thread pool would compete
// for the cores.
#pragma once
#include <algorithm>
#include <functional>

extern "C" {
__attribute__((weak)) void GOMP_parallel(void (*)(void*), void*, unsigned, unsigned);
__attribute__((weak)) int omp_get_thread_num();
__attribute__((weak)) int omp_get_num_threads();
}

using Work = std::function<void(int part, int parts)>;

static void part_of(void* work) { (*static_cast<const Work*>(work))(omp_get_thread_num(), omp_get_num_threads()); }

static void parallel(int threads, const Work& work) {
  if (threads > 1 && GOMP_parallel && omp_get_thread_num && omp_get_num_threads)
    return GOMP_parallel(part_of, const_cast<Work*>(&work), unsigned(threads), 0);
  work(0, 1);
}

static inline int blocks_of(int n, int unit) { return (n + unit - 1) / unit; }

struct Range {
  int first, last;
  // The share of this part in `count` items, in whole units.
  Range(int count, int part, int parts, int unit = 1) {
    const int units = blocks_of(count, unit);
    first = std::min(count, int(long(units) * part / parts) * unit);
    last = std::min(count, int(long(units) * (part + 1) / parts) * unit);
  }
};

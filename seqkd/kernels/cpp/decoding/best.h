// The largest values of a stream, row by row.
#pragma once
#include <algorithm>
#include <limits>

#include "operands.h"

constexpr float NEVER = -std::numeric_limits<float>::infinity();

// The largest `count` values of each row, best first. Equal values keep the order of their ids, because ids arrive in
// ascending order. A row is kept in whole vectors; entries beyond `count` are meaningless.
struct Best {
  int count = 0, vectors = 0;
  Buffer<float> values;  // [rows][vectors * LANES]
  Buffer<int32_t> ids;

  void start(int rows, int wanted) {
    count = wanted, vectors = round_up(count, LANES) / LANES;
    std::fill_n(values.need(size_t(rows) * vectors * LANES), size_t(rows) * vectors * LANES, NEVER);
    std::fill_n(ids.need(size_t(rows) * vectors * LANES), size_t(rows) * vectors * LANES, 0);
  }
  float* of(int row) { return values.data + size_t(row) * vectors * LANES; }
  int32_t* ids_of(int row) { return ids.data + size_t(row) * vectors * LANES; }
  // The threshold that a value must exceed to be inserted.
  float bar(int row) { return of(row)[count - 1]; }

  // Inserts the values of x whose bits are set in `marks`, in order. A word of `marks` has 64 columns; column 0 has the id
  // `offset`.
  void insert(int row, const float* x, const uint64_t* marks, int words, int offset) {
    switch (vectors) {
      case 1: return insert_all<1>(row, x, marks, words, offset);
      case 2: return insert_all<2>(row, x, marks, words, offset);
      case 3: return insert_all<3>(row, x, marks, words, offset);
      case 4: return insert_all<4>(row, x, marks, words, offset);
    }
    for (int word = 0; word < words; ++word)
      for (uint64_t mask = marks[word]; mask; mask &= mask - 1) {
        const int i = word * 64 + __builtin_ctzll(mask);
        insert(row, x[i], offset + i);
      }
  }

 private:
  // `V` vectors stay in registers: storing them between values would take longer than everything else.
  template <int V>
  void insert_all(int row, const float* x, const uint64_t* marks, int words, int offset) {
    vf v[V];
    vi at[V];
    for (int j = 0; j < V; ++j) v[j] = load(of(row) + j * LANES), at[j] = load_ids(ids_of(row) + j * LANES);
    for (int word = 0; word < words; ++word)
      for (uint64_t mask = marks[word]; mask; mask &= mask - 1) {
        const int i = word * 64 + __builtin_ctzll(mask);
        const vf value = splat(x[i]);
        const vi id = splat_id(offset + i);
#pragma GCC unroll 4
        for (int j = V - 1; j >= 0; --j) shift_in(v[j], at[j], j ? v[j - 1] : value, j ? at[j - 1] : id, value, id);
      }
    for (int j = 0; j < V; ++j) store(of(row) + j * LANES, v[j]), store_ids(ids_of(row) + j * LANES, at[j]);
  }

  void insert(int row, float value, int id) {
    float* v = of(row);
    int32_t* at = ids_of(row);
    const vf x = splat(value);
    const vi own = splat_id(id);
    vf here = load(v + (vectors - 1) * LANES);
    vi here_ids = load_ids(at + (vectors - 1) * LANES);
    for (int j = vectors - 1; j >= 0; --j) {
      const vf before = j ? load(v + (j - 1) * LANES) : x;
      const vi before_ids = j ? load_ids(at + (j - 1) * LANES) : own;
      shift_in(here, here_ids, before, before_ids, x, own);
      store(v + j * LANES, here), store_ids(at + j * LANES, here_ids);
      here = before, here_ids = before_ids;
    }
  }

  // Lanes whose value is below x take the value of the lane before, and the first of them takes x. Branches would often be
  // mispredicted.
  static void shift_in(vf& v, vi& at, vf before, vi before_ids, vf x, vi id) {
    const vf moved = moved_up(before, v);
    const vi moved_ids = (vi)moved_up((vf)before_ids, (vf)at);
#if defined(__AVX512F__)
    const __mmask16 later = _mm512_cmp_ps_mask((__m512)v, (__m512)x, _CMP_LT_OQ);
    const __mmask16 first = later & ~_mm512_cmp_ps_mask((__m512)moved, (__m512)x, _CMP_LT_OQ);
    v = (vf)_mm512_mask_mov_ps(_mm512_mask_mov_ps((__m512)v, later, (__m512)moved), first, (__m512)x);
    at = (vi)_mm512_mask_mov_epi32(_mm512_mask_mov_epi32((__m512i)at, later, (__m512i)moved_ids), first, (__m512i)id);
#else
    const vi later = v < x, not_first = moved < x;
    v = later ? (not_first ? moved : x) : v;
    at = later ? (not_first ? moved_ids : id) : at;
#endif
  }

  static vi load_ids(const int32_t* p) {
    vi x;
    memcpy(&x, p, sizeof x);
    return x;
  }
  static void store_ids(int32_t* p, vi x) { memcpy(p, &x, sizeof x); }
  static vi splat_id(int32_t x) { return vi{} + x; }
};

// The best few of what streams by, row by row.
#pragma once
#include <algorithm>
#include <limits>

#include "operands.h"

constexpr float NEVER = -std::numeric_limits<float>::infinity();

// The largest `count` values of each row, best first; equal values keep the order of their ids, because ids come
// ascending. A row's are kept in vectors; those beyond `count` are there too, and of no meaning.
struct Best {
  int count = 0, vectors = 0;
  Buffer<float> values;  // [rows][vectors * 16]
  Buffer<int32_t> ids;

  void start(int rows, int wanted) {
    count = wanted, vectors = round_up(count, LANES) / LANES;
    std::fill_n(values.need(size_t(rows) * vectors * LANES), size_t(rows) * vectors * LANES, NEVER);
    std::fill_n(ids.need(size_t(rows) * vectors * LANES), size_t(rows) * vectors * LANES, 0);
  }
  float* of(int row) { return values.data + size_t(row) * vectors * LANES; }
  int32_t* ids_of(int row) { return ids.data + size_t(row) * vectors * LANES; }
  // What a value must be above to come in.
  float bar(int row) { return of(row)[count - 1]; }

  // Those of x whose bits are set in `marks`, 64 columns a word, in order; column 0 has the id `offset`.
  void insert(int row, const float* x, const uint64_t* marks, int words, int offset) {
#if defined(__AVX512F__)
    switch (vectors) {
      case 1: return insert_all<1>(row, x, marks, words, offset);
      case 2: return insert_all<2>(row, x, marks, words, offset);
      case 3: return insert_all<3>(row, x, marks, words, offset);
      case 4: return insert_all<4>(row, x, marks, words, offset);
    }
#endif
    for (int word = 0; word < words; ++word)
      for (uint64_t mask = marks[word]; mask; mask &= mask - 1) {
        const int i = word * 64 + __builtin_ctzll(mask);
        insert(row, x[i], offset + i);
      }
  }

 private:
#if defined(__AVX512F__)
  // `V` vectors stay in registers: from one value to the next, memory would be slower than all the rest.
  template <int V>
  void insert_all(int row, const float* x, const uint64_t* marks, int words, int offset) {
    __m512 v[V];
    __m512i at[V];
    for (int j = 0; j < V; ++j) {
      v[j] = _mm512_loadu_ps(of(row) + j * LANES);
      at[j] = _mm512_loadu_si512(ids_of(row) + j * LANES);
    }
    for (int word = 0; word < words; ++word)
      for (uint64_t mask = marks[word]; mask; mask &= mask - 1) {
        const int i = word * 64 + __builtin_ctzll(mask);
        const __m512 value = _mm512_set1_ps(x[i]);
        const __m512i id = _mm512_set1_epi32(offset + i);
        __mmask16 later[V];
        for (int j = 0; j < V; ++j) later[j] = _mm512_cmp_ps_mask(v[j], value, _CMP_LT_OQ);
#pragma GCC unroll 4
        for (int j = V - 1; j >= 0; --j) {  // moved up by a lane from where the value belongs; it comes in from below
          const __m512i before = _mm512_castps_si512(j ? v[j - 1] : value), here = _mm512_castps_si512(v[j]);
          const __m512i moved = _mm512_alignr_epi32(here, before, 15);
          const __m512i moved_ids = _mm512_alignr_epi32(at[j], j ? at[j - 1] : id, 15);
          const unsigned lead = j ? later[j - 1] >> 15 : 0;
          const __mmask16 place = later[j] & ~(__mmask16)((later[j] << 1) | lead);
          v[j] = _mm512_mask_mov_ps(_mm512_mask_mov_ps(v[j], later[j], _mm512_castsi512_ps(moved)), place, value);
          at[j] = _mm512_mask_mov_epi32(_mm512_mask_mov_epi32(at[j], later[j], moved_ids), place, id);
        }
      }
    for (int j = 0; j < V; ++j) {
      _mm512_storeu_ps(of(row) + j * LANES, v[j]);
      _mm512_storeu_si512(ids_of(row) + j * LANES, at[j]);
    }
  }
#endif

  // Branches would be guessed wrong: every vector is shifted by one lane from where the value belongs.
  void insert(int row, float value, int id) {
    float* v = of(row);
    int32_t* at = ids_of(row);
#if defined(__AVX512F__)
    const __m512 x = _mm512_set1_ps(value);
    __m512 here = _mm512_loadu_ps(v + (vectors - 1) * LANES);
    __m512i here_ids = _mm512_loadu_si512(at + (vectors - 1) * LANES);
    for (int j = vectors - 1; j >= 0; --j) {
      const __m512 before = j ? _mm512_loadu_ps(v + (j - 1) * LANES) : x;
      const __m512i before_ids = j ? _mm512_loadu_si512(at + (j - 1) * LANES) : _mm512_set1_epi32(id);
      const __mmask16 later = _mm512_cmp_ps_mask(here, x, _CMP_LT_OQ);
      const unsigned lead = j ? _mm512_cmp_ps_mask(before, x, _CMP_LT_OQ) >> 15 : 0;
      const __mmask16 place = later & ~(__mmask16)((later << 1) | lead);
      const __m512 moved = _mm512_castsi512_ps(
          _mm512_alignr_epi32(_mm512_castps_si512(here), _mm512_castps_si512(before), 15));
      const __m512i moved_ids = _mm512_alignr_epi32(here_ids, before_ids, 15);
      _mm512_storeu_ps(v + j * LANES, _mm512_mask_mov_ps(_mm512_mask_mov_ps(here, later, moved), place, x));
      _mm512_storeu_si512(at + j * LANES,
                          _mm512_mask_set1_epi32(_mm512_mask_mov_epi32(here_ids, later, moved_ids), place, id));
      here = before, here_ids = before_ids;
    }
#else
    if (!(value > v[count - 1])) return;
    int place = count - 1;
    for (; place > 0 && v[place - 1] < value; --place) {
      v[place] = v[place - 1];
      at[place] = at[place - 1];
    }
    v[place] = value;
    at[place] = id;
#endif
  }
};

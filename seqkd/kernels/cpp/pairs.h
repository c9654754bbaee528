// Products of bf16 pairs on the vector unit (AVX-512 BF16), on operands in the tile layout of the matrix unit.
#pragma once
#if defined(__AVX512BF16__)
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "memory.h"

// Rows at a time. With 32 columns their sums take half of the registers, and each loaded value serves two products.
constexpr int PAIR_ROWS = 8;

// Adds to low[row] and high[row], the sums of 16 outputs each, the products of the row's inputs with those outputs, over
// `steps` steps of 32 inputs. In `left`, rows are 32 numbers apart and steps 512. In `right`, a step holds 16 pairs of inputs x
// 16 outputs, twice.
template <int ROWS>
static inline void add_pair_products(const uint16_t* left, const uint16_t* right, int steps, __m512* low, __m512* high,
                                     Ahead ahead = {}) {
  for (int s = 0; s < steps; ++s, left += 512, right += 1024) {
    ahead.ask();
    for (int pair = 0; pair < 16; ++pair) {
      const __m512bh first = (__m512bh)_mm512_load_si512(right + pair * 32);
      const __m512bh second = (__m512bh)_mm512_load_si512(right + 512 + pair * 32);
#pragma GCC unroll 8
      for (int i = 0; i < ROWS; ++i) {
        int32_t two;
        memcpy(&two, left + i * 32 + 2 * pair, sizeof two);
        const __m512bh x = (__m512bh)_mm512_set1_epi32(two);
        low[i] = _mm512_dpbf16_ps(low[i], x, first);
        high[i] = _mm512_dpbf16_ps(high[i], x, second);
      }
    }
  }
}
#endif

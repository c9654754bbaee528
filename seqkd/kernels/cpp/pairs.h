// Products of bf16 pairs on the vector unit (AVX-512 BF16), on operands that lie as tiles of the matrix unit do.
#pragma once
#if defined(__AVX512BF16__)
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "memory.h"

// Rows at a time: with 32 columns their sums are half of the registers, and what is read serves two products.
constexpr int PAIR_ROWS = 8;

// low[row] and high[row], the sums of 16 outputs each, += the row's inputs times those outputs, over `steps` of 32 inputs.
// `left`: a row every 32 numbers, a step every 512. `right`: a step has 16 pairs of inputs x 16 outputs, twice.
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

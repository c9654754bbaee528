// Sixteen lanes: AVX-512. This file is a part of vector.h.
#pragma once
#include <immintrin.h>

static inline vf splat(float x) { return (vf)_mm512_set1_ps(x); }

static inline vf widen(vh x) { return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)x), 16); }
static inline vh narrow(vf x) {
#if defined(__AVX512BF16__)
  return (vh)_mm512_cvtneps_pbh((__m512)x);
#else
  return __builtin_convertvector(bf16_bits(x), vh);
#endif
}

static inline float sum(vf x) {
  __m512 v = (__m512)x;
  const __m256i upper = _mm512_extracti64x4_epi64(_mm512_castps_si512(v), 1);
  __m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm256_castsi256_ps(upper));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
static inline float largest(vf x) { return _mm512_reduce_max_ps((__m512)x); }

// Lane i of the result is the sum of x[i]: sixteen horizontal sums for the cost of three, folded like `sum`.
static inline vf sums(const vf* x) {
  __m512 t[16];
  for (int i = 0; i < 8; ++i) {  // halves: lanes 0-7 of x[i] and of x[i + 8], side by side
    __m512 a = (__m512)x[i], b = (__m512)x[i + 8];
    t[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  }
  __m512 u[4];
  for (int i = 0; i < 4; ++i)  // quarters: four lanes of x[i], x[i + 4], x[i + 8], x[i + 12]
    u[i] = _mm512_add_ps(_mm512_shuffle_f32x4(t[i], t[i + 4], 0x88), _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd));
  // u[i] holds the quarters of x[i], x[i + 8], x[i + 4], x[i + 12]; within each, lanes 0 + 2 and 1 + 3, then their sum.
  __m512 v[2];
  for (int i = 0; i < 2; ++i)
    v[i] = _mm512_add_ps(_mm512_shuffle_ps(u[i], u[i + 2], 0x44), _mm512_shuffle_ps(u[i], u[i + 2], 0xee));
  __m512 w = _mm512_add_ps(_mm512_shuffle_ps(v[0], v[1], 0x88), _mm512_shuffle_ps(v[0], v[1], 0xdd));
  // Quarter q of w: x[q'] x[q' + 2] x[q' + 1] x[q' + 3], where q' is 0, 8, 4, 12.
  const __m512i order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
  return (vf)_mm512_permutexvar_ps(order, w);
}

// Transposes sixteen vectors as a matrix.
static inline void transpose(vf* x) {
  __m512 t[16], u[16];
  for (int i = 0; i < 16; i += 2) {  // pairs of rows, within each quarter
    t[i] = _mm512_unpacklo_ps((__m512)x[i], (__m512)x[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps((__m512)x[i], (__m512)x[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)  // fours: u[i + j] holds columns j, j + 4, j + 8, j + 12 of rows i..i + 3
    for (int j = 0; j < 2; ++j) {
      u[i + 2 * j] = _mm512_shuffle_ps(t[i + j], t[i + 2 + j], 0x44);
      u[i + 2 * j + 1] = _mm512_shuffle_ps(t[i + j], t[i + 2 + j], 0xee);
    }
  for (int j = 0; j < 4; ++j) {  // quarters
    const __m512 a = _mm512_shuffle_f32x4(u[j], u[4 + j], 0x88), b = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0x88);
    const __m512 c = _mm512_shuffle_f32x4(u[j], u[4 + j], 0xdd), d = _mm512_shuffle_f32x4(u[8 + j], u[12 + j], 0xdd);
    x[j] = (vf)_mm512_shuffle_f32x4(a, b, 0x88);
    x[8 + j] = (vf)_mm512_shuffle_f32x4(a, b, 0xdd);
    x[4 + j] = (vf)_mm512_shuffle_f32x4(c, d, 0x88);
    x[12 + j] = (vf)_mm512_shuffle_f32x4(c, d, 0xdd);
  }
}

// Moves the lanes of x up by one and inserts the last lane of `before`.
static inline vf moved_up(vf before, vf x) {
  return (vf)_mm512_alignr_epi32(_mm512_castps_si512((__m512)x), _mm512_castps_si512((__m512)before), 15);
}

// A bit for each lane in which x is above y.
static inline unsigned above(vf x, vf y) { return _mm512_cmp_ps_mask((__m512)x, (__m512)y, _CMP_GT_OQ); }

// The clamp of `vexp`. Results that underflow would cost the processor a hundred times as much, so they become 2^-126. This
// order of operands keeps a NaN.
static inline vf not_below(vf x, float least) { return (vf)_mm512_max_ps(_mm512_set1_ps(least), (__m512)x); }
static inline vf nearest(vf x) { return (vf)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vf times_power(vf x, vf n) { return (vf)_mm512_scalef_ps((__m512)x, (__m512)n); }

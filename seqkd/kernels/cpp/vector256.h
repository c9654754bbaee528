// Eight lanes: AVX2 with FMA. This file is a part of vector.h.
#pragma once
#include <immintrin.h>

static inline vf splat(float x) { return (vf)_mm256_set1_ps(x); }

static inline vf widen(vh x) { return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)x), 16); }
static inline vh narrow(vf x) {
  const __m256i low = (__m256i)bf16_bits(x);
  // The instruction packs each half separately.
  return (vh)_mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08));
}

static inline float sum(vf x) {
  __m128 q = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
static inline float largest(vf x) {
  __m128 q = _mm_max_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

// Lane i of the result is the sum of x[i]: eight horizontal sums for the cost of three, folded like `sum`.
static inline vf sums(const vf* x) {
  __m256 t[4], u[2];
  for (int i = 0; i < 4; ++i) {  // halves: four lanes of x[i] and of x[i + 4], side by side
    const __m256 a = (__m256)x[i], b = (__m256)x[i + 4];
    t[i] = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  }
  for (int i = 0; i < 2; ++i)  // within each half, lanes 0 + 2 and 1 + 3, then their sum
    u[i] = _mm256_add_ps(_mm256_shuffle_ps(t[2 * i], t[2 * i + 1], 0x44), _mm256_shuffle_ps(t[2 * i], t[2 * i + 1], 0xee));
  return (vf)_mm256_add_ps(_mm256_shuffle_ps(u[0], u[1], 0x88), _mm256_shuffle_ps(u[0], u[1], 0xdd));
}

// Transposes eight vectors as a matrix.
static inline void transpose(vf* x) {
  __m256 t[8], u[8];
  for (int i = 0; i < 8; i += 2) {  // pairs of rows, within each half
    t[i] = _mm256_unpacklo_ps((__m256)x[i], (__m256)x[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps((__m256)x[i], (__m256)x[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)  // fours: u[i + j] holds columns j and j + 4 of rows i..i + 3
    for (int j = 0; j < 2; ++j) {
      u[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + 2 + j], 0x44);
      u[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + 2 + j], 0xee);
    }
  for (int j = 0; j < 4; ++j) {
    x[j] = (vf)_mm256_permute2f128_ps(u[j], u[4 + j], 0x20);
    x[4 + j] = (vf)_mm256_permute2f128_ps(u[j], u[4 + j], 0x31);
  }
}

// Moves the lanes of x up by one and inserts the last lane of `before`.
static inline vf moved_up(vf before, vf x) {
  const __m256i order = _mm256_setr_epi32(7, 0, 1, 2, 3, 4, 5, 6);
  return (vf)_mm256_permutevar8x32_ps(_mm256_blend_ps((__m256)x, (__m256)before, 0x80), order);
}

// A bit for each lane in which x is above y.
static inline unsigned above(vf x, vf y) {
  return unsigned(_mm256_movemask_ps(_mm256_cmp_ps((__m256)x, (__m256)y, _CMP_GT_OQ)));
}

// The clamp of `vexp`. Results that underflow would cost the processor a hundred times as much, so they become 2^-126. This
// order of operands keeps a NaN.
static inline vf not_below(vf x, float least) { return (vf)_mm256_max_ps(_mm256_set1_ps(least), (__m256)x); }
static inline vf nearest(vf x) { return (vf)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// n is an integer, and the result is at least 2^-126.
static inline vf times_power(vf x, vf n) {
  return (vf)((__v8si)(__m256i)x + (__v8si)_mm256_slli_epi32(_mm256_cvtps_epi32((__m256)n), 23));
}

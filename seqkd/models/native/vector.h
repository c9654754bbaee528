// Sixteen floats at a time, on whatever vector unit the target has.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

// For a function that is called from several places: of copies of it, one might be compiled with products and sums rounded
// together and another with each by itself, and a result would depend on who asked for it.
#if defined(__clang__)
#define COMPILED_ONCE __attribute__((noinline))
#else
#define COMPILED_ONCE __attribute__((noinline, noclone))
#endif

typedef float vf __attribute__((vector_size(64)));
typedef float vf_any __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(64)));
typedef uint32_t vu __attribute__((vector_size(64)));
typedef uint16_t vh __attribute__((vector_size(32)));
typedef uint16_t vh_any __attribute__((vector_size(32), aligned(2), may_alias));

constexpr int LANES = 16;

// Not `vf{} + x`: adding zero is an addition, because of -0.
static inline vf splat(float x) { return vf{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
static inline vf load(const float* p) { return *reinterpret_cast<const vf_any*>(p); }
static inline void store(float* p, vf x) { *reinterpret_cast<vf_any*>(p) = x; }

// bfloat16 is the upper half of a float32; rounding is to nearest, ties to even, NaN stays NaN.
static inline vf widen(vh x) {
#if defined(__AVX512F__)
  return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)x), 16);
#else
  return (vf)(__builtin_convertvector(x, vu) << 16);
#endif
}
static inline vh narrow(vf x) {
#if defined(__AVX512BF16__)
  return (vh)_mm512_cvtneps_pbh((__m512)x);
#else
  vu bits = (vu)x;
  vu rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  vu nan = (vu)(x != x);
  return __builtin_convertvector((rounded & ~nan) | (0x7fc0 & nan), vh);
#endif
}
static inline vf load(const uint16_t* p) { return widen(*reinterpret_cast<const vh_any*>(p)); }
static inline void store(uint16_t* p, vf x) { *reinterpret_cast<vh_any*>(p) = narrow(x); }

static inline vf vmax(vf a, vf b) { return a > b ? a : b; }

// The lower half and the upper half of the lanes, folded onto each other until one is left: the order of all sums here.
static inline float sum(vf x) {
#if defined(__AVX512F__)
  __m512 v = (__m512)x;
  const __m256i upper = _mm512_extracti64x4_epi64(_mm512_castps_si512(v), 1);
  __m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm256_castsi256_ps(upper));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
#else
  float s[LANES];
  memcpy(s, &x, sizeof s);
  for (int width = LANES / 2; width; width /= 2)
    for (int i = 0; i < width; ++i) s[i] += s[i + width];
  return s[0];
#endif
}
static inline float largest(vf x) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)x);
#else
  float s[LANES];
  memcpy(s, &x, sizeof s);
  for (int width = LANES / 2; width; width /= 2)
    for (int i = 0; i < width; ++i) s[i] = s[i] > s[i + width] ? s[i] : s[i + width];
  return s[0];
#endif
}

// Lane i of the result is the sum of x[i]: sixteen horizontal sums for the price of three, folded as `sum` folds.
static inline vf sums(const vf* x) {
#if defined(__AVX512F__)
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
#else
  vf out;
  for (int i = 0; i < LANES; ++i) out[i] = sum(x[i]);
  return out;
#endif
}

// Sixteen vectors as a matrix, its rows made its columns.
static inline void transpose(vf* x) {
#if defined(__AVX512F__)
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
#else
  for (int i = 0; i < LANES; ++i)
    for (int j = 0; j < i; ++j) {
      const float kept = x[i][j];
      x[i][j] = x[j][i], x[j][i] = kept;
    }
#endif
}

// exp(x) for x <= 88, within 2 units in the last place near zero (and within |x| of them below it); below -87 it is zero
// or 1e-38. NaN stays NaN. As 2^n * 2^f with a minimax polynomial for f in [-0.5, 0.5].
static inline vf vexp(vf x) {
  vf t = x * 1.44269504f;
#if defined(__AVX512F__)
  // In this order a NaN stays. What underflows costs the processor a hundred times as much; it ends as 2^-126.
  t = (vf)_mm512_max_ps((__m512)splat(-126.0f), (__m512)t);
  const vf n = (vf)_mm512_roundscale_ps((__m512)t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const vf shifted = t + magic;
  const vf n = shifted - magic;
#endif
  const vf f = t - n;
  vf p = splat(0.0013276471f);
  p = p * f + 0.0096755410f;
  p = p * f + 0.0555071309f;
  p = p * f + 0.2402212024f;
  p = p * f + 0.6931469440f;
  p = p * f + 1.0000001192f;
#if defined(__AVX512F__)
  return (vf)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  const vi power = ((vi)shifted - (vi)magic + 127) << 23;
  const vf y = p * (vf)power;
  return x < -87.0f ? splat(0.0f) : y;
#endif
}

// Sixteen floats at a time, on whatever vector unit the target has.
#pragma once
#include <cstdint>
#include <cstring>

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
static inline vf widen(vh x) { return (vf)(__builtin_convertvector(x, vu) << 16); }
static inline vh narrow(vf x) {
  vu bits = (vu)x;
  vu rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  vu nan = (vu)(x != x);
  return __builtin_convertvector((rounded & ~nan) | (0x7fc0 & nan), vh);
}
static inline vf load(const uint16_t* p) { return widen(*reinterpret_cast<const vh_any*>(p)); }
static inline void store(uint16_t* p, vf x) { *reinterpret_cast<vh_any*>(p) = narrow(x); }

static inline vf vmax(vf a, vf b) { return a > b ? a : b; }

static inline float sum(vf x) {
  float s[LANES];
  memcpy(s, &x, sizeof s);
  for (int width = LANES / 2; width; width /= 2)
    for (int i = 0; i < width; ++i) s[i] += s[i + width];
  return s[0];
}
static inline float largest(vf x) {
  float s[LANES];
  memcpy(s, &x, sizeof s);
  for (int width = LANES / 2; width; width /= 2)
    for (int i = 0; i < width; ++i) s[i] = s[i] > s[i + width] ? s[i] : s[i + width];
  return s[0];
}

// exp(x) for x <= 88, within 2 units in the last place; below -87 it is zero. NaN stays NaN.
static inline vf vexp(vf x) {
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  vf shifted = x * 1.44269504f + magic;
  vf n = shifted - magic;
  vf r = x - n * 0.693145752f - n * 1.42860677e-6f;
  vf p = splat(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  vi power = ((vi)shifted - (vi)magic + 127) << 23;
  vf y = p * (vf)power;
  return x < -87.0f ? splat(0.0f) : y;
}

// Vectors of floats of the target's width: sixteen with AVX-512, eight with AVX2, otherwise four.
#pragma once
#include <cstdint>
#include <cstring>

// For functions that are called from several places. The compiler might fuse products and sums in one inlined copy and not in
// another, and results would depend on the caller.
#if defined(__clang__)
#define COMPILED_ONCE __attribute__((noinline))
#else
#define COMPILED_ONCE __attribute__((noinline, noclone))
#endif

// The compiler would split vectors wider than the target's lane by lane and keep them in memory.
#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__) && defined(__FMA__)
#define AVX2_VECTORS
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr int UNIT = 16 / LANES;  // vectors in sixteen floats: all widths are multiples of these

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef float vf_any __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES)));
typedef uint16_t vh_any __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

// bfloat16 is the upper half of a float32, rounded to nearest, ties to even; NaN stays NaN. The result is in a lane's lower
// half.
static inline vu bf16_bits(vf x) {
  const vu bits = (vu)x;
  const vu rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16, nan = (vu)(x != x);
  return (rounded & ~nan) | (0x7fc0 & nan);
}

// The operations that each target implements in its own way. Sums and maxima of lanes fold the upper half onto the lower half
// until one lane is left.
#if defined(__AVX512F__)
#include "vector512.h"
#elif defined(AVX2_VECTORS)
#include "vector256.h"
#else
#include "vector_any.h"
#endif

static inline vf load(const float* p) { return *reinterpret_cast<const vf_any*>(p); }
static inline void store(float* p, vf x) { *reinterpret_cast<vf_any*>(p) = x; }
static inline vf load(const uint16_t* p) { return widen(*reinterpret_cast<const vh_any*>(p)); }
static inline void store(uint16_t* p, vf x) { *reinterpret_cast<vh_any*>(p) = narrow(x); }

static inline vf vmax(vf a, vf b) { return a > b ? a : b; }

// exp(x) for x <= 88. The error is within 2 units in the last place near zero and within |x| of them below it; below -87 the
// result is zero or 1e-38. NaN stays NaN. It is computed as 2^n * 2^f with a minimax polynomial for f in [-0.5, 0.5].
static inline vf vexp(vf x) {
  const vf t = not_below(x * 1.44269504f, -126.0f);
  const vf n = nearest(t);
  const vf f = t - n;
  vf p = splat(0.0013276471f);
  p = p * f + 0.0096755410f;
  p = p * f + 0.0555071309f;
  p = p * f + 0.2402212024f;
  p = p * f + 0.6931469440f;
  p = p * f + 1.0000001192f;
  return times_power(p, n);
}

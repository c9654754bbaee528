// Four lanes: any target, by what the compiler knows. A part of vector.h.
#pragma once

static inline vf splat(float x) { return vf{x, x, x, x}; }

static inline vf widen(vh x) { return (vf)(__builtin_convertvector(x, vu) << 16); }
static inline vh narrow(vf x) { return __builtin_convertvector(bf16_bits(x), vh); }

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

// Lane i of the result is the sum of x[i].
static inline vf sums(const vf* x) {
  vf out;
  for (int i = 0; i < LANES; ++i) out[i] = sum(x[i]);
  return out;
}

// Four vectors as a matrix, its rows made its columns.
static inline void transpose(vf* x) {
  for (int i = 0; i < LANES; ++i)
    for (int j = 0; j < i; ++j) {
      const float kept = x[i][j];
      x[i][j] = x[j][i], x[j][i] = kept;
    }
}

// Lanes of x moved up by one; the last of `before` comes in.
static inline vf moved_up(vf before, vf x) {
  vf out;
  out[0] = before[LANES - 1];
  for (int i = 1; i < LANES; ++i) out[i] = x[i - 1];
  return out;
}

// The lanes in which x is above y, as bits.
static inline unsigned above(vf x, vf y) {
  const vi over = x > y;
  unsigned mask = 0;
  for (int i = 0; i < LANES; ++i) mask |= unsigned(over[i] != 0) << i;
  return mask;
}

// What `vexp` needs. What underflows would cost many processors a hundred times as much; it ends as 2^-126. A NaN stays.
static inline vf not_below(vf x, float least) { return x < least ? splat(least) : x; }
static inline vf nearest(vf x) {
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  return (x + magic) - magic;
}
// n whole, and the result no less than 2^-126.
static inline vf times_power(vf x, vf n) { return (vf)((vi)x + (__builtin_convertvector(n, vi) << 23)); }

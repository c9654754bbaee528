// Four lanes: any target, through the compiler's generic vectors. This file is a part of vector.h.
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

// Transposes four vectors as a matrix.
static inline void transpose(vf* x) {
  for (int i = 0; i < LANES; ++i)
    for (int j = 0; j < i; ++j) {
      const float kept = x[i][j];
      x[i][j] = x[j][i], x[j][i] = kept;
    }
}

// Moves the lanes of x up by one and inserts the last lane of `before`.
static inline vf moved_up(vf before, vf x) {
  vf out;
  out[0] = before[LANES - 1];
  for (int i = 1; i < LANES; ++i) out[i] = x[i - 1];
  return out;
}

// A bit for each lane in which x is above y.
static inline unsigned above(vf x, vf y) {
  const vi over = x > y;
  unsigned mask = 0;
  for (int i = 0; i < LANES; ++i) mask |= unsigned(over[i] != 0) << i;
  return mask;
}

// The clamp of `vexp`. Results that underflow would cost many processors a hundred times as much, so they become 2^-126. A NaN
// stays.
static inline vf not_below(vf x, float least) { return x < least ? splat(least) : x; }
static inline vf nearest(vf x) {
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  return (x + magic) - magic;
}
// n is an integer, and the result is at least 2^-126.
static inline vf times_power(vf x, vf n) { return (vf)((vi)x + (__builtin_convertvector(n, vi) << 23)); }

// Layer norm, attention over scattered rows, and the output layer, which never writes its logits to memory.
#pragma once
#include <algorithm>
#include <vector>

#include "best.h"
#include "gemm.h"
#include "workers.h"

struct Norm {
  std::vector<float> weight, bias;
  float epsilon = 0.0f;
  void apply(const float* x, float* out, int rows) const {
    const int dim = int(weight.size());
    for (int r = 0; r < rows; ++r, x += dim, out += dim) {
      vf total = {};
      for (int i = 0; i < dim; i += LANES) total += load(x + i);
      const float mean = sum(total) / dim;
      vf squares = {};
      for (int i = 0; i < dim; i += LANES) {
        vf d = load(x + i) - mean;
        squares += d * d;
      }
      const float scale = 1.0f / sqrtf(sum(squares) / dim + epsilon);
      for (int i = 0; i < dim; i += LANES)
        store(out + i, (load(x + i) - mean) * scale * load(&weight[i]) + load(&bias[i]));
    }
  }
};

// Zero in the first `count` lanes, minus infinity in the others.
static inline vf outside_mask(int count) {
  vf mask = {};
  for (int i = 0; i < LANES; ++i) mask[i] = i < count ? 0.0f : NEVER;
  return mask;
}

// Replaces scores [width], whole vectors, by their exponentials relative to the largest. Returns the inverse of the sum.
static inline float exponentials(float* scores, int width) {
  vf top = load(scores), total = {};
  for (int p = LANES; p < width; p += LANES) top = vmax(top, load(scores + p));
  const float peak = largest(top);
  for (int p = 0; p < width; p += LANES) {
    const vf e = vexp(load(scores + p) - peak);
    store(scores + p, e);
    total += e;
  }
  return 1.0f / sum(total);
}

// The dot products of one head of a query with as many keys as a vector has lanes. The head is `V` vectors wide.
template <int V>
static inline vf products(const vf* query, const float* const* keys, int offset, int count) {
  vf part[LANES];
  for (int j = 0; j < count; ++j) {
    const float* k = keys[j] + offset;
    vf dot = query[0] * load(k);
    for (int i = 1; i < V; ++i) dot += query[i] * load(k + i * LANES);
    part[j] = dot;
  }
  for (int j = count; j < LANES; ++j) part[j] = vf{};
  return sums(part);
}
template <int V>
static inline vf products(const vf* query, const uint16_t* const* keys, int offset, int count) {
  vf part[LANES];
#if defined(__AVX512BF16__)
  if constexpr (V % 2 == 0) {
    __m512bh pairs[V / 2];
    for (int i = 0; i < V / 2; ++i) pairs[i] = _mm512_cvtne2ps_pbh((__m512)query[2 * i + 1], (__m512)query[2 * i]);
    for (int j = 0; j < count; ++j) {
      __m512 dot = _mm512_setzero_ps();
      for (int i = 0; i < V / 2; ++i)
        dot = _mm512_dpbf16_ps(dot, pairs[i], (__m512bh)_mm512_loadu_si512(keys[j] + offset + 32 * i));
      part[j] = (vf)dot;
    }
    for (int j = count; j < LANES; ++j) part[j] = vf{};
    return sums(part);
  }
#endif
  for (int j = 0; j < count; ++j) {
    const uint16_t* k = keys[j] + offset;
    vf dot = query[0] * load(k);
    for (int i = 1; i < V; ++i) dot += query[i] * load(k + i * LANES);
    part[j] = dot;
  }
  for (int j = count; j < LANES; ++j) part[j] = vf{};
  return sums(part);
}

// The weighted sum of a head's values, as two sums over even and odd positions: a single sum would stall on its own latency.
template <int V>
static inline void weigh(const float* weights, const float* const* values, int offset, int count, float inverse,
                         float* out) {
  constexpr int HELD = V % 4 == 0 ? 4 : V % 3 == 0 ? 3 : V % 5 == 0 ? 5 : V;  // vectors whose sums fit into registers
  for (int first = 0; first < V; first += HELD) {
    vf even[HELD] = {}, odd[HELD] = {};
    const int from = offset + first * LANES;
    int p = 0;
    for (; p + 1 < count; p += 2)
      for (int i = 0; i < HELD; ++i) {
        even[i] += weights[p] * load(values[p] + from + i * LANES);
        odd[i] += weights[p + 1] * load(values[p + 1] + from + i * LANES);
      }
    if (p < count)
      for (int i = 0; i < HELD; ++i) even[i] += weights[p] * load(values[p] + from + i * LANES);
    for (int i = 0; i < HELD; ++i) store(out + (first + i) * LANES, (even[i] + odd[i]) * inverse);
  }
}
template <int V>
static inline void weigh(const float* weights, const uint16_t* const* values, int offset, int count, float inverse,
                         float* out) {
  // Two neighbours share a 32-bit lane: a shift turns the lower one into a float, a mask the upper one. Lower and upper sums
  // are kept separately and interleaved at the end. An odd last vector goes through `load`.
  constexpr int PAIRS = V / 2;
  vf lower[PAIRS + 1] = {}, upper[PAIRS + 1] = {}, rest = {};
  const vu mask = (vu)(vu{} + 0xffff0000u);
  for (int p = 0; p < count; ++p) {
    const vf weight = splat(weights[p]);
    const uint16_t* v = values[p] + offset;
    for (int i = 0; i < PAIRS; ++i) {
      vu both;
      memcpy(&both, v + i * 2 * LANES, sizeof both);
      lower[i] += weight * (vf)(both << 16);
      upper[i] += weight * (vf)(both & mask);
    }
    if (V % 2) rest += weight * load(v + (V - 1) * LANES);
  }
  for (int i = 0; i < PAIRS; ++i)
    for (int half = 0; half < 2; ++half) {
      vf x;
#if defined(__AVX512F__)
      const __m512i order = half == 0 ? _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
                                      : _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
      x = (vf)_mm512_permutex2var_ps((__m512)lower[i], order, (__m512)upper[i]);
#elif defined(AVX2_VECTORS)
      const __m256 low = (__m256)lower[i], high = (__m256)upper[i];
      const __m256 a = _mm256_unpacklo_ps(low, high), b = _mm256_unpackhi_ps(low, high);
      x = (vf)(half == 0 ? _mm256_permute2f128_ps(a, b, 0x20) : _mm256_permute2f128_ps(a, b, 0x31));
#else
      for (int j = 0; j < LANES; ++j) x[j] = (j % 2 ? upper[i] : lower[i])[half * LANES / 2 + j / 2];
#endif
      store(out + (2 * i + half) * LANES, x * inverse);
    }
  if (V % 2) store(out + (V - 1) * LANES, rest * inverse);
}

// Attention of one query to `count` keys and values. All heads of a row lie side by side, each `V` vectors wide. `scores` has
// room for heads * (round_up(count, LANES) + LANES) floats.
template <int V, typename T>
static void attend_heads(const float* query, int count, const T* const* keys, const T* const* values, int heads,
                         float scale, float* scores, float* out) {
  // Each phase runs for all heads before the next one: within a head, every phase waits for the phase before it.
  const int width = round_up(count, LANES), line = width + LANES;
  const int last = width - LANES;
  const vf outside = outside_mask(count - last);
  for (int h = 0; h < heads; ++h) {
    const int offset = h * V * LANES;
    float* s = scores + h * line;
    vf q[V];
    for (int i = 0; i < V; ++i) q[i] = load(query + offset + i * LANES) * scale;
    for (int p = 0; p < last; p += LANES) store(s + p, products<V>(q, keys + p, offset, LANES));
    store(s + last, products<V>(q, keys + last, offset, count - last) + outside);
  }
  for (int h = 0; h < heads; ++h) {
    float* s = scores + h * line;
    s[width] = exponentials(s, width);
  }
  for (int h = 0; h < heads; ++h) {
    const float* s = scores + h * line;
    weigh<V>(s, values, h * V * LANES, count, s[width], out + h * V * LANES);
  }
}

template <typename T>
static void attend(const float* query, int count, const T* const* keys, const T* const* values, int heads, int head_dim,
                   float scale, float* scores, float* out) {
  switch (head_dim / 16) {
    case 1: return attend_heads<1 * UNIT>(query, count, keys, values, heads, scale, scores, out);
    case 2: return attend_heads<2 * UNIT>(query, count, keys, values, heads, scale, scores, out);
    case 3: return attend_heads<3 * UNIT>(query, count, keys, values, heads, scale, scores, out);
    case 4: return attend_heads<4 * UNIT>(query, count, keys, values, heads, scale, scores, out);
    case 5: return attend_heads<5 * UNIT>(query, count, keys, values, heads, scale, scores, out);
    case 6: return attend_heads<6 * UNIT>(query, count, keys, values, heads, scale, scores, out);
    case 8: return attend_heads<8 * UNIT>(query, count, keys, values, heads, scale, scores, out);
  }
}

// Whether a product is large enough to be shared among threads, which costs about a microsecond. A few rows take nearly as
// long as eight, because the weights have to be read.
static inline bool worth_sharing(int rows, const Weight& w) {
  constexpr int64_t ENOUGH = 1 << 19;  // multiplications
  return int64_t(round_up(rows, VECTOR_ROWS)) * w.outputs * w.inputs >= ENOUGH;
}

// Log-sum-exp, top-k and, if `chosen` is given, one chosen logit of every row of A * W^T. Logits exist in a small buffer
// only: 32 rows by `PANELS` panels are reduced while they are in the first-level cache.
struct Reduction {
  static constexpr int PANELS = 8, WIDTH = PANELS * BLOCK;
  static constexpr int SHARED = 1 << 18;  // logits at a time if threads share them
  Buffer<float> logits;
  std::vector<float> reference;
  std::vector<double> total;
  Best best;

  void run(Workers& workers, const Operand& a, const Weight& w, int count, const int64_t* chosen, float* lse,
           float* chosen_logit) {
    reference.assign(a.rows, NEVER);
    total.assign(a.rows, 0.0);
    best.start(a.rows, count);
    auto take = [&](float* x, int first, int row) {
      const int offset = first * BLOCK, columns = std::min(WIDTH, w.outputs - offset), padded = round_up(columns, LANES);
      if (!w.bias.empty())
        for (int c = 0; c < padded; c += LANES) store(x + c, load(x + c) + load(&w.bias[offset + c]));
      for (int c = columns; c < padded; ++c) x[c] = NEVER;
      reduce(x, padded, offset, row);
      if (!chosen) return;
      const int64_t at = chosen[row] - offset;
      if (at >= 0 && at < columns) chosen_logit[row] = x[at];
    };
    if (workers.shares() && worth_sharing(a.rows, w))
      shared(workers, a, w, take);
    else
      alone(a, w, take);
    for (int r = 0; r < a.rows; ++r) lse[r] = float(reference[r] + std::log(total[r]));
  }

  template <typename Take>
  void alone(const Operand& a, const Weight& w, Take take) {
    float* block = logits.need(BLOCK * WIDTH);
    for (int first = 0; first < w.panels; first += PANELS)
      for (int row = 0; row < a.rows; row += BLOCK) {
        for (int p = first; p < std::min(first + PANELS, w.panels); ++p)
          product(a, w, row, p, block + (p - first) * BLOCK, WIDTH);
        for (int r = row; r < std::min(row + BLOCK, a.rows); ++r) take(block + (r - row) * WIDTH, first, r);
      }
  }

  // Computes the products by panels and then reduces row by row, so that every sum has the same order as above.
  template <typename Take>
  void shared(Workers& workers, const Operand& a, const Weight& w, Take take) {
    const int rows = round_up(a.rows, BLOCK), most = std::max(1, SHARED / rows / WIDTH) * PANELS;
    float* block = logits.need(size_t(rows) * most * BLOCK);
    for (int first = 0; first < w.panels; first += most) {
      const int panels = std::min(most, w.panels - first), stride = panels * BLOCK;
      workers.share(panels, [&](int begin, int count) {
        for (int p = begin; p < begin + count; ++p)
          for (int row = 0; row < a.rows; row += BLOCK)
            product(a, w, row, first + p, block + size_t(row) * stride + p * BLOCK, stride);
      });
      workers.share(a.rows, [&](int begin, int count) {
        for (int r = begin; r < begin + count; ++r)
          for (int p = 0; p < panels; p += PANELS) take(block + size_t(r) * stride + p * BLOCK, first + p, r);
      });
    }
  }

  // Sums exp(x - reference). The reference is the largest logit of the row's first columns. It moves only when a logit is so
  // far above it that the sum might overflow.
  COMPILED_ONCE void reduce(const float* x, int columns, int offset, int row) {
    constexpr float FAR = 60.0f;
    float bar = best.bar(row);
    if (bar == NEVER) bar = std::max(bar, floor_of(x, columns, best.vectors));
    uint64_t marks[WIDTH / 64] = {}, any = 0;
    for (int c = 0; c < columns; c += LANES) marks[c / 64] |= uint64_t(above(load(x + c), splat(bar))) << c % 64;
    for (uint64_t some : marks) any |= some;
    if (any) {
      best.insert(row, x, marks, round_up(columns, 64) / 64, offset);
      const float now = *best.of(row), before = reference[row];
      if (before == NEVER || now > before + FAR) {
        total[row] = before == NEVER ? total[row] : total[row] * std::exp(double(before) - now);
        reference[row] = now;
      }
    }
    // A NaN is never above the reference, but it stays in the sum, and so does inf - inf: both give a NaN here. If all logits
    // so far are minus infinity, so is the reference, and the sum is a NaN as well.
    const vf base = splat(reference[row]);
    vf even = {}, odd = {};
    int c = 0;
    for (; c + LANES < columns; c += 2 * LANES) {
      even += vexp(load(x + c) - base);
      odd += vexp(load(x + c + LANES) - base);
    }
    if (c < columns) even += vexp(load(x + c) - base);
    total[row] += sum(even + odd);
  }

  // A value that at least `deep` * LANES of x reach: in each lane, `deep` of them reach the lane's deep-th largest.
  static float floor_of(const float* x, int columns, int deep) {
    constexpr int DEEPEST = 8 * UNIT;
    vf top[DEEPEST];
    if (deep > DEEPEST || columns < deep * LANES) return NEVER;
    for (int i = 0; i < deep; ++i) top[i] = splat(NEVER);
    for (int c = 0; c < columns; c += LANES) {
      vf y = load(x + c);
      for (int i = 0; i < deep; ++i) {
        const vf over = vmax(top[i], y);
        y = top[i] < y ? top[i] : y;
        top[i] = over;
      }
    }
    const float smallest = -largest(-top[deep - 1]);
    return smallest > NEVER ? std::nextafterf(smallest, NEVER) : NEVER;
  }
};

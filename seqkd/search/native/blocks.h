// Layer norm, attention over scattered rows, and the output layer that never writes its logits down.
#pragma once
#include <algorithm>
#include <limits>
#include <vector>

#include "gemm.h"

constexpr float NEVER = -std::numeric_limits<float>::infinity();

struct Norm {
  std::vector<float> weight, bias;
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
      const float scale = 1.0f / sqrtf(sum(squares) / dim + 1e-5f);
      for (int i = 0; i < dim; i += LANES)
        store(out + i, (load(x + i) - mean) * scale * load(&weight[i]) + load(&bias[i]));
    }
  }
};

// One query over `count` keys and values, which `key(p)` and `value(p)` point to; all heads of a row lie side by side.
// `scores` has room for heads * round_up(count, 16).
template <typename Key, typename Value>
static inline void attend(const float* query, int count, Key key, Value value, int heads, int head_dim, float scale,
                          float* scores, float* out) {
  const int width = round_up(count, LANES);
  for (int p = 0; p < count; ++p) {
    auto k = key(p);
    for (int h = 0; h < heads; ++h) {
      vf dot = {};
      for (int i = h * head_dim; i < (h + 1) * head_dim; i += LANES) dot += load(query + i) * load(k + i);
      scores[h * width + p] = sum(dot) * scale;
    }
  }
  for (int h = 0; h < heads; ++h) {
    float* s = scores + h * width;
    for (int p = count; p < width; ++p) s[p] = NEVER;
    vf top = load(s);
    for (int p = LANES; p < width; p += LANES) top = vmax(top, load(s + p));
    const float peak = largest(top);
    vf total = {};
    for (int p = 0; p < width; p += LANES) {
      vf e = vexp(load(s + p) - peak);
      store(s + p, e);
      total += e;
    }
    const float inverse = 1.0f / sum(total);
    for (int p = 0; p < width; p += LANES) store(s + p, load(s + p) * inverse);
  }
  const int dim = heads * head_dim;
  for (int i = 0; i < dim; i += LANES) store(out + i, vf{});
  for (int p = 0; p < count; ++p) {
    auto v = value(p);
    for (int h = 0; h < heads; ++h) {
      const float weight = scores[h * width + p];
      for (int i = h * head_dim; i < (h + 1) * head_dim; i += LANES) store(out + i, load(out + i) + weight * load(v + i));
    }
  }
}

// The largest `count` values of a row, best first; equal values keep the order of their ids, because ids come ascending.
struct Best {
  int count = 0;
  float* values = nullptr;
  int64_t* ids = nullptr;
  void clear() {
    std::fill(values, values + count, NEVER);
    std::fill(ids, ids + count, int64_t(0));
  }
  float bar() const { return values[count - 1]; }
  void insert(float value, int64_t id) {
    int place = count - 1;
    for (; place > 0 && values[place - 1] < value; --place) {
      values[place] = values[place - 1];
      ids[place] = ids[place - 1];
    }
    values[place] = value;
    ids[place] = id;
  }
};

// Log-sum-exp, top-k and one chosen logit of every row of A * W^T. Logits live in a small buffer only: 32 rows by 8
// panels at a time are reduced while they are in the first-level cache.
struct Reduction {
  static constexpr int PANELS = 8;
  Buffer<float> logits;
  std::vector<float> peak;
  std::vector<double> total;

  void run(const Operand& a, const Weight& w, int chosen, std::vector<Best>& best, float* lse, float* chosen_logit) {
    constexpr int WIDTH = PANELS * BLOCK;
    float* block = logits.need(BLOCK * WIDTH);
    peak.assign(a.rows, NEVER);
    total.assign(a.rows, 0.0);
    for (int r = 0; r < a.rows; ++r) best[r].clear();
    for (int first = 0; first < w.panels; first += PANELS) {
      const int panels = std::min(PANELS, w.panels - first);
      const int columns = std::min(panels * BLOCK, w.outputs - first * BLOCK);
      const int offset = first * BLOCK;
      for (int row = 0; row < a.rows; row += BLOCK) {
        for (int p = 0; p < panels; ++p) product(a, w, row, first + p, block + p * BLOCK, WIDTH);
        const int rows = std::min(BLOCK, a.rows - row);
        for (int r = 0; r < rows; ++r) {
          float* x = block + r * WIDTH;
          const int padded = round_up(columns, LANES);
          if (!w.bias.empty())
            for (int c = 0; c < padded; c += LANES) store(x + c, load(x + c) + load(&w.bias[offset + c]));
          for (int c = columns; c < padded; ++c) x[c] = NEVER;
          reduce(x, padded, offset, row + r, best[row + r]);
          if (chosen >= offset && chosen < offset + columns) chosen_logit[row + r] = x[chosen - offset];
        }
      }
    }
    for (int r = 0; r < a.rows; ++r) lse[r] = float(peak[r] + std::log(total[r]));
  }

  void reduce(const float* x, int columns, int offset, int row, Best& best) {
    vf top = splat(peak[row]);
    const float before = peak[row];
    for (int c = 0; c < columns; c += LANES) top = vmax(top, load(x + c));
    const float now = largest(top);
    vf part = {};
    for (int c = 0; c < columns; c += LANES) part += vexp(load(x + c) - now);
    // A NaN never wins `vmax`, but it stays in the sum, and so does inf - inf: both end as a NaN here.
    total[row] = (before == NEVER ? 0.0 : total[row] * std::exp(double(before) - now)) + sum(part);
    peak[row] = now;
    if (!(now > best.bar())) return;
    for (int c = 0; c < columns; c += LANES) {
      vi above = load(x + c) > best.bar();
#if defined(__AVX512F__)
      unsigned mask = _mm512_movepi32_mask((__m512i)above);
#else
      unsigned mask = 0;
      for (int i = 0; i < LANES; ++i) mask |= unsigned(above[i] != 0) << i;
#endif
      while (mask) {
        const int i = __builtin_ctz(mask);
        mask &= mask - 1;
        if (x[c + i] > best.bar()) best.insert(x[c + i], offset + c + i);
      }
    }
  }
};

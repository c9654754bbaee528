// Recurrent units: elementwise steps, and the encoder and the attention of an LSTM.
#pragma once
#include <algorithm>
#include <numeric>
#include <vector>

#include "layers.h"

// NaN stays NaN. Beyond 88 the exponential would overflow; both functions reach their limits long before.
static inline vf exp_at_most(vf x) { return vexp(x > 88.0f ? splat(88.0f) : x); }
static inline vf sigmoid(vf x) { return 1.0f / (1.0f + exp_at_most(-x)); }
static inline vf tanh_of(vf x) { return 1.0f - 2.0f / (exp_at_most(x + x) + 1.0f); }

// One step of an LSTM cell. gates [4 * width] are the input, forget and output gates and the input of the cell.
static void lstm_cell(const float* gates, const float* before, float* after, float* output, int width) {
  for (int i = 0; i < width; i += LANES) {
    const vf entry = sigmoid(load(gates + i)), keep = sigmoid(load(gates + width + i));
    const vf cell = load(before + i) * keep + entry * tanh_of(load(gates + 3 * width + i));
    store(after + i, cell);
    store(output + i, sigmoid(load(gates + 2 * width + i)) * tanh_of(cell));
  }
}

// Attention of one query to `count` positions of a source. A value lies behind its key. There is one head, as wide as the
// model. `scores` has room for round_up(count, LANES) floats.
static void attend_whole(const float* query, const float* entries, int count, int dim, float* scores, float* out) {
  const int width = round_up(count, LANES);
  for (int first = 0; first < width; first += LANES) {
    vf part[LANES] = {};
    for (int j = 0; j < std::min(LANES, count - first); ++j) {
      const float* key = entries + size_t(first + j) * 2 * dim;
      for (int i = 0; i < dim; i += LANES) part[j] += load(query + i) * load(key + i);
    }
    store(scores + first, sums(part));
  }
  const int last = width - LANES;
  store(scores + last, load(scores + last) + outside_mask(count - last));
  const float inverse = exponentials(scores, width);
  for (int i = 0; i < dim; i += LANES) {
    vf even = {}, odd = {};  // a single sum would stall on its own latency
    const float* value = entries + dim + i;
    int p = 0;
    for (; p + 1 < count; p += 2, value += 4 * dim) {
      even += scores[p] * load(value);
      odd += scores[p + 1] * load(value + 2 * dim);
    }
    if (p < count) even += scores[p] * load(value);
    store(out + i, (even + odd) * inverse);
  }
}

static void embed_alone(const Model& m, const float* table, int64_t id, float* out) {
  const vf scale = splat(m.scale);
  for (int i = 0; i < m.dim; i += LANES) store(out + i, load(table + size_t(id) * m.dim + i) * scale);
}

// The encoder states of an LSTM in both directions, for sentences whose ids lie `stride` apart. They are valid until the next
// call on this thread.
static const float* encode_lstm(const Model& m, Scratch& w, const Ragged& sentences, const int64_t* ids, int stride) {
  const int d = m.dim, half = d / 2, rows = sentences.rows(), count = sentences.count();
  float *x = w.x.need(size_t(rows) * d), *y = w.y.need(size_t(rows) * d);
  float* gates = w.wide.need(size_t(rows) * 4 * half);
  float *step = w.normed.need(size_t(count) * 4 * half), *hidden = w.hidden.need(size_t(count) * half);
  float* cells = w.attended.need(size_t(count) * half);
  for (int n = 0, row = 0; n < count; ++n)
    for (int p = 0; p < sentences.length(n); ++p, ++row)
      embed_alone(m, m.source_embedding, ids[size_t(n) * stride + p], x + size_t(row) * d);
  std::vector<int> order(count);  // longest first, so that the unfinished sentences come first at every step
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return sentences.length(a) > sentences.length(b); });
  for (const LstmLayer& layer : m.lstm.encoder) {
    w.operand.set(m.arithmetic, x, rows, d);
    for (int back = 0; back < 2; ++back) {
      multiply(m, w.operand, layer.gates[back], gates, PLAIN);
      std::fill_n(cells, size_t(count) * half, 0.0f);
      int active = count;
      for (int t = 0; t < sentences.longest; ++t) {
        while (sentences.length(order[active - 1]) <= t) --active;
        auto row = [&](int i) {
          return size_t(back ? sentences.first[order[i] + 1] - 1 - t : sentences.first[order[i]] + t);
        };
        for (int i = 0; i < active; ++i) std::copy_n(gates + row(i) * 4 * half, 4 * half, step + size_t(i) * 4 * half);
        if (t > 0) {
          w.memory.set(m.arithmetic, hidden, active, half);
          multiply(m, w.memory, layer.recurrent[back], step, ADD);
        }
        for (int i = 0; i < active; ++i) {
          float* cell = cells + size_t(i) * half;
          lstm_cell(step + size_t(i) * 4 * half, cell, cell, hidden + size_t(i) * half, half);
          std::copy_n(hidden + size_t(i) * half, half, y + row(i) * d + back * half);
        }
      }
    }
    std::swap(x, y);
  }
  return x;
}

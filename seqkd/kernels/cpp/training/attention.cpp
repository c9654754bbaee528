// Scaled dot-product attention for training, forward and backward, in float32. Sentences are short, so the scores of one head
// of one sentence stay in the first-level cache, and only their log-sum-exp is kept for the backward pass.
#include <cmath>

#include "../abi.h"
#include "../memory.h"
#include "../parallel.h"
#include "../vector.h"

constexpr int ROWS = 4;  // queries that share the load of a key
constexpr float NEVER = -INFINITY;

// The strides of a tensor [batch, heads, length, width] between sentences, heads and positions. The last dimension is
// contiguous.
struct Strides {
  int64_t batch, head, position;
};

struct Shape {
  int batch, heads, targets, sources, width;
  int causal;
  float scale;
  Strides query, key, value, out, grad;  // `out` holds for the gradients of the queries, too; for the other gradients see below
};

static inline int padded(int n) { return (n + LANES - 1) / LANES * LANES; }

// Transposes [sources x width] to [width x padded sources], padded with zeros.
static void turn(const float* from, int64_t stride, int sources, int width, float* to) {
  const int room = padded(sources);
  for (int s = 0; s < room; s += LANES)
    for (int d = 0; d < width; d += LANES) {
      vf tile[LANES];
      for (int i = 0; i < LANES; ++i) tile[i] = s + i < sources ? load(from + (s + i) * stride + d) : vf{};
      transpose(tile);
      for (int i = 0; i < LANES; ++i) store(to + size_t(d + i) * room + s, tile[i]);
    }
}

// Rows that are processed together. Rows beyond the last repeat the last one.
struct Rows {
  const float* at[ROWS];
  Rows(const float* first, int64_t stride, int rows) {
    for (int i = 0; i < ROWS; ++i) at[i] = first + std::min(i, rows - 1) * stride;
  }
};

// `SPAN` vectors of each row of out = rows times the same columns of `turned`. The sums of a single vector would stall on their
// own latency.
template <int SPAN>
static void products(const Rows& rows, const float* turned, int room, int width, float* out) {
  vf total[ROWS][SPAN] = {};
  for (int d = 0; d < width; ++d, turned += room) {
    vf b[SPAN];
#pragma GCC unroll 4
    for (int v = 0; v < SPAN; ++v) b[v] = load(turned + v * LANES);
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; ++i) {
      const vf x = splat(rows.at[i][d]);
#pragma GCC unroll 4
      for (int v = 0; v < SPAN; ++v) total[i][v] += x * b[v];
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < SPAN; ++v) store(out + i * room + v * LANES, total[i][v]);
}

// out [ROWS x room] = rows times `turned`.
static void products(const Rows& rows, const float* turned, int room, int width, float* out) {
  for (int s = 0; s < room;) {
    const int left = (room - s) / LANES;
    if (left >= 3) {
      products<3>(rows, turned + s, room, width, out + s), s += 3 * LANES;
    } else if (left == 2) {
      products<2>(rows, turned + s, room, width, out + s), s += 2 * LANES;
    } else {
      products<1>(rows, turned + s, room, width, out + s), s += LANES;
    }
  }
}

// Vectors of a row that stay in registers for all rows at once.
template <int VECTORS>
constexpr int HELD = VECTORS % 4 == 0 && LANES == 16 ? 4
                     : VECTORS % 3 == 0              ? 3
                     : VECTORS % 2 == 0              ? 2
                     : VECTORS <= 5                  ? VECTORS
                                                     : 1;

// Row i of `to`, of `rows`, = the sum over s of weights[i][s] * from[s].
template <int VECTORS>
static void mix(const float* weights, int room, const float* from, int64_t stride, int count, int rows, float* to,
                int64_t to_stride) {
  constexpr int HELD_HERE = HELD<VECTORS>;
  for (int first = 0; first < VECTORS; first += HELD_HERE) {
    vf total[ROWS][HELD_HERE] = {};
    for (int s = 0; s < count; ++s) {
      const float* row = from + s * stride + first * LANES;
#pragma GCC unroll 8
      for (int v = 0; v < HELD_HERE; ++v) {
        const vf x = load(row + v * LANES);
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; ++i) total[i][v] += splat(weights[i * room + s]) * x;
      }
    }
    for (int i = 0; i < rows; ++i)
      for (int v = 0; v < HELD_HERE; ++v) store(to + i * to_stride + (first + v) * LANES, total[i][v]);
  }
}

// Row s of `to` [count x width] += the sum over i of weights[i][s] * rows[i].
template <int VECTORS>
static void spread(const float* weights, int room, const Rows& rows, int count, float* to) {
  constexpr int HELD_HERE = HELD<VECTORS>;
  for (int first = 0; first < VECTORS; first += HELD_HERE) {
    vf held[ROWS][HELD_HERE];
    for (int i = 0; i < ROWS; ++i)
      for (int v = 0; v < HELD_HERE; ++v) held[i][v] = load(rows.at[i] + (first + v) * LANES);
    for (int s = 0; s < count; ++s)
#pragma GCC unroll 8
      for (int v = 0; v < HELD_HERE; ++v) {
        float* at = to + (size_t(s) * VECTORS + first + v) * LANES;
        vf total = load(at);
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; ++i) total += splat(weights[i * room + s]) * held[i][v];
        store(at, total);
      }
  }
}

// [room]: 0 if the query may see the key, otherwise minus infinity.
static void bars_of(const Shape& shape, const uint8_t* mask, int sentence, float* bars) {
  for (int s = 0; s < padded(shape.sources); ++s)
    bars[s] = s < shape.sources && (!mask || mask[size_t(sentence) * shape.sources + s]) ? 0.0f : NEVER;
}

// The largest number of keys that the query at `t` may see.
static inline int seen(const Shape& shape, int t) { return shape.causal ? std::min(t + 1, shape.sources) : shape.sources; }

// Turns scores into probabilities; keys that are not seen get exactly 0. If `known`, log_sum is read, otherwise it is computed.
static void soften(const Shape& shape, const float* bars, int t, bool known, float* x, float* log_sum) {
  const int room = padded(shape.sources), count = seen(shape, t);
  for (int s = count; s < room; ++s) x[s] = NEVER;
  vf peak = splat(NEVER);
  for (int s = 0; s < room; s += LANES) {
    const vf y = load(x + s) * shape.scale + load(bars + s);
    store(x + s, y);
    peak = vmax(peak, y);
  }
  const float base = known ? *log_sum : largest(peak);
  vf total = {};
  for (int s = 0; s < room; s += LANES) {
    const vf y = load(x + s), p = vexp(y - base);
    const vf kept = y == splat(NEVER) ? splat(0.0f) : p;
    total += kept;
    store(x + s, kept);
  }
  if (known) return;
  const float all = sum(total);
  *log_sum = 0.0f;
  if (all == 0.0f) return;  // no key is seen
  for (int s = 0; s < room; s += LANES) store(x + s, load(x + s) / all);
  *log_sum = base + std::log(all);
}

template <int VECTORS>
static void forward(const Shape& shape, const float* query, const float* key, const float* value, const uint8_t* mask,
                    float* out, float* log_sums, Range own) {
  static thread_local Buffer<float> turned_buffer, scores_buffer, bars_buffer;
  const int room = padded(shape.sources);
  float* turned = turned_buffer.need(size_t(shape.width) * room);
  float* scores = scores_buffer.need(size_t(ROWS) * room);
  float* bars = bars_buffer.need(room);
  for (int pair = own.first; pair < own.last; ++pair) {
    const int b = pair / shape.heads, h = pair % shape.heads;
    const float* q = query + b * shape.query.batch + h * shape.query.head;
    const float* k = key + b * shape.key.batch + h * shape.key.head;
    const float* v = value + b * shape.value.batch + h * shape.value.head;
    float* o = out + b * shape.out.batch + h * shape.out.head;
    bars_of(shape, mask, b, bars);
    turn(k, shape.key.position, shape.sources, shape.width, turned);
    for (int first = 0; first < shape.targets; first += ROWS) {
      const int rows = std::min(ROWS, shape.targets - first);
      products(Rows(q + first * shape.query.position, shape.query.position, rows), turned, room, shape.width, scores);
      for (int i = 0; i < rows; ++i)
        soften(shape, bars, first + i, false, scores + i * room, log_sums + size_t(pair) * shape.targets + first + i);
      mix<VECTORS>(scores, room, v, shape.value.position, seen(shape, first + rows - 1), rows, o + first * shape.out.position,
                   shape.out.position);
    }
  }
}

// The gradients of the keys and values are contiguous tensors [batch, sources, heads, width].
template <int VECTORS>
static void backward(const Shape& shape, const float* query, const float* key, const float* value, const uint8_t* mask,
                     const float* grad, const float* log_sums, float* to_query, float* to_key, float* to_value, Range own) {
  static thread_local Buffer<float> keys_buffer, values_buffer, scores_buffer, slopes_buffer, bars_buffer, sums_buffer;
  const int room = padded(shape.sources), width = shape.width;
  float* keys = keys_buffer.need(size_t(width) * room);
  float* values = values_buffer.need(size_t(width) * room);
  float* scores = scores_buffer.need(size_t(ROWS) * room);
  float* slopes = slopes_buffer.need(size_t(ROWS) * room);
  float* bars = bars_buffer.need(room);
  float* sums = sums_buffer.need(size_t(2) * shape.sources * width);
  for (int pair = own.first; pair < own.last; ++pair) {
    const int b = pair / shape.heads, h = pair % shape.heads;
    const float* q = query + b * shape.query.batch + h * shape.query.head;
    const float* k = key + b * shape.key.batch + h * shape.key.head;
    const float* v = value + b * shape.value.batch + h * shape.value.head;
    const float* g = grad + b * shape.grad.batch + h * shape.grad.head;
    float* dq = to_query + b * shape.out.batch + h * shape.out.head;
    float *dk = sums, *dv = sums + size_t(shape.sources) * width;
    std::fill_n(sums, size_t(2) * shape.sources * width, 0.0f);
    bars_of(shape, mask, b, bars);
    turn(k, shape.key.position, shape.sources, width, keys);
    turn(v, shape.value.position, shape.sources, width, values);
    for (int first = 0; first < shape.targets; first += ROWS) {
      const int rows = std::min(ROWS, shape.targets - first), count = seen(shape, first + rows - 1);
      const Rows queries(q + first * shape.query.position, shape.query.position, rows);
      const Rows grads(g + first * shape.grad.position, shape.grad.position, rows);
      products(queries, keys, room, width, scores);
      products(grads, values, room, width, slopes);
      for (int i = rows; i < ROWS; ++i) std::fill_n(scores + i * room, room, 0.0f);
      for (int i = 0; i < rows; ++i)
        soften(shape, bars, first + i, true, scores + i * room,
               const_cast<float*>(log_sums) + size_t(pair) * shape.targets + first + i);
      spread<VECTORS>(scores, room, grads, count, dv);
      for (int i = 0; i < rows; ++i) {
        float *p = scores + i * room, *slope = slopes + i * room;
        vf expected = {};
        for (int s = 0; s < room; s += LANES) expected += load(p + s) * load(slope + s);
        const vf mean = splat(sum(expected));
        for (int s = 0; s < room; s += LANES) store(p + s, load(p + s) * (load(slope + s) - mean) * shape.scale);
      }
      mix<VECTORS>(scores, room, k, shape.key.position, count, rows, dq + first * shape.out.position, shape.out.position);
      spread<VECTORS>(scores, room, queries, count, dk);
    }
    for (int s = 0; s < shape.sources; ++s) {
      const size_t at = ((size_t(b) * shape.sources + s) * shape.heads + h) * width;
      std::copy_n(dk + size_t(s) * width, width, to_key + at);
      std::copy_n(dv + size_t(s) * width, width, to_value + at);
    }
  }
}

template <typename Call>
static void by_width(int width, const Call& call) {
  switch (width / 16) {
    case 1: return call(std::integral_constant<int, 1 * UNIT>());
    case 2: return call(std::integral_constant<int, 2 * UNIT>());
    case 3: return call(std::integral_constant<int, 3 * UNIT>());
    case 4: return call(std::integral_constant<int, 4 * UNIT>());
    case 5: return call(std::integral_constant<int, 5 * UNIT>());
    case 6: return call(std::integral_constant<int, 6 * UNIT>());
    case 8: return call(std::integral_constant<int, 8 * UNIT>());
  }
}

extern "C" {
// `mask` [batch, sources] is 1 for keys that may be seen, or null. `log_sums` is [batch, heads, targets].
void seqkd_attend(const Shape* shape, int threads, const float* query, const float* key, const float* value,
                  const uint8_t* mask, float* out, float* log_sums) {
  parallel(threads, [&](int part, int parts) {
    const Range own(shape->batch * shape->heads, part, parts);
    by_width(shape->width, [&](auto vectors) { forward<vectors>(*shape, query, key, value, mask, out, log_sums, own); });
  });
}

void seqkd_attend_backward(const Shape* shape, int threads, const float* query, const float* key, const float* value,
                           const uint8_t* mask, const float* grad, const float* log_sums, float* to_query, float* to_key,
                           float* to_value) {
  parallel(threads, [&](int part, int parts) {
    const Range own(shape->batch * shape->heads, part, parts);
    by_width(shape->width, [&](auto vectors) {
      backward<vectors>(*shape, query, key, value, mask, grad, log_sums, to_query, to_key, to_value, own);
    });
  });
}
}

// Linear layers and the softmax over a vocabulary, forward and backward, with bf16 products that are summed in float32.
//
// Widths are multiples of 32. All matrices are row-major float32; the bf16 copies never leave these functions.
#include "../abi.h"

#if !defined(__AVX512BF16__)
// Processors with a matrix unit have the AVX-512 products of bf16 pairs, too. Without them the other functions are omitted.
extern "C" int seqkd_training_unit() { return 0; }
#else
#include <algorithm>
#include <cmath>

#if defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "../parallel.h"
#include "tiles.h"

static void with_unit(int threads, const Work& work) {
  parallel(threads, [&](int part, int parts) {
    MatrixUnit unit;
    work(part, parts);
  });
}

// Rows that are processed together: their operands stay in the second-level cache.
constexpr int LINEAR_ROWS = 128, GRADIENT_ROWS = 512;
// Columns of the softmax that are processed together, and bf16 probabilities that are kept at a time.
constexpr int SOFTMAX_COLUMNS = 512;
constexpr size_t SOFTMAX_KEPT = size_t(1) << 23;
constexpr float FAR = 60.0f;  // exp(FAR) and its sums are far from the largest float

static inline vf positive(vf x) { return x < 0.0f ? splat(0.0f) : x; }

static void copy_rows(const float* tile, int rows, float* out, size_t stride) {
  for (int r = 0; r < rows; ++r) memcpy(out + r * stride, tile + r * BLOCK, BLOCK * sizeof(float));
}

static void add_rows(const float* a, int rows, int columns, float* sums) {
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; c += LANES) store(sums + c, load(sums + c) + load(a + size_t(r) * columns + c));
}

// The left operand of a product with the transpose of `a`: its rows are the columns of a, and these rows of a are step `step`
// of `steps`. Rows from `rows` to 32 are zeros.
static void turn_block(const float* a, int rows, int columns, size_t stride, int step, int steps, uint16_t* out) {
  for (int c = 0; c < columns; c += 16) {
    vf pairs[16];
    for (int p = 0; p < 16; ++p) {
      const float* at = a + 2 * p * stride + c;
      pairs[p] = (vf)interleave(2 * p < rows ? load(at) : vf{}, 2 * p + 1 < rows ? load(at + stride) : vf{});
    }
    store_turned(out + (size_t(c / 16) * steps + step) * TILE, pairs);
  }
}

// out [rows x columns] = left operand * right operand, or the product is added to out.
static void add_products(const uint16_t* left, const uint16_t* right, int rows, int columns, int steps, bool first,
                         float* out) {
  for (int row = 0; row < rows; row += BLOCK)
    for (int column = 0; column < columns; column += BLOCK) {
      float* at = out + size_t(row) * columns + column;
      const uint16_t* a = left + size_t(row / 16) * steps * TILE;
      const uint16_t* b = right + size_t(column / BLOCK) * steps * 2 * TILE;
      if (first)
        product<ZERO>(a, size_t(steps) * TILE, b, steps, at, columns);
      else
        product<ADD>(a, size_t(steps) * TILE, b, steps, at, columns);
    }
}

// to [count] = the sum of the first `count` numbers of each of `parts` lists that are `size` numbers apart.
static void fold(const float* sums, size_t size, int parts_to_add, size_t count, int threads, float* to) {
  parallel(threads, [&](int part, int parts) {
    const Range own(int(count), part, parts, LANES);
    for (int i = own.first; i < own.last; i += LANES) {
      vf total = load(sums + i);
      for (int p = 1; p < parts_to_add; ++p) total += load(sums + p * size + i);
      store(to + i, total);
    }
  });
}

extern "C" {

// Whether bf16 products are available. The operating system must allow the matrix unit; the vector unit is always available.
int seqkd_training_unit() {
#if defined(__AMX_BF16__)
  constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
  return 1;
#endif
}

// y [rows x outputs] = x [rows x inputs] * w^T + bias.
void seqkd_linear(const float* x, const float* w, const float* bias, float* y, int rows, int inputs, int outputs,
                  int threads) {
  static thread_local Buffer<uint16_t> packed;
  static const float zeros[BLOCK] = {};
  const int steps = inputs / BLOCK, panels = outputs / BLOCK;
  uint16_t* right = packed.need(size_t(outputs) * inputs);
  with_unit(threads, [&](int part, int parts) {
    const Range own(panels, part, parts);
    pack_right_transposed(w, inputs, own.first, own.last, right);
  });
  with_unit(threads, [&](int part, int parts) {
    static thread_local Buffer<uint16_t> left_buffer;
    const Range own(rows, part, parts, BLOCK);
    uint16_t* left = left_buffer.need(size_t(LINEAR_ROWS) * inputs);
    alignas(64) float tile[BLOCK * BLOCK];
    for (int first = own.first; first < own.last; first += LINEAR_ROWS) {
      const int count = std::min(LINEAR_ROWS, own.last - first);
      pack_left(x + size_t(first) * inputs, count, inputs, 0, 2 * blocks_of(count, BLOCK), left);
      for (int panel = 0; panel < panels; ++panel)
        for (int row = 0; row < count; row += BLOCK) {
          float* out = y + size_t(first + row) * outputs + panel * BLOCK;
          const float* begin = bias ? bias + panel * BLOCK : zeros;
          const uint16_t* a = left + size_t(row) * inputs;
          const uint16_t* b = right + size_t(panel) * steps * 2 * TILE;
          const int whole = std::min(BLOCK, count - row);
          if (whole == BLOCK) {
            product<BIAS>(a, size_t(steps) * TILE, b, steps, out, outputs, begin);
            continue;
          }
          product<BIAS>(a, size_t(steps) * TILE, b, steps, tile, BLOCK, begin);
          copy_rows(tile, whole, out, outputs);
        }
    }
  });
}

// The backward pass of `seqkd_linear`: computes the gradients of x (if needed), w and the bias (if there is one) from that of
// y.
void seqkd_linear_backward(const float* grad, const float* x, const float* w, float* grad_x, float* grad_w,
                           float* grad_bias, int rows, int inputs, int outputs, int threads) {
  static thread_local Buffer<uint16_t> packed;
  static thread_local Buffer<float> sums_buffer;
  const int in_panels = inputs / BLOCK, out_steps = outputs / BLOCK;
  uint16_t* right = packed.need(size_t(outputs) * inputs);
  if (grad_x)
    with_unit(threads, [&](int part, int parts) {
      const Range own(out_steps, part, parts);
      pack_right(w, nullptr, outputs, inputs, own.first, own.last, out_steps, right);
    });
  // Each thread sums its own rows.
  const size_t size = size_t(outputs) * inputs + outputs;
  float* sums = sums_buffer.need(size * threads);
  int used = 1;
  with_unit(threads, [&](int part, int parts) {
    static thread_local Buffer<uint16_t> left_buffer, turned_buffer, x_buffer;
    if (part == 0) used = parts;
    const Range own(rows, part, parts, BLOCK);
    float* own_w = parts == 1 ? grad_w : sums + part * size;
    float* own_bias = sums + part * size + size_t(outputs) * inputs;
    std::fill_n(own_bias, outputs, 0.0f);
    if (own.first == own.last) std::fill_n(own_w, size_t(outputs) * inputs, 0.0f);
    uint16_t* left = left_buffer.need(size_t(BLOCK) * outputs);
    uint16_t* turned = turned_buffer.need(size_t(GRADIENT_ROWS) * outputs);
    uint16_t* x_right = x_buffer.need(size_t(GRADIENT_ROWS) * inputs);
    alignas(64) float tile[BLOCK * BLOCK];
    for (int first = own.first; first < own.last; first += GRADIENT_ROWS) {
      const int count = std::min(GRADIENT_ROWS, own.last - first), steps = blocks_of(count, BLOCK);
      for (int row = 0; row < count; row += BLOCK) {
        const int whole = std::min(BLOCK, count - row);
        const float* g = grad + size_t(first + row) * outputs;
        if (grad_bias) add_rows(g, whole, outputs, own_bias);
        turn_block(g, whole, outputs, outputs, row / BLOCK, steps, turned);
        if (!grad_x) continue;
        pack_left(g, whole, outputs, 0, 2, left);
        for (int panel = 0; panel < in_panels; ++panel) {
          float* out = grad_x + size_t(first + row) * inputs + panel * BLOCK;
          const uint16_t* b = right + size_t(panel) * out_steps * 2 * TILE;
          if (whole == BLOCK) {
            product<ZERO>(left, size_t(out_steps) * TILE, b, out_steps, out, inputs);
            continue;
          }
          product<ZERO>(left, size_t(out_steps) * TILE, b, out_steps, tile, BLOCK);
          copy_rows(tile, whole, out, inputs);
        }
      }
      pack_right(x + size_t(first) * inputs, nullptr, count, inputs, 0, steps, steps, x_right);
      add_products(turned, x_right, outputs, inputs, steps, first == own.first, own_w);
    }
  });
  const size_t weights = size_t(outputs) * inputs;
  if (grad_bias) fold(sums + weights, size, used, outputs, 1, grad_bias);
  if (used > 1) fold(sums, size, used, weights, threads, grad_w);
}

// y = positive part of (x * inner^T + inner_bias), times outer^T, + outer_bias: x and y [rows x dim], inner [hidden x dim],
// outer [dim x hidden]. The hidden values stay in the cache.
void seqkd_feed_forward(const float* x, const float* inner, const float* inner_bias, const float* outer,
                        const float* outer_bias, float* y, int rows, int dim, int hidden, int threads) {
  static thread_local Buffer<uint16_t> inner_buffer, outer_buffer;
  const int dim_steps = dim / BLOCK, hidden_steps = hidden / BLOCK;
  uint16_t* inner_right = inner_buffer.need(size_t(dim) * hidden);
  uint16_t* outer_right = outer_buffer.need(size_t(dim) * hidden);
  with_unit(threads, [&](int part, int parts) {
    const Range own(hidden_steps, part, parts), own_outer(dim_steps, part, parts);
    pack_right_transposed(inner, dim, own.first, own.last, inner_right);
    pack_right_transposed(outer, hidden, own_outer.first, own_outer.last, outer_right);
  });
  with_unit(threads, [&](int part, int parts) {
    static thread_local Buffer<uint16_t> left_buffer, hidden_buffer;
    const Range own(rows, part, parts, BLOCK);
    uint16_t* left = left_buffer.need(size_t(LINEAR_ROWS) * dim);
    uint16_t* between = hidden_buffer.need(size_t(LINEAR_ROWS) * hidden);
    alignas(64) float tile[BLOCK * BLOCK];
    for (int first = own.first; first < own.last; first += LINEAR_ROWS) {
      const int count = std::min(LINEAR_ROWS, own.last - first), blocks = blocks_of(count, BLOCK);
      pack_left(x + size_t(first) * dim, count, dim, 0, 2 * blocks, left);
      for (int s = 0; s < hidden_steps; ++s)
        for (int block = 0; block < blocks; ++block) {
          product<BIAS>(left + size_t(block) * BLOCK * dim, size_t(dim_steps) * TILE,
                        inner_right + size_t(s) * dim_steps * 2 * TILE, dim_steps, tile, BLOCK, inner_bias + s * BLOCK);
          for (int r = 0; r < BLOCK; ++r)
            _mm512_store_si512(between + (size_t(2 * block + r / 16) * hidden_steps + s) * TILE + r % 16 * 32,
                               narrow32(positive(load(tile + r * BLOCK)), positive(load(tile + r * BLOCK + LANES))));
        }
      for (int panel = 0; panel < dim_steps; ++panel)
        for (int block = 0; block < blocks; ++block) {
          const int whole = std::min(BLOCK, count - block * BLOCK);
          float* out = y + size_t(first + block * BLOCK) * dim + panel * BLOCK;
          const uint16_t* a = between + size_t(block) * BLOCK * hidden;
          const uint16_t* b = outer_right + size_t(panel) * hidden_steps * 2 * TILE;
          float* to = whole == BLOCK ? out : tile;
          product<BIAS>(a, size_t(hidden_steps) * TILE, b, hidden_steps, to, whole == BLOCK ? dim : BLOCK,
                        outer_bias + panel * BLOCK);
          if (whole < BLOCK) copy_rows(tile, whole, out, dim);
        }
    }
  });
}

// The backward pass of `seqkd_feed_forward`. It computes the hidden values again. `grads` holds [hidden x dim] for inner,
// [dim x hidden] for outer, and [hidden] and [dim] for their biases, one after the other.
void seqkd_feed_forward_backward(const float* grad, const float* x, const float* inner, const float* inner_bias,
                                 const float* outer, float* grad_x, float* grads, int rows, int dim, int hidden,
                                 int threads) {
  static thread_local Buffer<uint16_t> inner_buffer, back_buffer, outer_buffer;
  static thread_local Buffer<float> sums_buffer;
  const int dim_steps = dim / BLOCK, hidden_steps = hidden / BLOCK;
  const size_t weights = size_t(dim) * hidden, size = 2 * weights + hidden + dim;
  uint16_t* inner_right = inner_buffer.need(weights);  // from x to the hidden values
  uint16_t* back_right = back_buffer.need(weights);    // from their gradient to that of x
  uint16_t* outer_right = outer_buffer.need(weights);  // from the gradient of y to theirs
  with_unit(threads, [&](int part, int parts) {
    const Range own(hidden_steps, part, parts), own_outer(dim_steps, part, parts);
    pack_right_transposed(inner, dim, own.first, own.last, inner_right);
    pack_right(inner, nullptr, hidden, dim, own.first, own.last, hidden_steps, back_right);
    pack_right(outer, nullptr, dim, hidden, own_outer.first, own_outer.last, dim_steps, outer_right);
  });
  float* sums = sums_buffer.need(size * threads);
  int used = 1;
  with_unit(threads, [&](int part, int parts) {
    static thread_local Buffer<uint16_t> left_buffer, grad_buffer, turned_buffer, turned_grad_buffer, x_buffer, h_buffer;
    if (part == 0) used = parts;
    const Range own(rows, part, parts, BLOCK);
    float* own_inner = parts == 1 ? grads : sums + part * size;
    float *own_outer = own_inner + weights, *own_inner_bias = own_outer + weights, *own_bias = own_inner_bias + hidden;
    std::fill_n(own_inner_bias, hidden + dim, 0.0f);
    if (own.first == own.last) std::fill_n(own_inner, 2 * weights, 0.0f);
    uint16_t* left = left_buffer.need(size_t(BLOCK) * dim);
    uint16_t* between = grad_buffer.need(size_t(BLOCK) * (dim + hidden));
    uint16_t* turned = turned_buffer.need(size_t(GRADIENT_ROWS) * hidden);
    uint16_t* turned_grad = turned_grad_buffer.need(size_t(GRADIENT_ROWS) * dim);
    uint16_t* x_right = x_buffer.need(size_t(GRADIENT_ROWS) * dim);
    uint16_t* h_right = h_buffer.need(size_t(GRADIENT_ROWS) * hidden);
    uint16_t* grad_left = between + size_t(BLOCK) * hidden;
    alignas(64) float kept[BLOCK * BLOCK], slope[BLOCK * BLOCK];
    for (int first = own.first; first < own.last; first += GRADIENT_ROWS) {
      const int count = std::min(GRADIENT_ROWS, own.last - first), steps = blocks_of(count, BLOCK);
      for (int step = 0; step < steps; ++step) {
        const int row = first + step * BLOCK, whole = std::min(BLOCK, count - step * BLOCK);
        const float* g = grad + size_t(row) * dim;
        pack_left(x + size_t(row) * dim, whole, dim, 0, 2, left);
        pack_left(g, whole, dim, 0, 2, grad_left);
        turn_block(g, whole, dim, dim, step, steps, turned_grad);
        add_rows(g, whole, dim, own_bias);
        for (int s = 0; s < hidden_steps; ++s) {
          const size_t lower = size_t(dim_steps) * TILE, at = size_t(s) * dim_steps * 2 * TILE;
          product<BIAS>(left, lower, inner_right + at, dim_steps, kept, BLOCK, inner_bias + s * BLOCK);
          product<ZERO>(grad_left, lower, outer_right + at, dim_steps, slope, BLOCK);
          vf sum_low = {}, sum_high = {};
          for (int r = 0; r < BLOCK; ++r) {
            const vf low = load(kept + r * BLOCK), high = load(kept + r * BLOCK + LANES);
            const vf slope_low = low > 0.0f ? load(slope + r * BLOCK) : splat(0.0f);
            const vf slope_high = high > 0.0f ? load(slope + r * BLOCK + LANES) : splat(0.0f);
            store(kept + r * BLOCK, positive(low)), store(kept + r * BLOCK + LANES, positive(high));
            store(slope + r * BLOCK, slope_low), store(slope + r * BLOCK + LANES, slope_high);
            sum_low += slope_low, sum_high += slope_high;
            _mm512_store_si512(between + (size_t(r / 16) * hidden_steps + s) * TILE + r % 16 * 32,
                               narrow32(slope_low, slope_high));
          }
          float* bias = own_inner_bias + s * BLOCK;
          store(bias, load(bias) + sum_low), store(bias + LANES, load(bias + LANES) + sum_high);
          turn_block(slope, whole, BLOCK, BLOCK, step, steps, turned + size_t(2 * s) * steps * TILE);
          for (int pair = 0; pair < 16; ++pair)
            for (int half = 0; half < 2; ++half) {
              const float* even = kept + 2 * pair * BLOCK + half * LANES;
              _mm512_store_si512(h_right + ((size_t(s) * steps + step) * 2 + half) * TILE + pair * 32,
                                 interleave(load(even), load(even + BLOCK)));
            }
        }
        for (int panel = 0; panel < dim_steps; ++panel) {
          float* out = grad_x + size_t(row) * dim + panel * BLOCK;
          float* to = whole == BLOCK ? out : kept;
          product<ZERO>(between, size_t(hidden_steps) * TILE, back_right + size_t(panel) * hidden_steps * 2 * TILE,
                        hidden_steps, to, whole == BLOCK ? dim : BLOCK);
          if (whole < BLOCK) copy_rows(kept, whole, out, dim);
        }
      }
      pack_right(x + size_t(first) * dim, nullptr, count, dim, 0, steps, steps, x_right);
      add_products(turned, x_right, hidden, dim, steps, first == own.first, own_inner);
      add_products(turned_grad, h_right, dim, hidden, steps, first == own.first, own_outer);
    }
  });
  if (used > 1) fold(sums, size, used, size, threads, grads);
}
}

#include "softmax.h"
#endif

// Linear layers and the softmax over a vocabulary, forward and backward, in bf16 products that add up in float32.
//
// Widths are multiples of 32. All matrices are row-major float32; what is narrowed to bf16 never leaves these functions.
#include <algorithm>
#include <cmath>
#include <functional>

#include <sys/syscall.h>
#include <unistd.h>

#include "../../search/native/vector.h"
#include "tiles.h"

// torch's own threads, from whichever OpenMP it has loaded; a second pool would fight with it for the cores.
extern "C" {
__attribute__((weak)) void GOMP_parallel(void (*)(void*), void*, unsigned, unsigned);
__attribute__((weak)) int omp_get_thread_num();
__attribute__((weak)) int omp_get_num_threads();
}

using Work = std::function<void(int part, int parts)>;

static void part_of(void* work) {
  MatrixUnit unit;
  (*static_cast<const Work*>(work))(omp_get_thread_num(), omp_get_num_threads());
}

static void parallel(int threads, const Work& work) {
  if (threads > 1 && GOMP_parallel && omp_get_thread_num && omp_get_num_threads)
    return GOMP_parallel(part_of, const_cast<Work*>(&work), unsigned(threads), 0);
  MatrixUnit unit;
  work(0, 1);
}

struct Range {
  int first, last;
  // The part's share of `count` things, in whole units.
  Range(int count, int part, int parts, int unit = 1) {
    const int units = blocks_of(count, unit);
    first = std::min(count, int(long(units) * part / parts) * unit);
    last = std::min(count, int(long(units) * (part + 1) / parts) * unit);
  }
};

// Rows that go through together: their operands stay in the second-level cache.
constexpr int LINEAR_ROWS = 128, GRADIENT_ROWS = 512;
// Columns of the softmax that go through together, and bf16 probabilities that are kept at a time.
constexpr int SOFTMAX_COLUMNS = 512;
constexpr size_t SOFTMAX_KEPT = size_t(1) << 23;
constexpr float FAR = 60.0f;  // exp(FAR) and its sums are far from the largest float

extern "C" {

int seqkd_training_unit() {
  constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

// y [rows x outputs] = x [rows x inputs] * w^T + bias, or the positive part of that.
void seqkd_linear(const float* x, const float* w, const float* bias, float* y, int rows, int inputs, int outputs, int relu,
                  int threads) {
  static thread_local Buffer<uint16_t> packed;
  static const float zeros[BLOCK] = {};
  const int steps = inputs / BLOCK, panels = outputs / BLOCK;
  uint16_t* right = packed.need(size_t(outputs) * inputs);
  parallel(threads, [&](int part, int parts) {
    const Range own(panels, part, parts);
    pack_right_transposed(w, inputs, own.first, own.last, right);
  });
  parallel(threads, [&](int part, int parts) {
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
          if (!relu && whole == BLOCK) {
            product<BIAS>(a, size_t(steps) * TILE, b, steps, out, outputs, begin);
            continue;
          }
          product<BIAS>(a, size_t(steps) * TILE, b, steps, tile, BLOCK, begin);
          for (int r = 0; r < whole; ++r)
            for (int c = 0; c < BLOCK; c += LANES) {
              const vf v = load(tile + r * BLOCK + c);
              store(out + size_t(r) * outputs + c, relu ? (v < 0.0f ? splat(0.0f) : v) : v);
            }
        }
    }
  });
}

// Of `seqkd_linear`: from the gradient of y those of x (if wanted), w and the bias (if there is one). `y` is what it gave,
// where only the positive part was kept; else null.
void seqkd_linear_backward(const float* grad, const float* x, const float* w, const float* y, float* grad_x, float* grad_w,
                           float* grad_bias, int rows, int inputs, int outputs, int threads) {
  static thread_local Buffer<uint16_t> packed;
  static thread_local Buffer<float> sums_buffer;
  const int in_panels = inputs / BLOCK, out_steps = outputs / BLOCK;
  uint16_t* right = packed.need(size_t(outputs) * inputs);
  if (grad_x)
    parallel(threads, [&](int part, int parts) {
      const Range own(out_steps, part, parts);
      pack_right(w, nullptr, outputs, inputs, own.first, own.last, out_steps, right);
    });
  // Each thread adds up its own rows.
  const size_t size = size_t(outputs) * inputs + outputs;
  float* sums = sums_buffer.need(size * threads);
  int used = 1;
  parallel(threads, [&](int part, int parts) {
    static thread_local Buffer<uint16_t> left_buffer, turned_buffer, x_buffer;
    static thread_local Buffer<float> masked_buffer;
    if (part == 0) used = parts;
    const Range own(rows, part, parts, BLOCK);
    float* own_w = parts == 1 ? grad_w : sums + part * size;
    float* own_bias = sums + part * size + size_t(outputs) * inputs;
    std::fill_n(own_bias, outputs, 0.0f);
    if (own.first == own.last) std::fill_n(own_w, size_t(outputs) * inputs, 0.0f);
    uint16_t* left = left_buffer.need(size_t(BLOCK) * outputs);
    uint16_t* turned = turned_buffer.need(size_t(GRADIENT_ROWS) * outputs);
    uint16_t* x_right = x_buffer.need(size_t(GRADIENT_ROWS) * inputs);
    float* masked = masked_buffer.need(size_t(BLOCK) * outputs);
    alignas(64) float tile[BLOCK * BLOCK];
    for (int first = own.first; first < own.last; first += GRADIENT_ROWS) {
      const int count = std::min(GRADIENT_ROWS, own.last - first), steps = blocks_of(count, BLOCK);
      for (int row = 0; row < count; row += BLOCK) {
        const int whole = std::min(BLOCK, count - row);
        const float* g = grad + size_t(first + row) * outputs;
        if (y) {
          const float* kept = y + size_t(first + row) * outputs;
          for (int i = 0; i < whole * outputs; i += LANES)
            store(masked + i, load(kept + i) > 0.0f ? load(g + i) : splat(0.0f));
          g = masked;
        }
        if (grad_bias)
          for (int r = 0; r < whole; ++r)
            for (int c = 0; c < outputs; c += LANES)
              store(own_bias + c, load(own_bias + c) + load(g + size_t(r) * outputs + c));
        // Columns of the gradient become rows: pairs of rows side by side, then turned.
        for (int c = 0; c < outputs; c += 16) {
          __m512i pairs[16];
          for (int p = 0; p < 16; ++p) {
            const float* at = g + size_t(2 * p) * outputs + c;
            pairs[p] = interleave(2 * p < whole ? _mm512_loadu_ps(at) : _mm512_setzero_ps(),
                                  2 * p + 1 < whole ? _mm512_loadu_ps(at + outputs) : _mm512_setzero_ps());
          }
          transpose(pairs);
          store_tile(turned + (size_t(c / 16) * steps + row / BLOCK) * TILE, pairs);
        }
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
          for (int r = 0; r < whole; ++r) memcpy(out + size_t(r) * inputs, tile + r * BLOCK, BLOCK * sizeof(float));
        }
      }
      pack_right(x + size_t(first) * inputs, nullptr, count, inputs, 0, steps, steps, x_right);
      for (int o = 0; o < outputs; o += BLOCK)
        for (int panel = 0; panel < in_panels; ++panel) {
          float* out = own_w + size_t(o) * inputs + panel * BLOCK;
          const uint16_t* a = turned + size_t(o / 16) * steps * TILE;
          const uint16_t* b = x_right + size_t(panel) * steps * 2 * TILE;
          if (first == own.first)
            product<ZERO>(a, size_t(steps) * TILE, b, steps, out, inputs);
          else
            product<ADD>(a, size_t(steps) * TILE, b, steps, out, inputs);
        }
    }
  });
  if (grad_bias)
    for (int c = 0; c < outputs; ++c) {
      grad_bias[c] = 0.0f;
      for (int p = 0; p < used; ++p) grad_bias[c] += sums[p * size + size_t(outputs) * inputs + c];
    }
  if (used == 1) return;
  parallel(threads, [&](int part, int parts) {
    const Range own(outputs * inputs, part, parts, LANES);
    for (int i = own.first; i < own.last; i += LANES) {
      vf total = load(sums + i);
      for (int p = 1; p < used; ++p) total += load(sums + p * size + i);
      store(grad_w + i, total);
    }
  });
}

// Log-sum-exp of each row's logits x * w^T. If grad_x is given, also the gradients of these, each times its row's `weight`
// (null: 1), summed: the expected row of w under the softmax in grad_x, and for each v the sum over rows of (probability of
// v) * x in row v of grad_w, which is added to.
void seqkd_softmax(const float* x, const float* w, const float* weight, int rows, int dim, int vocab, int threads,
                   float* log_sums, float* grad_x, float* grad_w) {
  static thread_local Buffer<uint16_t> outward_buffer, inward_buffer, left_buffer, kept_buffer, x_buffer;
  static thread_local Buffer<float> reference_buffer, totals_buffer, expected_buffer;
  const int steps = dim / BLOCK, panels = vocab / BLOCK, panels_of_dim = dim / BLOCK;
  const int room = std::max(BLOCK, int(std::min<size_t>(SOFTMAX_KEPT / vocab, size_t(blocks_of(rows, BLOCK)) * BLOCK)) /
                                       BLOCK * BLOCK);
  uint16_t* outward = outward_buffer.need(size_t(vocab) * dim);
  uint16_t* inward = grad_x ? inward_buffer.need(size_t(vocab) * dim) : nullptr;
  parallel(threads, [&](int part, int parts) {
    const Range own(panels, part, parts);
    pack_right_transposed(w, dim, own.first, own.last, outward);
    if (inward) pack_right(w, nullptr, vocab, dim, own.first, own.last, panels, inward);
  });
  uint16_t* left = left_buffer.need(size_t(room) * dim);
  uint16_t* kept = grad_x ? kept_buffer.need(size_t(room) * vocab) : nullptr;
  uint16_t* x_right = grad_x ? x_buffer.need(size_t(room) * dim) : nullptr;
  float* reference = reference_buffer.need(room);
  float* totals = totals_buffer.need(size_t(room) * threads);
  float* expected = grad_x ? expected_buffer.need(size_t(room) * dim * threads) : nullptr;
  for (int first = 0; first < rows; first += room) {
    const int count = std::min(room, rows - first), row_blocks = blocks_of(count, BLOCK);
    parallel(threads, [&](int part, int parts) {
      const Range own(row_blocks, part, parts);
      pack_left(x + size_t(first) * dim, count, dim, 2 * own.first, 2 * own.last, left);
    });
    // The largest of a row's first logits is what exponents are taken from. Where another one lies far above it, all are
    // looked at.
    bool exact = false;
    int used = 1;
    while (true) {
      const int looked_at = exact ? panels : std::min(panels, SOFTMAX_COLUMNS / BLOCK / 2);
      parallel(threads, [&](int part, int parts) {
        const Range own(row_blocks, part, parts);
        alignas(64) float tile[BLOCK * BLOCK];
        for (int block = own.first; block < own.last; ++block) {
          vf peaks[BLOCK];
          for (vf& peak : peaks) peak = splat(-INFINITY);
          for (int panel = 0; panel < looked_at; ++panel) {
            product<ZERO>(left + size_t(block) * BLOCK * dim, size_t(steps) * TILE,
                          outward + size_t(panel) * steps * 2 * TILE, steps, tile, BLOCK);
            for (int r = 0; r < BLOCK; ++r)
              peaks[r] = vmax(peaks[r], vmax(load(tile + r * BLOCK), load(tile + r * BLOCK + LANES)));
          }
          for (int r = 0; r < BLOCK; ++r) reference[block * BLOCK + r] = largest(peaks[r]);
        }
      });
      bool far = false;
      parallel(threads, [&](int part, int parts) {
        static thread_local Buffer<float> logits_buffer;
        static thread_local Buffer<uint16_t> narrow_buffer;
        if (part == 0) used = parts;
        const Range own(vocab, part, parts, SOFTMAX_COLUMNS);
        float* logits = logits_buffer.need(BLOCK * SOFTMAX_COLUMNS);
        uint16_t* narrowed = narrow_buffer.need(BLOCK * SOFTMAX_COLUMNS);
        float* own_totals = totals + size_t(part) * room;
        float* own_expected = grad_x ? expected + size_t(part) * room * dim : nullptr;
        std::fill_n(own_totals, row_blocks * BLOCK, 0.0f);
        if (grad_x && own.first == own.last) std::fill_n(own_expected, size_t(row_blocks) * BLOCK * dim, 0.0f);
        vf highest = splat(-INFINITY);
        for (int column = own.first; column < own.last; column += SOFTMAX_COLUMNS) {
          const int columns = std::min(SOFTMAX_COLUMNS, own.last - column), column_steps = columns / BLOCK;
          for (int block = 0; block < row_blocks; ++block) {
            for (int c = 0; c < columns; c += BLOCK)
              product<ZERO>(left + size_t(block) * BLOCK * dim, size_t(steps) * TILE,
                            outward + size_t((column + c) / BLOCK) * steps * 2 * TILE, steps, logits + c, SOFTMAX_COLUMNS);
            for (int r = 0; r < BLOCK; ++r) {
              const int row = block * BLOCK + r;
              const float* from = logits + r * SOFTMAX_COLUMNS;
              uint16_t* to = narrowed + (size_t(r / 16) * column_steps) * TILE + r % 16 * 32;
              if (row >= count) {
                for (int c = 0; c < columns; c += BLOCK, to += TILE) _mm512_store_si512(to, _mm512_setzero_si512());
                continue;
              }
              const vf base = splat(reference[row]);
              vf even = {}, odd = {};
              for (int c = 0; c < columns; c += BLOCK, to += TILE) {
                const vf a = load(from + c) - base, b = load(from + c + LANES) - base;
                highest = vmax(highest, vmax(a, b));
                const vf p = vexp(a), q = vexp(b);
                even += p, odd += q;
                _mm512_store_si512(to, narrow32((__m512)p, (__m512)q));
              }
              own_totals[row] += sum(even + odd);
            }
            if (!grad_x) continue;
            for (int panel = 0; panel < panels_of_dim; ++panel) {
              float* out = own_expected + size_t(block) * BLOCK * dim + panel * BLOCK;
              const uint16_t* b = inward + (size_t(panel) * panels + column / BLOCK) * 2 * TILE;
              if (column == own.first)
                product<ZERO>(narrowed, size_t(column_steps) * TILE, b, column_steps, out, dim);
              else
                product<ADD>(narrowed, size_t(column_steps) * TILE, b, column_steps, out, dim);
            }
            // Kept for the gradient of w, columns as rows.
            for (int c = 0; c < columns; c += 16) {
              __m512i pairs[16];
              for (int p = 0; p < 16; ++p) {
                const uint16_t* at = narrowed + (size_t(p / 8) * column_steps + c / 32) * TILE + 2 * p % 16 * 32 + c % 32;
                const __m512i even = _mm512_cvtepu16_epi32(_mm256_load_si256(reinterpret_cast<const __m256i*>(at)));
                const __m512i odd = _mm512_cvtepu16_epi32(_mm256_load_si256(reinterpret_cast<const __m256i*>(at + 32)));
                pairs[p] = _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
              }
              transpose(pairs);
              store_tile(kept + (size_t((column + c) / 16) * row_blocks + block) * TILE, pairs);
            }
          }
        }
        if (largest(highest) > FAR) __atomic_store_n(&far, true, __ATOMIC_RELAXED);
      });
      if (!far || exact) break;
      exact = true;
    }
    for (int r = 0; r < count; ++r) {
      for (int p = 1; p < used; ++p) totals[r] += totals[size_t(p) * room + r];
      log_sums[first + r] = reference[r] + std::log(totals[r]);
      totals[r] = (weight ? weight[first + r] : 1.0f) / totals[r];
    }
    if (!grad_x) continue;
    parallel(threads, [&](int part, int parts) {
      const Range own(row_blocks, part, parts);
      pack_right(x + size_t(first) * dim, totals, count, dim, own.first, own.last, row_blocks, x_right);
      for (int r = own.first * BLOCK; r < std::min(count, own.last * BLOCK); ++r)
        for (int c = 0; c < dim; c += LANES) {
          vf total = load(expected + size_t(r) * dim + c);
          for (int p = 1; p < used; ++p) total += load(expected + (size_t(p) * room + r) * dim + c);
          store(grad_x + size_t(first + r) * dim + c, total * totals[r]);
        }
    });
    parallel(threads, [&](int part, int parts) {
      const Range own(panels, part, parts);
      for (int panel = own.first; panel < own.last; ++panel)
        for (int c = 0; c < panels_of_dim; ++c)
          product<ADD>(kept + size_t(panel) * 2 * row_blocks * TILE, size_t(row_blocks) * TILE,
                       x_right + size_t(c) * row_blocks * 2 * TILE, row_blocks, grad_w + size_t(panel) * BLOCK * dim + c * BLOCK,
                       dim);
    });
  }
}

// Adds scale * x[r] to row targets[r] of `to`.
void seqkd_scatter(const float* x, const int64_t* targets, float scale, int rows, int dim, int threads, float* to) {
  parallel(threads, [&](int part, int parts) {
    const Range own(dim, part, parts, LANES);
    for (int r = 0; r < rows; ++r)
      for (int c = own.first; c < own.last; c += LANES) {
        float* at = to + size_t(targets[r]) * dim + c;
        store(at, load(at) + load(x + size_t(r) * dim + c) * scale);
      }
  });
}
}

// C = A * W^T with weights packed once, in panels of 32 outputs.
//
// Four arithmetics: float32 on the vector unit; bf16; "bf16x3", float32 operands split into the bf16 nearest to them and
// the bf16 nearest to the rest, whose three leading products the matrix unit (AMX) sums in float32: a relative error near
// 2^-16 for a third of its speed, which is still several times the vector unit's; and int8: each row of A and each row of
// W is scaled so that its largest magnitude becomes 127 and rounded, sums are exact in int32, and the result is scaled
// back. The products of bf16 and int8 are the matrix unit's, or where there is none the vector unit's own (AVX-512 BF16 and
// VNNI), on the same layouts and with equal int8 results.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "../../models/native/memory.h"
#include "../../models/native/pairs.h"
#include "../../models/native/vector.h"
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

constexpr int BLOCK = 32;  // rows and columns of one product
constexpr int VECTOR_ROWS = 8;  // that the vector unit takes together

enum Arithmetic { FLOAT32 = 0, BF16 = 1, BF16X3 = 2, INT8 = 3 };

static inline int round_up(int n, int unit) { return (n + unit - 1) / unit * unit; }

// Inputs that a tile holds: what is multiplied is padded to a multiple of it.
static inline int tile_depth(Arithmetic arithmetic) { return arithmetic == INT8 ? 64 : 32; }

// How a row of numbers becomes int8: they are multiplied by `to` and rounded, and `back` undoes it.
struct Scale {
  float back, to;
  // A NaN or an infinity makes `back` one, too, and so comes out in every product of the row.
  static Scale of(const float* x, int count) {  // a multiple of 16
    vi top = {};
    for (int i = 0; i < count; i += LANES) {
      const vi magnitude = (vi)load(x + i) & 0x7fffffff;  // ordered as the floats, NaN the largest
      top = magnitude > top ? magnitude : top;
    }
    int32_t largest = top[0];
    for (int i = 1; i < LANES; ++i) largest = std::max(largest, top[i]);
    float peak;
    memcpy(&peak, &largest, sizeof peak);
    return {peak / 127.0f, peak > 1e-30f ? 127.0f / peak : 0.0f};  // rows as small as that are zeros
  }
};

struct Weight {
  int outputs = 0, inputs = 0;  // as given
  int depth = 0;                // inputs, padded to whole tiles
  int panels = 0;
  Buffer<float> floats;       // [panel][depth][32]
  Buffer<uint16_t> high, low; // [panel][depth / 32][half][16][32]: tiles of 16 pairs of inputs x 16 outputs
  Buffer<int8_t> bytes;       // [panel][depth / 64][half][16][64]: tiles of 16 fours of inputs x 16 outputs
  std::vector<float> scales;  // [panels * 32]: int8 only
  std::vector<int32_t> offsets;  // [panels * 32]: int8 on the vector unit only, 128 times the sum of each output's bytes
  std::vector<float> bias;    // [panels * 32]; empty: none

  void pack(const float* w, const float* b, int n, int k, Arithmetic arithmetic) {
    outputs = n, inputs = k, depth = round_up(k, tile_depth(arithmetic)), panels = round_up(n, BLOCK) / BLOCK;
    if (b) {
      bias.assign(panels * BLOCK, 0.0f);
      for (int i = 0; i < n; ++i) bias[i] = b[i];
    }
    size_t total = size_t(panels) * depth * BLOCK;
    auto at = [&](int row, int column) { return row < n && column < k ? w[size_t(row) * k + column] : 0.0f; };
    if (arithmetic == FLOAT32) {
      float* out = floats.need(total);
      for (int p = 0; p < panels; ++p)
        for (int c = 0; c < depth; ++c)
          for (int r = 0; r < BLOCK; ++r) *out++ = at(p * BLOCK + r, c);
      return;
    }
    if (arithmetic == INT8) {
      std::vector<float> to(panels * BLOCK, 0.0f);
      scales.assign(panels * BLOCK, 0.0f);
      for (int r = 0; r < n; ++r) {
        const Scale scale = Scale::of(w + size_t(r) * k, k);
        scales[r] = scale.back, to[r] = scale.to;
      }
      offsets.assign(panels * BLOCK, 0);
      int8_t* out = bytes.need(total);
      for (int p = 0; p < panels; ++p)
        for (int c = 0; c < depth; c += 64)
          for (int half = 0; half < 2; ++half)
            for (int four = 0; four < 16; ++four)
              for (int r = p * BLOCK + half * 16; r < p * BLOCK + half * 16 + 16; ++r)
                for (int e = 0; e < 4; ++e) {
                  const float x = std::nearbyint(at(r, c + 4 * four + e) * to[r]);
                  *out = x == x ? int8_t(x) : 0;  // no NaN: 0 times the infinity of the row's scale is one again
                  offsets[r] += 128 * *out++;
                }
      return;
    }
    uint16_t* hi = high.need(total);
    uint16_t* lo = arithmetic == BF16X3 ? low.need(total) : nullptr;
    for (int p = 0; p < panels; ++p)
      for (int c = 0; c < depth; c += 32)
        for (int half = 0; half < 2; ++half)
          for (int pair = 0; pair < 16; ++pair)
            for (int r = 0; r < 16; ++r)
              for (int e = 0; e < 2; ++e) {
                vf x = splat(at(p * BLOCK + half * 16 + r, c + 2 * pair + e));
                vh h = narrow(x);
                *hi++ = h[0];
                if (lo) *lo++ = narrow(x - widen(h))[0];
              }
  }
};

// The left operand, laid out for the arithmetic; rows are padded to whole blocks.
struct Operand {
  Arithmetic arithmetic = FLOAT32;
  const float* floats = nullptr;
  int rows = 0, stride = 0, depth = 0;
  Buffer<float> padded;
  Buffer<uint16_t> high, low;  // [row / 16][depth / 32][16][32]: tiles
  Buffer<int8_t> bytes;        // [row / 16][depth / 64][16][64]: tiles
  Buffer<float> scales;        // [rows]: int8 only

  void set(Arithmetic chosen, const float* a, int m, int k) {
    arithmetic = chosen, rows = m, depth = round_up(k, tile_depth(arithmetic));
    int whole = round_up(m, BLOCK);
    stride = depth;
    if (arithmetic == FLOAT32) {
      if (k == depth && m % VECTOR_ROWS == 0) {  // as it lies; nothing that is multiplied is written over meanwhile
        floats = a;
        return;
      }
      float* out = padded.need(size_t(whole) * depth);
      for (int r = 0; r < m; ++r) {
        memcpy(out + size_t(r) * depth, a + size_t(r) * k, k * sizeof(float));
        for (int c = k; c < depth; ++c) out[size_t(r) * depth + c] = 0.0f;
      }
      memset(out + size_t(m) * depth, 0, size_t(whole - m) * depth * sizeof(float));
      floats = out;
      return;
    }
#if defined(__AVX512F__)
    if (arithmetic == INT8) return set_bytes(a, k, whole);
#endif
    uint16_t* hi = high.need(size_t(whole) * depth);
    uint16_t* lo = arithmetic == BF16X3 ? low.need(size_t(whole) * depth) : nullptr;
    for (int r = 0; r < m; ++r)
      for (int c = 0; c < depth; c += LANES) {
        vf x = c < k ? load(a + size_t(r) * k + c) : splat(0.0f);  // k is a multiple of 16
        const size_t at = (size_t(r / 16) * (depth / 32) + c / 32) * 512 + r % 16 * 32 + c % 32;
        vh h = narrow(x);
        *reinterpret_cast<vh_any*>(hi + at) = h;
        if (lo) store(lo + at, x - widen(h));
      }
    // What stands in the rows beyond the last comes to nothing: each row of a product is its own.
  }

#if defined(__AVX512F__)
 private:
  void set_bytes(const float* a, int k, int whole) {
    int8_t* out = bytes.need(size_t(whole) * depth);
    float* back = scales.need(whole);
    for (int r = 0; r < rows; ++r, a += k) {
      const Scale scale = Scale::of(a, k);
      back[r] = scale.back;
      int8_t* line = out + size_t(r / 16) * depth * 16 + r % 16 * 64;
      for (int c = 0; c < depth; c += LANES) {
        const vf x = c < k ? load(a + c) * scale.to : splat(0.0f);
        __m128i rounded = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32((__m512)x));
#if !defined(__AMX_INT8__)
        rounded = _mm_xor_si128(rounded, _mm_set1_epi8(-128));  // the vector unit wants it without a sign: 128 is added
#endif
        _mm_store_si128(reinterpret_cast<__m128i*>(line + c / 64 * 1024 + c % 64), rounded);
      }
    }
  }
#endif
};

#if defined(__AMX_BF16__)
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

static inline void tile_product(const Operand& a, const Weight& w, int row, int panel, float* out, int stride) {
  const int steps = w.depth / 32;
  const size_t tile = 16 * 32;
  const uint16_t* b_high = w.high.data + size_t(panel) * w.depth * BLOCK;
  const uint16_t* a_high = a.high.data + size_t(row) * a.depth;
  const size_t half = steps * tile;  // the block's rows 16 to 31
  // GCC's tile loads do not tell it that they read memory.
  __asm__ volatile("" ::: "memory");
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  if (a.arithmetic == BF16) {
    for (int c = 0; c < steps; ++c, a_high += tile, b_high += 2 * tile) {
      _tile_loadd(6, b_high, 64);
      _tile_loadd(4, a_high, 64);
      _tile_loadd(7, b_high + tile, 64);
      _tile_loadd(5, a_high + half, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  } else {
    const uint16_t* b_low = w.low.data + size_t(panel) * w.depth * BLOCK;
    const uint16_t* a_low = a.low.data + size_t(row) * a.depth;
    for (int c = 0; c < steps; ++c, a_high += tile, a_low += tile, b_high += 2 * tile, b_low += 2 * tile) {
      _tile_loadd(6, b_high, 64);
      _tile_loadd(4, a_low, 64);
      _tile_loadd(7, b_high + tile, 64);
      _tile_loadd(5, a_low + half, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
      _tile_loadd(4, a_high, 64);
      _tile_loadd(5, a_high + half, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
      _tile_loadd(6, b_low, 64);
      _tile_loadd(7, b_low + tile, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, out, stride * 4L);
  _tile_stored(1, out + 16, stride * 4L);
  _tile_stored(2, out + 16L * stride, stride * 4L);
  _tile_stored(3, out + 16L * stride + 16, stride * 4L);
}
#elif defined(__AVX512BF16__)
static inline void tile_product(const Operand& a, const Weight& w, int row, int panel, float* out, int stride) {
  const int rows = std::min(BLOCK, round_up(a.rows - row, PAIR_ROWS));
  for (int r = 0; r < rows; r += PAIR_ROWS) {
    __m512 low[PAIR_ROWS] = {}, high[PAIR_ROWS] = {};
    const uint16_t* left = a.high.data + size_t(row + r) / 16 * 16 * a.depth + (row + r) % 16 * 32;
    add_pair_products(left, w.high.data + size_t(panel) * w.depth * BLOCK, w.depth / 32, low, high);
    for (int i = 0; i < PAIR_ROWS; ++i) {
      store(out + size_t(r + i) * stride, (vf)low[i]);
      store(out + size_t(r + i) * stride + LANES, (vf)high[i]);
    }
  }
}
#endif

#if defined(__AMX_INT8__)
// As `tile_product`, but what it leaves are int32, for `scaled_back`.
static inline void byte_product(const Operand& a, const Weight& w, int row, int panel, float* out, int stride) {
  const size_t tile = 16 * 64;
  const int8_t* right = w.bytes.data + size_t(panel) * w.depth * BLOCK;
  const int8_t* left = a.bytes.data + size_t(row) * a.depth;
  const size_t half = size_t(a.depth) * 16;
  __asm__ volatile("" ::: "memory");
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int c = 0; c < w.depth; c += 64, left += tile, right += 2 * tile) {
    _tile_loadd(6, right, 64);
    _tile_loadd(4, left, 64);
    _tile_loadd(7, right + tile, 64);
    _tile_loadd(5, left + half, 64);
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_stored(0, out, stride * 4L);
  _tile_stored(1, out + 16, stride * 4L);
  _tile_stored(2, out + 16L * stride, stride * 4L);
  _tile_stored(3, out + 16L * stride + 16, stride * 4L);
}
#elif defined(__AVX512VNNI__)
static inline void byte_product(const Operand& a, const Weight& w, int row, int panel, float* out, int stride) {
  constexpr int ROWS = VECTOR_ROWS;
  const int rows = std::min(BLOCK, round_up(a.rows - row, ROWS));
  const int32_t* offsets = w.offsets.data() + panel * BLOCK;
  const __m512i zero = _mm512_setzero_si512();
  const __m512i left_start = _mm512_sub_epi32(zero, _mm512_loadu_si512(offsets));
  const __m512i right_start = _mm512_sub_epi32(zero, _mm512_loadu_si512(offsets + LANES));
  for (int r = 0; r < rows; r += ROWS) {
    __m512i left[ROWS], right[ROWS];
    for (int i = 0; i < ROWS; ++i) left[i] = left_start, right[i] = right_start;
    const int8_t* b = w.bytes.data + size_t(panel) * w.depth * BLOCK;
    const int8_t* x = a.bytes.data + size_t(row + r) / 16 * 16 * a.depth + (row + r) % 16 * 64;
    for (int c = 0; c < w.depth; c += 64, b += 2048, x += 1024)
      for (int four = 0; four < 16; ++four) {
        const __m512i b0 = _mm512_load_si512(b + four * 64), b1 = _mm512_load_si512(b + 1024 + four * 64);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; ++i) {
          int32_t bytes;
          memcpy(&bytes, x + i * 64 + 4 * four, sizeof bytes);
          const __m512i value = _mm512_set1_epi32(bytes);
          left[i] = _mm512_dpbusd_epi32(left[i], value, b0);
          right[i] = _mm512_dpbusd_epi32(right[i], value, b1);
        }
      }
    for (int i = 0; i < ROWS; ++i) {
      _mm512_storeu_si512(out + size_t(r + i) * stride, left[i]);
      _mm512_storeu_si512(out + size_t(r + i) * stride + LANES, right[i]);
    }
  }
}
#endif

static inline void vector_product(const Operand& a, const Weight& w, int row, int panel, float* out, int stride) {
  constexpr int ROWS = VECTOR_ROWS;
  const int rows = std::min(BLOCK, round_up(a.rows - row, ROWS));
  for (int r = 0; r < rows; r += ROWS) {
    vf left[ROWS] = {}, right[ROWS] = {};
    const float* b = w.floats.data + size_t(panel) * w.depth * BLOCK;
    const float* x = a.floats + size_t(row + r) * a.stride;
    for (int c = 0; c < w.inputs; ++c, b += BLOCK) {
      vf b0 = load(b), b1 = load(b + LANES);
#pragma GCC unroll 8
      for (int i = 0; i < ROWS; ++i) {
        vf value = splat(x[size_t(i) * a.stride + c]);
        left[i] += value * b0;
        right[i] += value * b1;
      }
    }
    for (int i = 0; i < ROWS; ++i) {
      store(out + size_t(r + i) * stride, left[i]);
      store(out + size_t(r + i) * stride + LANES, right[i]);
    }
  }
}

// Sixteen int32 where `sums` points, as the floats that they stand for.
static inline vf scaled_back(const float* sums, vf scale) {
  vi whole;
  memcpy(&whole, sums, sizeof whole);
  return __builtin_convertvector(whole, vf) * scale;
}

// out[32 x 32] = rows row..row+31 of A times panel `panel` of W; no bias; int32 where the arithmetic is int8.
static inline void raw_product(const Operand& a, const Weight& w, int row, int panel, float* out, int stride) {
#if defined(__AMX_INT8__) || defined(__AVX512VNNI__)
  if (a.arithmetic == INT8) return byte_product(a, w, row, panel, out, stride);
#endif
#if defined(__AMX_BF16__) || defined(__AVX512BF16__)
  if (a.arithmetic != FLOAT32) return tile_product(a, w, row, panel, out, stride);
#endif
  vector_product(a, w, row, panel, out, stride);
}

// The same, always floats.
static inline void product(const Operand& a, const Weight& w, int row, int panel, float* out, int stride) {
  raw_product(a, w, row, panel, out, stride);
  if (a.arithmetic != INT8) return;
  const vf left = load(&w.scales[panel * BLOCK]), right = load(&w.scales[panel * BLOCK + LANES]);
  const float* scale = a.scales.data + row;
  for (int r = 0; r < std::min(BLOCK, a.rows - row); ++r, out += stride) {
    store(out, scaled_back(out, left * scale[r]));
    store(out + LANES, scaled_back(out + LANES, right * scale[r]));
  }
}

enum Finish { PLAIN = 0, RELU = 1, GELU = 2, ADD = 3 };

// c[m x outputs] = finish(A * W^T + bias); ADD adds onto what c holds (the residual). Fastest where what is read and
// written stays in the second-level cache: callers give some hundred rows at a time.
static void multiply(const Operand& a, const Weight& w, float* c, Finish finish) {
  alignas(64) float tile[BLOCK * BLOCK];
  const bool integers = a.arithmetic == INT8;
  for (int panel = 0; panel < w.panels; ++panel) {
    const int columns = std::min(BLOCK, w.outputs - panel * BLOCK);
    vf bias[2] = {};
    if (!w.bias.empty()) bias[0] = load(&w.bias[panel * BLOCK]), bias[1] = load(&w.bias[panel * BLOCK + LANES]);
    vf scales[2] = {};
    if (integers) scales[0] = load(&w.scales[panel * BLOCK]), scales[1] = load(&w.scales[panel * BLOCK + LANES]);
    for (int row = 0; row < a.rows; row += BLOCK) {
      raw_product(a, w, row, panel, tile, BLOCK);
      const int rows = std::min(BLOCK, a.rows - row);
      for (int r = 0; r < rows; ++r) {
        float* out = c + size_t(row + r) * w.outputs + panel * BLOCK;
        for (int part = 0; part * LANES < columns; ++part) {  // outputs are a multiple of 16
          const float* sums = tile + r * BLOCK + part * LANES;
          vf x = integers ? scaled_back(sums, scales[part] * a.scales.data[row + r]) : load(sums);
          x += bias[part];
          if (finish == RELU) {
            x = x > 0.0f ? x : (x != x ? x : splat(0.0f));
          } else if (finish == GELU) {
            for (int i = 0; i < LANES; ++i) x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678f));
          } else if (finish == ADD) {
            x += load(out + part * LANES);
          }
          store(out + part * LANES, x);
        }
      }
    }
  }
}

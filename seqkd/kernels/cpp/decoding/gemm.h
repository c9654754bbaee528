// C = A * W^T. Products of bf16 and int8 run on the matrix unit or, without one, on the vector unit (AVX-512 BF16 and VNNI; for
// int8 AVX2, too) with the same layouts. On other processors bf16 is only the storage format of weights, and products are
// float32. The integer sums of int8 are equal everywhere, but their inputs are rounded from float32 values, whose sums differ
// in order.
#pragma once
#include <algorithm>
#include <type_traits>

#include "../pairs.h"
#include "operands.h"

// Groups of rows that the vector unit processes together. The groups have nearly equal sizes.
struct Groups {
  int rows, most = VECTOR_ROWS, count = (rows + most - 1) / most;
  int first(int group) const { return rows * group / count; }
};

// One of `all` equal parts of the data to prefetch.
struct Share {
  int own, all;
};

// Prefetches the next panel while the first block of rows is multiplied by this one: a share of it in `asks` portions. The
// hardware prefetcher stops at page boundaries, so with few rows most loads would stall.
template <typename T>
static inline Ahead next_panel(const T* panel, const Weight& w, int index, int row, Share share, int asks) {
  if (row || index + 1 == w.panels) return {};
  const size_t bytes = size_t(w.depth) * BLOCK * sizeof(T);
  const int portions = asks * share.all, lines = int((bytes / LINE + portions - 1) / portions);
  return {reinterpret_cast<const char*>(panel) + bytes + size_t(share.own) * asks * lines * LINE, lines};
}

// Calls `work(rows, first, group)` for each group. The number of rows is a compile-time constant, so missing rows cost nothing.
template <typename Work>
static inline void in_groups(const Groups& groups, const Work& work) {
  for (int group = 0; group < groups.count; ++group) {
    const int first = groups.first(group);
    switch (groups.first(group + 1) - first) {
      case 1: work(std::integral_constant<int, 1>{}, first, group); break;
      case 2: work(std::integral_constant<int, 2>{}, first, group); break;
      case 3: work(std::integral_constant<int, 3>{}, first, group); break;
      case 4: work(std::integral_constant<int, 4>{}, first, group); break;
      case 5: work(std::integral_constant<int, 5>{}, first, group); break;
      case 6: work(std::integral_constant<int, 6>{}, first, group); break;
#if defined(__AVX512F__)
      case 7: work(std::integral_constant<int, 7>{}, first, group); break;
      case 8: work(std::integral_constant<int, 8>{}, first, group); break;
#endif
    }
  }
}

// The same for rows of a block in tile layout, sixteen rows a tile: no group spans two tiles. Calls
// `work(rows, first, share)`.
template <typename Work>
static inline void in_tiles(int rows, const Work& work) {
  const Groups tiles[] = {{std::min(16, rows)}, {std::max(0, rows - 16)}};
  const int all = tiles[0].count + tiles[1].count;
  for (int tile = 0; tile < 2; ++tile)
    in_groups(tiles[tile], [&](auto count, int first, int group) {
      work(count, tile * 16 + first, Share{tile * tiles[0].count + group, all});
    });
}

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
  const size_t half = steps * tile;  // rows 16 to 31 of the block
  // GCC does not know that its tile loads read memory.
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
COMPILED_ONCE static void tile_product(const Operand& a, const Weight& w, int row, int panel, float* out, int stride) {
  const uint16_t* right = w.high.data + size_t(panel) * w.depth * BLOCK;
  in_tiles(std::min(BLOCK, a.rows - row), [&](auto count, int r, Share share) {
    constexpr int ROWS = decltype(count)::value;
    __m512 low[ROWS] = {}, high[ROWS] = {};
    const uint16_t* left = a.high.data + in_tile<32>(row + r, 0, a.depth);
    add_pair_products<ROWS>(left, right, w.depth / 32, low, high, next_panel(right, w, panel, row, share, w.depth / 32));
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
      store(out + size_t(r + i) * stride, (vf)low[i]);
      store(out + size_t(r + i) * stride + LANES, (vf)high[i]);
    }
  });
}
#endif

#if defined(__AMX_INT8__)
// Like `tile_product`, but the results are int32, for `scaled_back`.
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
COMPILED_ONCE static void byte_product(const Operand& a, const Weight& w, int row, int panel, float* out, int stride) {
  const int8_t* panel_bytes = w.bytes.data + size_t(panel) * w.depth * BLOCK;
  const int32_t* offsets = w.offsets.data() + panel * BLOCK;
  const __m512i zero = _mm512_setzero_si512();
  const __m512i left_start = _mm512_sub_epi32(zero, _mm512_loadu_si512(offsets));
  const __m512i right_start = _mm512_sub_epi32(zero, _mm512_loadu_si512(offsets + LANES));
  in_tiles(std::min(BLOCK, a.rows - row), [&](auto count, int r, Share share) {
    constexpr int ROWS = decltype(count)::value;
    __m512i left[ROWS], right[ROWS];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) left[i] = left_start, right[i] = right_start;
    const int8_t *b = panel_bytes, *x = a.bytes.data + in_tile<64>(row + r, 0, a.depth);
    Ahead ahead = next_panel(panel_bytes, w, panel, row, share, w.depth / 64);
    for (int c = 0; c < w.depth; c += 64, b += 2048, x += 1024) {
      ahead.ask();
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
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
      _mm512_storeu_si512(out + size_t(r + i) * stride, left[i]);
      _mm512_storeu_si512(out + size_t(r + i) * stride + LANES, right[i]);
    }
  });
}
#elif defined(INT8_PRODUCTS)
// Adds to the sums of eight outputs the products of a row's next four or eight inputs with the weights at `right`.
template <ShortSums TOGETHER>
static inline __m256i add_products(__m256i sums, const __m256i* fours, const int8_t* right) {
  const auto next = [&](int i) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(right + 64 * i)); };
#if defined(__AVXVNNI__)
  sums = _mm256_dpbusd_avx_epi32(sums, fours[0], next(0));
  return TOGETHER == TWO ? sums : _mm256_dpbusd_avx_epi32(sums, fours[1], next(1));
#else
  __m256i shorts = _mm256_maddubs_epi16(fours[0], next(0));
  if (TOGETHER == FOUR) shorts = _mm256_add_epi16(shorts, _mm256_maddubs_epi16(fours[1], next(1)));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(shorts, _mm256_set1_epi16(1)));
#endif
}

// The products of some rows with half a panel, two vectors of eight outputs. It is a separate function, because inlined sums
// might not stay in registers.
template <int ROWS, ShortSums TOGETHER>
COMPILED_ONCE static void byte_products(const int8_t* x, int depth, const int8_t* b, const int32_t* offsets, Ahead ahead,
                                        float* out, int stride) {
  constexpr int FOURS = TOGETHER / 2;
  __m256i sums[ROWS][2];
#pragma GCC unroll 2
  for (int v = 0; v < 2; ++v) {
    const __m256i start = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(offsets + v * 8));
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) sums[i][v] = _mm256_sub_epi32(_mm256_setzero_si256(), start);
  }
  for (int c = 0; c < depth; c += 64, b += 2048, x += 1024) {
    ahead.ask();
#pragma GCC unroll 2
    for (int four = 0; four < 16; four += FOURS)
#pragma GCC unroll 8
      for (int i = 0; i < ROWS; ++i) {
        __m256i fours[FOURS];
#pragma GCC unroll 2
        for (int next = 0; next < FOURS; ++next) {
          int32_t bytes;
          memcpy(&bytes, x + i * 64 + 4 * (four + next), sizeof bytes);
          fours[next] = _mm256_set1_epi32(bytes);
        }
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v) sums[i][v] = add_products<TOGETHER>(sums[i][v], fours, b + 64 * four + 32 * v);
      }
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + size_t(i) * stride + v * 8), sums[i][v]);
}

static void byte_product(const Operand& a, const Weight& w, int row, int panel, float* out, int stride) {
  const int8_t* bytes = w.bytes.data + size_t(panel) * w.depth * BLOCK;
  for (int half = 0; half < 2; ++half)
    in_tiles(std::min(BLOCK, a.rows - row), [&](auto count, int r, Share share) {
      constexpr int ROWS = decltype(count)::value;
      const auto multiply = w.together == TWO ? byte_products<ROWS, TWO> : byte_products<ROWS, FOUR>;
      const Share both{half * share.all + share.own, 2 * share.all};
      multiply(a.bytes.data + in_tile<64>(row + r, 0, a.depth), a.depth, bytes + half * 1024,
               &w.offsets[panel * BLOCK + half * 16], next_panel(bytes, w, panel, row, both, w.depth / 64),
               out + size_t(r) * stride + half * 16, stride);
    });
}
#endif

// The products of some rows with `SPAN` parts of a panel, float32 or bf16.
template <int ROWS, int SPAN, typename T>
COMPILED_ONCE static void vector_products(const float* x, int x_stride, const Weight& w, const T* b, Ahead ahead, float* out,
                                          int stride) {
  constexpr int VECTORS = 2 * SPAN;
  vf sums[ROWS][VECTORS] = {};
  for (int step = 0; step < w.inputs; step += 16) {  // inputs are a multiple of 16
    ahead.ask();
#pragma GCC unroll 4
    for (int c = step; c < step + 16; ++c, b += PART) {
      vf right[VECTORS];
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) right[v] = load(b + size_t(v / 2) * w.depth * PART + v % 2 * LANES);
#pragma GCC unroll 8
      for (int i = 0; i < ROWS; ++i) {
        const vf value = splat(x[size_t(i) * x_stride + c]);
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) sums[i][v] += value * right[v];
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; ++i)
    for (int v = 0; v < VECTORS; ++v) store(out + size_t(i) * stride + v * LANES, sums[i][v]);
}

template <typename T>
static void vector_product(const Operand& a, const Weight& w, const T* weights, int row, int panel, float* out, int stride) {
  const Groups groups{std::min(BLOCK, a.rows - row)};
  const T* own = weights + size_t(panel) * w.depth * BLOCK;
  for (int part = 0; part < PARTS; ++part)
    in_groups(groups, [&](auto count, int r, int group) {
      constexpr int ROWS = decltype(count)::value;
      constexpr int SPAN = ROWS <= 2 && PARTS > 1 ? 2 : 1;  // the sums of one row and one part would stall on their latency
      if (part % SPAN) return;
      const Share share{part / SPAN * groups.count + group, PARTS / SPAN * groups.count};
      vector_products<ROWS, SPAN>(a.floats + size_t(row + r) * a.stride, a.stride, w, own + size_t(part) * w.depth * PART,
                                  next_panel(own, w, panel, row, share, w.depth / 16),
                                  out + size_t(r) * stride + part * PART, stride);
    });
}

// The vector of int32 at `sums`, scaled back to floats.
static inline vf scaled_back(const float* sums, vf scale) {
  vi whole;
  memcpy(&whole, sums, sizeof whole);
  return __builtin_convertvector(whole, vf) * scale;
}

// out[32 x 32] = rows row..row+31 of A times panel `panel` of W, without bias; int32 if the arithmetic is int8.
static inline void raw_product(const Operand& a, const Weight& w, int row, int panel, float* out, int stride) {
#if defined(INT8_PRODUCTS)
  if (a.arithmetic == INT8) return byte_product(a, w, row, panel, out, stride);
#endif
#if defined(__AMX_BF16__) || defined(__AVX512BF16__)
  if (a.arithmetic != FLOAT32) return tile_product(a, w, row, panel, out, stride);
#else
  if (a.arithmetic == BF16) return vector_product(a, w, w.high.data, row, panel, out, stride);
#endif
  vector_product(a, w, w.floats.data, row, panel, out, stride);
}

// The same, but always in floats.
static inline void product(const Operand& a, const Weight& w, int row, int panel, float* out, int stride) {
  raw_product(a, w, row, panel, out, stride);
  if (a.arithmetic != INT8) return;
  const float *scale = a.scales.data + row, *scales = &w.scales[panel * BLOCK];
  for (int r = 0; r < std::min(BLOCK, a.rows - row); ++r, out += stride)
    for (int c = 0; c < BLOCK; c += LANES) store(out + c, scaled_back(out + c, load(scales + c) * scale[r]));
}

enum Finish { PLAIN = 0, RELU = 1, GELU = 2, ADD = 3, SWISH = 4 };

// c[m x outputs] = finish(A * W^T + bias), for `count` panels from `first` on. ADD adds to the contents of c (the residual).
// It is fastest if its data stays in the second-level cache: callers pass some hundred rows at a time.
template <Finish finish>
COMPILED_ONCE void multiply_panels(const Operand& a, const Weight& w, float* c, int first, int count) {
  alignas(64) float tile[BLOCK * BLOCK];
  const bool integers = a.arithmetic == INT8;
  for (int panel = first; panel < first + count; ++panel) {
    const int columns = std::min(BLOCK, w.outputs - panel * BLOCK);
    vf bias[BLOCK / LANES] = {}, scales[BLOCK / LANES] = {};
    for (int i = 0; i < BLOCK / LANES; ++i) {
      if (!w.bias.empty()) bias[i] = load(&w.bias[panel * BLOCK + i * LANES]);
      if (integers) scales[i] = load(&w.scales[panel * BLOCK + i * LANES]);
    }
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
          } else if (finish == SWISH) {
            x = x / (1.0f + vexp(-x));
          } else if (finish == ADD) {
            x += load(out + part * LANES);
          }
          store(out + part * LANES, x);
        }
      }
    }
  }
}

static void multiply_panels(const Operand& a, const Weight& w, float* c, Finish finish, int first, int count) {
  switch (finish) {
    case PLAIN: return multiply_panels<PLAIN>(a, w, c, first, count);
    case RELU: return multiply_panels<RELU>(a, w, c, first, count);
    case GELU: return multiply_panels<GELU>(a, w, c, first, count);
    case ADD: return multiply_panels<ADD>(a, w, c, first, count);
    case SWISH: return multiply_panels<SWISH>(a, w, c, first, count);
  }
}

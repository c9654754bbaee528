// The operands of products of A and W^T: weights, packed once in panels of 32 outputs, and rows of A in the same layout.
//
// There are four arithmetics. float32 runs on the vector unit. bf16 rounds both operands. "bf16x3" splits each float32 operand
// into the nearest bf16 and the bf16 nearest to the remainder, and sums the three leading products in float32 on the matrix
// unit (AMX): the relative error is near 2^-16, at a third of the unit's bf16 speed, which is still several times that of the
// vector unit. int8 scales and rounds each row of A and of W, sums exactly in int32, and scales the result back. The largest
// magnitude of a row of A becomes 127. So does that of a row of W unless sums of a few products would exceed 16 bits, in which
// AVX2 first adds them (see `Scale::of_weights`).
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "../memory.h"
#include "../vector.h"

constexpr int BLOCK = 32;  // rows and columns of one product
constexpr int PART = 2 * LANES;  // columns that the vector unit processes together
constexpr int PARTS = BLOCK / PART;
constexpr int VECTOR_ROWS = LANES == 16 ? 8 : 6;  // rows likewise: their sums take half of its 32 registers, or 12 of 16

enum Arithmetic { FLOAT32 = 0, BF16 = 1, BF16X3 = 2, INT8 = 3 };

// Bytes are multiplied by the matrix unit, by the vector unit in groups of four (VNNI), or by AVX2 in pairs.
#if defined(__AVX512F__) || defined(AVX2_VECTORS)
#define INT8_PRODUCTS
#endif

// The number of products that AVX2 adds in 16 bits before they go into 32-bit sums. FOUR is a fifth faster than TWO, but rounds
// weights half a bit more coarsely.
enum ShortSums { TWO = 2, FOUR = 4 };

// Processors with bf16 products multiply pairs. On others, weights are stored in bf16, in half the memory, and widened when
// they are read; A stays in float32.
#if defined(__AMX_BF16__) || defined(__AVX512BF16__)
constexpr bool PAIR_PRODUCTS = true;
#else
constexpr bool PAIR_PRODUCTS = false;
#endif

static inline int round_up(int n, int unit) { return (n + unit - 1) / unit * unit; }

// Inputs in a tile. Operands are padded to a multiple of this number.
static inline int tile_depth(Arithmetic arithmetic) { return arithmetic == INT8 ? 64 : 32; }

// The index of a number in tiles of 16 rows x `WIDTH` columns, [row / 16][depth / WIDTH][16][WIDTH].
template <int WIDTH>
static inline size_t in_tile(int row, int column, int depth) {
  return size_t(row / 16) * depth * 16 + column / WIDTH * 16 * WIDTH + row % 16 * WIDTH + column % WIDTH;
}

// The conversion of a row of numbers to int8: they are multiplied by `to` and rounded; `back` reverses the scaling.
struct Scale {
  float back, to;
  // A NaN or an infinity makes `back` one, too, and so appears in every product of the row.
  static Scale of(const float* x, int count) {  // a multiple of 16
    vi top = {};
    for (int i = 0; i < count; i += LANES) {
      const vi magnitude = (vi)load(x + i) & 0x7fffffff;  // in the order of the floats, with NaN the largest
      top = magnitude > top ? magnitude : top;
    }
    int32_t largest = top[0];
    for (int i = 1; i < LANES; ++i) largest = std::max(largest, top[i]);
    float peak;
    memcpy(&peak, &largest, sizeof peak);
    return {peak / 127.0f, peak > 1e-30f ? 127.0f / peak : 0.0f};  // such small rows are zeros
  }

  // The same for a row of weights, so that sums of `together` products with unsigned bytes, at most 255, fit 16 bits: of the
  // weights that are added there, neither the positive nor the negative ones sum to more than 128. Inputs 0 and 1, and inputs
  // 2 and 3, of each group of four are added, alone or with the same two inputs of the next group.
  static Scale of_weights(const float* w, int count, ShortSums together) {
    const Scale plain = of(w, count);
    float top = 0.0f;
    for (int c = 0; c < count; c += 8)
      for (int two = c; two < c + 8; two += 2) {
        if (together == FOUR && two == c + 4) break;
        float sums[2] = {};  // of the positive weights, of the negative ones
        for (int i = 0; i < together; ++i) {
          const float x = w[two + i % 2 + i / 2 * 4];
          sums[x < 0.0f] += std::fabs(x);
        }
        top = std::max({top, sums[0], sums[1]});
      }
    const float room = 128.0f - together * 0.5f;  // leaves room for rounding
    return room < plain.to * top ? Scale{top / room, room / top} : plain;
  }
};

struct Weight {
  int outputs = 0, inputs = 0;  // as given
  int depth = 0;                // inputs, padded to whole tiles
  int panels = 0;
  Buffer<float> floats;       // [panel][part][depth][PART]
  Buffer<uint16_t> high, low; // [panel][depth / 32][half][16][32]: tiles of 16 pairs of inputs x 16 outputs; the
                              // layout of `floats` if there are no products of pairs
  Buffer<int8_t> bytes;       // [panel][depth / 64][half][16][64]: tiles of 16 fours of inputs x 16 outputs
  ShortSums together = FOUR;  // int8 only
  std::vector<float> scales;  // [panels * 32]: int8 only
  std::vector<int32_t> offsets;  // [panels * 32]: int8 on the vector unit only, 128 times the sum of each output's bytes
  std::vector<float> bias;    // [panels * 32]; empty if there is none

  void pack(const float* w, const float* b, int n, int k, Arithmetic arithmetic) {
    outputs = n, inputs = k, depth = round_up(k, tile_depth(arithmetic)), panels = round_up(n, BLOCK) / BLOCK;
    if (b) {
      bias.assign(panels * BLOCK, 0.0f);
      for (int i = 0; i < n; ++i) bias[i] = b[i];
    }
    size_t total = size_t(panels) * depth * BLOCK;
    auto at = [&](int row, int column) { return row < n && column < k ? w[size_t(row) * k + column] : 0.0f; };
    auto in_parts = [&](auto put) {
      for (int first = 0; first < panels * BLOCK; first += PART)
        for (int c = 0; c < depth; ++c)
          for (int r = first; r < first + PART; ++r) put(at(r, c));
    };
    if (arithmetic == FLOAT32) {
      float* out = floats.need(total);
      return in_parts([&](float x) { *out++ = x; });
    }
    if (arithmetic == BF16 && !PAIR_PRODUCTS) {
      uint16_t* out = high.need(total);
      return in_parts([&](float x) { *out++ = narrow(splat(x))[0]; });
    }
    if (arithmetic == INT8) {
      std::vector<float> to(panels * BLOCK, 0.0f);
      scales.assign(panels * BLOCK, 0.0f);
      for (int r = 0; r < n; ++r) {
        const Scale scale = Scale::of_weights(w + size_t(r) * k, k, together);
        scales[r] = scale.back, to[r] = scale.to;
      }
      offsets.assign(panels * BLOCK, 0);
      int8_t* out = bytes.need(total);
      for (int p = 0; p < panels; ++p)
        for (int c = 0; c < depth; c += 64)
          for (int half = 0; half < 2; ++half)
            for (int four = 0; four < 16; ++four)
              for (int r = p * BLOCK + half * 16, last = r + 16; r < last; ++r)
                for (int e = 0; e < 4; ++e) {
                  const float x = std::nearbyint(at(r, c + 4 * four + e) * to[r]);
                  *out = x == x ? int8_t(x) : 0;  // 0 for a NaN: 0 times the infinite scale of the row is a NaN again
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

#if defined(INT8_PRODUCTS)
// Converts sixteen numbers to int8. The vector unit needs unsigned bytes, so 128 is added.
static inline void put_bytes(const vf* x, int8_t* to) {
#if defined(__AVX512F__)
  __m128i rounded = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32((__m512)*x));
#else
  const __m256i low = _mm256_cvtps_epi32((__m256)x[0]), high = _mm256_cvtps_epi32((__m256)x[1]);
  const __m256i halves = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);  // each half was packed by itself
  __m128i rounded = _mm_packs_epi16(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
#endif
#if !defined(__AMX_INT8__)
  rounded = _mm_xor_si128(rounded, _mm_set1_epi8(-128));
#endif
  _mm_store_si128(reinterpret_cast<__m128i*>(to), rounded);
}
#endif

// The left operand in the layout of the arithmetic. Rows are padded to whole blocks.
struct Operand {
  Arithmetic arithmetic = FLOAT32;
  const float* floats = nullptr;
  int rows = 0, stride = 0, depth = 0;
  Buffer<float> padded;
  Buffer<uint16_t> high, low;  // [row / 16][depth / 32][16][32]: tiles
  Buffer<int8_t> bytes;        // [row / 16][depth / 64][16][64]: tiles
  Buffer<float> scales;  // [rows]: int8 only

  void set(Arithmetic chosen, const float* a, int m, int k) {
    arithmetic = chosen, rows = m, depth = round_up(k, tile_depth(arithmetic));
    int whole = round_up(m, BLOCK);
    stride = depth;
    if (arithmetic == FLOAT32 || (arithmetic == BF16 && !PAIR_PRODUCTS)) {
      if (k == depth) {  // used in place: nothing overwrites the operand during the product
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
#if defined(INT8_PRODUCTS)
    if (arithmetic == INT8) return set_bytes(a, k, whole);
#endif
    uint16_t* hi = high.need(size_t(whole) * depth);
    uint16_t* lo = arithmetic == BF16X3 ? low.need(size_t(whole) * depth) : nullptr;
    for (int r = 0; r < m; ++r)
      for (int c = 0; c < depth; c += LANES) {
        vf x = c < k ? load(a + size_t(r) * k + c) : splat(0.0f);  // k is a multiple of 16
        const size_t at = in_tile<32>(r, c, depth);
        vh h = narrow(x);
        *reinterpret_cast<vh_any*>(hi + at) = h;
        if (lo) store(lo + at, x - widen(h));
      }
    // The contents of rows beyond the last do not matter, because the rows of a product are independent.
  }

#if defined(INT8_PRODUCTS)
 private:
  void set_bytes(const float* a, int k, int whole) {
    float* back = scales.need(whole);
    int8_t* out = bytes.need(size_t(whole) * depth);
    for (int r = 0; r < rows; ++r, a += k) {
      const Scale scale = Scale::of(a, k);
      back[r] = scale.back;
      for (int c = 0; c < depth; c += 16) {
        vf x[UNIT] = {};  // k is a multiple of 16
        for (int i = 0; i < UNIT && c < k; ++i) x[i] = load(a + c + i * LANES) * scale.to;
        put_bytes(x, out + in_tile<64>(r, c, depth));
      }
    }
  }
#endif
};

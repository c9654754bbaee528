// bf16 operands, converted from float32, and their products, summed in float32: on the matrix unit (AMX) or, without one, by
// the vector unit's products of bf16 pairs in the same layout.
//
// A tile is 16 x 64 bytes. The left operand's tiles hold 16 rows x 32 inputs. The right operand's hold 16 pairs of inputs x
// 16 outputs, the two of a pair side by side. Operands are stored as [block][step][512]: a step is 32 inputs; a left
// block is 16 rows, a right block 32 outputs, whose two halves follow each other within a step.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "../memory.h"
#include "../pairs.h"
#include "../vector.h"

constexpr int TILE = 512;  // bf16 numbers in a tile
constexpr int BLOCK = 32;  // rows and columns of a product's block

// The processor's tile configuration belongs to a thread, and other libraries use it as well.
struct MatrixUnit {
#if defined(__AMX_BF16__)
  MatrixUnit() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    _tile_loadconfig(&config);
  }
  ~MatrixUnit() { _tile_release(); }
#else
  MatrixUnit() {}
  ~MatrixUnit() {}
#endif
};

static inline __m512i narrow32(vf low, vf high) { return (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low); }

// Lane c holds row `even` in its lower half and row `odd` in its upper half, both at column c.
static inline __m512i interleave(vf even, vf odd) {
  const __m512i a = _mm512_cvtepu16_epi32((__m256i)narrow(even));
  const __m512i b = _mm512_cvtepu16_epi32((__m256i)narrow(odd));
  return _mm512_or_si512(a, _mm512_slli_epi32(b, 16));
}

// Transposes a tile whose rows are 16 numbers of 32 bits.
static inline void store_turned(uint16_t* to, vf* rows) {
  transpose(rows);
  for (int i = 0; i < 16; ++i) _mm512_store_ps(to + 32 * i, (__m512)rows[i]);
}

// The left operand of `a` [rows x columns]: 16-row blocks `first` to `last`; rows beyond the end are zeros.
static inline void pack_left(const float* a, int rows, int columns, int first, int last, uint16_t* out) {
  const int steps = columns / BLOCK;
  for (int block = first; block < last; ++block)
    for (int r = 0; r < 16; ++r) {
      uint16_t* to = out + size_t(block) * steps * TILE + r * 32;
      const int row = block * 16 + r;
      for (int s = 0; s < steps; ++s, to += TILE) {
        const float* from = a + size_t(row) * columns + s * BLOCK;
        _mm512_store_si512(to, row < rows ? narrow32(load(from), load(from + 16)) : _mm512_setzero_si512());
      }
    }
}

// The right operand of a product with the transpose of `w` [outputs x inputs]: blocks `first` to `last` of 32 outputs.
static inline void pack_right_transposed(const float* w, int inputs, int first, int last, uint16_t* out) {
  const int steps = inputs / BLOCK;
  for (int block = first; block < last; ++block)
    for (int s = 0; s < steps; ++s)
      for (int half = 0; half < 2; ++half) {
        vf rows[16];
        for (int r = 0; r < 16; ++r) {
          const float* from = w + size_t(block * BLOCK + half * 16 + r) * inputs + s * BLOCK;
          rows[r] = (vf)narrow32(load(from), load(from + 16));
        }
        store_turned(out + ((size_t(block) * steps + s) * 2 + half) * TILE, rows);
      }
}

// The right operand of a product with `a` [rows x columns] itself, each row times its `scale` if there is one: steps (32 rows)
// `first` to `last` of `steps`; rows beyond the end are zeros.
static inline void pack_right(const float* a, const float* scale, int rows, int columns, int first, int last, int steps,
                              uint16_t* out) {
  for (int s = first; s < last; ++s)
    for (int pair = 0; pair < 16; ++pair) {
      const int row = s * BLOCK + 2 * pair;
      const float even_scale = scale && row < rows ? scale[row] : 1.0f;
      const float odd_scale = scale && row + 1 < rows ? scale[row + 1] : 1.0f;
      for (int c = 0; c < columns; c += 16) {
        const float* from = a + size_t(row) * columns + c;
        const vf even = row < rows ? load(from) * even_scale : vf{};
        const vf odd = row + 1 < rows ? load(from + columns) * odd_scale : vf{};
        uint16_t* to = out + ((size_t(c / BLOCK) * steps + s) * 2 + c % BLOCK / 16) * TILE + pair * 32;
        _mm512_store_si512(to, interleave(even, odd));
      }
    }
}

// The initial values of the sums of a block.
enum Start { ZERO, BIAS, ADD };

// c[32 x 32] = left block * right block. The second 16 rows of the left operand lie `lower` numbers behind the first 16. BIAS
// initialises every row with `bias`; ADD continues with the contents of c.
template <Start start>
static inline void product(const uint16_t* left, size_t lower, const uint16_t* right, int steps, float* c, size_t stride,
                           const float* bias = nullptr) {
#if defined(__AMX_BF16__)
  // GCC does not know that its tile loads read memory.
  __asm__ volatile("" ::: "memory");
  if (start == ZERO) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    const float* from = start == BIAS ? bias : c;
    const size_t step = start == BIAS ? 0 : stride * 4;
    _tile_loadd(0, from, step);
    _tile_loadd(1, from + 16, step);
    _tile_loadd(2, from + (start == BIAS ? 0 : 16 * stride), step);
    _tile_loadd(3, from + (start == BIAS ? 0 : 16 * stride) + 16, step);
  }
  for (int s = 0; s < steps; ++s, left += TILE, right += 2 * TILE) {
    _tile_loadd(6, right, 64);
    _tile_loadd(4, left, 64);
    _tile_loadd(7, right + TILE, 64);
    _tile_loadd(5, left + lower, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, stride * 4);
  _tile_stored(1, c + 16, stride * 4);
  _tile_stored(2, c + 16 * stride, stride * 4);
  _tile_stored(3, c + 16 * stride + 16, stride * 4);
  __asm__ volatile("" ::: "memory");
#else
  for (int row = 0; row < BLOCK; row += PAIR_ROWS) {
    const uint16_t* a = left + (row / 16) * lower + row % 16 * 32;
    float* out = c + row * stride;
    __m512 low[PAIR_ROWS], high[PAIR_ROWS];
    for (int i = 0; i < PAIR_ROWS; ++i) {
      const float* from = start == BIAS ? bias : out + i * stride;
      low[i] = start == ZERO ? _mm512_setzero_ps() : _mm512_loadu_ps(from);
      high[i] = start == ZERO ? _mm512_setzero_ps() : _mm512_loadu_ps(from + 16);
    }
    add_pair_products<PAIR_ROWS>(a, right, steps, low, high);
    for (int i = 0; i < PAIR_ROWS; ++i) {
      _mm512_storeu_ps(out + i * stride, low[i]);
      _mm512_storeu_ps(out + i * stride + 16, high[i]);
    }
  }
#endif
}

// AVX-512, products of bytes (VNNI, on AVX2's vectors, too) and of bf16 pairs, and AMX, in plain C++: kernels for processors
// that are not at hand are compiled with this header in the place of the compiler's own and with the macros of those
// processors set, and run anywhere that has AVX2. It has what the kernels use; anything else fails to compile, because the
// compiler's own functions want the real processor. What each does is Intel's description of it, lane by lane; speed is no
// aim.
#pragma once

// With them set the compiler's header would take its functions for ones that may be called.
#pragma push_macro("__AVX512F__")
#undef __AVX512F__
#pragma push_macro("__AVX512VNNI__")
#undef __AVX512VNNI__
#pragma push_macro("__AVX512BF16__")
#undef __AVX512BF16__
#pragma push_macro("__AVXVNNI__")
#undef __AVXVNNI__
#pragma push_macro("__AMX_INT8__")
#undef __AMX_INT8__
#pragma push_macro("__AMX_BF16__")
#undef __AMX_BF16__
#include_next <immintrin.h>
#pragma pop_macro("__AVX512F__")
#pragma pop_macro("__AVX512VNNI__")
#pragma pop_macro("__AVX512BF16__")
#pragma pop_macro("__AVXVNNI__")
#pragma pop_macro("__AMX_INT8__")
#pragma pop_macro("__AMX_BF16__")
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emulated {

template <typename T>
struct Lanes {
  static constexpr int COUNT = 64 / sizeof(T);
  T at[COUNT];
  T& operator[](int i) { return at[i]; }
  const T& operator[](int i) const { return at[i]; }
};
// Any vector as lanes of T, and lanes as any vector.
template <typename T, typename V>
Lanes<T> lanes(V x) {
  static_assert(sizeof x == 64, "whole vectors");
  Lanes<T> y;
  memcpy(&y, &x, 64);
  return y;
}
template <typename V, typename T>
V vector(const Lanes<T>& x) {
  V y;
  memcpy(&y, &x, 64);
  return y;
}
// Lane i of the result is `of(i)`.
template <typename V, typename T, typename Of>
V each(const Of& of) {
  Lanes<T> y;
  for (int i = 0; i < y.COUNT; ++i) y[i] = of(i);
  return vector<V>(y);
}
template <typename Of>
__m512 floats(const Of& of) { return each<__m512, float>(of); }
template <typename Of>
__m512i integers(const Of& of) { return each<__m512i, int32_t>(of); }

inline void must(bool holds, const char* what) {
  if (holds) return;
  fprintf(stderr, "emulated processor: %s\n", what);
  abort();
}
inline void aligned(const void* p) { must(reinterpret_cast<uintptr_t>(p) % 64 == 0, "a general protection fault: not aligned to 64 bytes"); }
template <typename V>
V loaded(const void* p) {
  V x;
  memcpy(&x, p, 64);
  return x;
}
template <typename V>
void stored(void* p, V x) {
  memcpy(p, &x, 64);
}
template <typename V>
V loaded_aligned(const void* p) {
  aligned(p);
  return loaded<V>(p);
}
template <typename V>
void stored_aligned(void* p, V x) {
  aligned(p);
  stored(p, x);
}

// To nearest, ties to even; a number too small for a normal float is zero.
inline uint16_t bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (x != x) return uint16_t(bits >> 16 | 0x40);
  if ((bits & 0x7f800000) == 0) return uint16_t(bits >> 16 & 0x8000);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float widened(uint16_t x) {
  const uint32_t bits = (x & 0x7f80) == 0 ? uint32_t(x & 0x8000) << 16 : uint32_t(x) << 16;
  float y;
  memcpy(&y, &bits, 4);
  return y;
}
inline int32_t rounded(float x) { return std::fabs(x) < 2147483648.0f ? int32_t(std::nearbyint(x)) : INT32_MIN; }

inline __m512 add(__m512 a, __m512 b) { return a + b; }
inline __m512i subtract(__m512i a, __m512i b) {
  const auto x = lanes<uint32_t>(a), y = lanes<uint32_t>(b);
  return integers([&](int i) { return int32_t(x[i] - y[i]); });
}
inline __m512i either(__m512i a, __m512i b) { return a | b; }
inline __m512 max(__m512 a, __m512 b) {  // the second where either is no number
  return floats([&](int i) { return a[i] > b[i] ? a[i] : b[i]; });
}
inline float largest(__m512 x) {  // halves onto each other
  auto y = lanes<float>(x);
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; ++i) y[i] = y[i] > y[i + half] ? y[i] : y[i + half];
  return y[0];
}
inline __m512 nearest(__m512 x) { return floats([&](int i) { return std::nearbyint(x[i]); }); }
inline __m512 scaled(__m512 x, __m512 power) { return floats([&](int i) { return std::ldexp(x[i], int(std::floor(power[i]))); }); }
inline __m512i shifted_left(__m512i x, int by) {
  const auto y = lanes<uint32_t>(x);
  return integers([&](int i) { return int32_t(y[i] << by); });
}
template <int HOW>
__mmask16 compared(__m512 a, __m512 b) {
  __m256 x[2], y[2];
  memcpy(x, &a, 64);
  memcpy(y, &b, 64);
  unsigned mask = 0;
  for (int i = 0; i < 2; ++i) mask |= unsigned(_mm256_movemask_ps(_mm256_cmp_ps(x[i], y[i], HOW))) << 8 * i;
  return __mmask16(mask);
}
template <typename V>
V masked(V x, __mmask16 mask, V y) {
  uint32_t a[16], b[16];
  memcpy(a, &x, 64);
  memcpy(b, &y, 64);
  for (int i = 0; i < 16; ++i) a[i] ^= (a[i] ^ b[i]) & -(uint32_t(mask) >> i & 1);
  memcpy(&x, a, 64);
  return x;
}

inline __m512i moved_down(__m512i upper, __m512i lower, int by) {
  int32_t both[32];
  memcpy(both, &lower, 64);
  memcpy(both + 16, &upper, 64);
  return loaded<__m512i>(both + by);
}
inline __m512 picked(__m512 x, __m512i order, __m512 y) {
  const auto at = lanes<int32_t>(order);
  return floats([&](int i) { return at[i] & 16 ? y[at[i] & 15] : x[at[i] & 15]; });
}
// Within each quarter two lanes of a, then two of b; or of quarters two of a, then two of b.
inline __m512 shuffled(__m512 a, __m512 b, int how) {
  return floats([&](int i) { return (i % 4 < 2 ? a : b)[i / 4 * 4 + (how >> i % 4 * 2 & 3)]; });
}
inline __m512 shuffled_quarters(__m512 a, __m512 b, int how) {
  return floats([&](int i) { return (i / 4 < 2 ? a : b)[(how >> i / 4 * 2 & 3) * 4 + i % 4]; });
}
inline __m512 unpacked(__m512 a, __m512 b, int from) {
  return floats([&](int i) { return (i % 2 ? b : a)[i / 4 * 4 + i % 4 / 2 + from]; });
}
inline __m256i half(__m512i x, int which) {
  __m256i y;
  memcpy(&y, reinterpret_cast<const char*>(&x) + 32 * which, 32);
  return y;
}

inline __m512i from_shorts(__m256i x) {
  uint16_t y[16];
  memcpy(y, &x, 32);
  return integers([&](int i) { return y[i]; });
}
inline __m512i rounded(__m512 x) { return integers([&](int i) { return rounded(x[i]); }); }
inline __m128i saturated(__m512i x) {
  const auto y = lanes<int32_t>(x);
  int8_t out[16];
  for (int i = 0; i < 16; ++i) out[i] = int8_t(y[i] > 127 ? 127 : y[i] < -128 ? -128 : y[i]);
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(out));
}
inline __m256i narrowed(__m512 x) {
  uint16_t out[16];
  for (int i = 0; i < 16; ++i) out[i] = bf16(x[i]);
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(out));
}
inline __m512i narrowed(__m512 high, __m512 low) {
  return each<__m512i, uint16_t>([&](int i) { return bf16(i < 16 ? low[i] : high[i - 16]); });
}

// The odd one of a pair first, each rounded.
inline __m512 pair_products(__m512 onto, __m512i a, __m512i b) {
  const auto x = lanes<uint16_t>(a), y = lanes<uint16_t>(b);
  return floats([&](int i) {
    return std::fma(widened(x[2 * i]), widened(y[2 * i]), std::fma(widened(x[2 * i + 1]), widened(y[2 * i + 1]), onto[i]));
  });
}
inline __m512i byte_products(__m512i onto, __m512i a, __m512i b) {
  const auto start = lanes<int32_t>(onto);
  const auto x = lanes<uint8_t>(a);
  const auto y = lanes<int8_t>(b);
  return integers([&](int i) {
    int32_t sum = start[i];
    for (int e = 4 * i; e < 4 * i + 4; ++e) sum += x[e] * y[e];
    return sum;
  });
}

inline __m256i byte_products(__m256i onto, __m256i a, __m256i b) {
  __m512i wide[3] = {};
  const __m256i narrow[3] = {onto, a, b};
  for (int i = 0; i < 3; ++i) memcpy(&wide[i], &narrow[i], 32);
  return half(byte_products(wide[0], wide[1], wide[2]), 0);
}

// The matrix unit: a thread's eight tiles of sixteen rows of 64 bytes.
struct Tiles {
  bool set = false;
  alignas(64) uint8_t rows[8][16][64] = {};
};
inline Tiles& tiles() {
  static thread_local Tiles own;
  return own;
}
inline Tiles& set_tiles() {
  Tiles& own = tiles();
  must(own.set, "an invalid instruction: tiles are not set up");
  return own;
}
inline void set_up(const void* config) {
  const uint8_t* bytes = static_cast<const uint8_t*>(config);
  must(bytes[0] == 1, "a palette that is not emulated");
  for (int i = 0; i < 8; ++i) {
    uint16_t columns;
    memcpy(&columns, bytes + 16 + 2 * i, 2);
    must(columns == 64 && bytes[48 + i] == 16, "tiles that are not whole");
  }
  tiles() = Tiles();
  tiles().set = true;
}
inline void released() { tiles().set = false; }
inline void zero(int tile) { memset(set_tiles().rows[tile], 0, 1024); }
inline void load(int tile, const void* from, size_t stride) {
  for (int r = 0; r < 16; ++r) memcpy(set_tiles().rows[tile][r], static_cast<const char*>(from) + r * stride, 64);
}
inline void store(int tile, void* to, size_t stride) {
  for (int r = 0; r < 16; ++r) memcpy(static_cast<char*>(to) + r * stride, set_tiles().rows[tile][r], 64);
}
// onto[row][column] += sums over a's row of what lies under it in b, where 32 bits hold one or several numbers, `as` sums.
template <typename Sum, typename T, typename As>
void tile_products(int onto, int a, int b, const As& as) {
  typedef Sum Half __attribute__((vector_size(32)));  // what the processor at hand has: tests' time goes here
  Tiles& own = set_tiles();
  constexpr int EACH = 4 / sizeof(T);
  T left[16][16 * EACH], right[16][16 * EACH];
  Half under[16 * EACH][2], sums[16][2];
  memcpy(left, own.rows[a], 1024);
  memcpy(right, own.rows[b], 1024);
  memcpy(sums, own.rows[onto], 1024);
  for (int k = 0; k < 16 * EACH; ++k)
    for (int c = 0; c < 16; ++c) under[k][c / 8][c % 8] = as(right[k / EACH][c * EACH + k % EACH]);
  for (int r = 0; r < 16; r += 4) {
    Half four[4][2];
    memcpy(four, sums[r], sizeof four);
    for (int k = 0; k < 16 * EACH; ++k)
      for (int i = 0; i < 4; ++i)
        for (int half = 0; half < 2; ++half) four[i][half] += as(left[r + i][k]) * under[k][half];
    memcpy(sums[r], four, sizeof four);
  }
  memcpy(own.rows[onto], sums, 1024);
}
inline void tile_pair_products(int onto, int a, int b) { tile_products<float, uint16_t>(onto, a, b, widened); }
inline void tile_byte_products(int onto, int a, int b) {
  tile_products<int32_t, int8_t>(onto, a, b, [](int8_t x) { return int32_t(x); });
}

// What the operating system says to a request for the matrix unit.
inline long permitted(long call, long, long) {
  must(call == SYS_arch_prctl, "a system call that is not emulated");
  return 0;
}

}  // namespace emulated

#define _mm256_dpbusd_avx_epi32 emulated::byte_products
#define _mm512_add_ps emulated::add
#define _mm512_alignr_epi32 emulated::moved_down
#define _mm512_castps512_ps256(x) ((__m256)emulated::half((__m512i)(x), 0))
#define _mm512_castps_si512(x) ((__m512i)(x))
#define _mm512_cmp_ps_mask(a, b, how) emulated::compared<how>(a, b)
#define _mm512_cvtepu16_epi32 emulated::from_shorts
#define _mm512_cvtne2ps_pbh(high, low) ((__m512bh)emulated::narrowed(high, low))
#define _mm512_cvtneps_pbh(x) ((__m256bh)emulated::narrowed(x))
#define _mm512_cvtps_epi32(x) emulated::rounded(x)
#define _mm512_cvtsepi32_epi8 emulated::saturated
#define _mm512_dpbf16_ps(onto, a, b) emulated::pair_products(onto, (__m512i)(a), (__m512i)(b))
#define _mm512_dpbusd_epi32 emulated::byte_products
#define _mm512_extracti64x4_epi64 emulated::half
#define _mm512_load_si512 emulated::loaded_aligned<__m512i>
#define _mm512_loadu_ps emulated::loaded<__m512>
#define _mm512_loadu_si512 emulated::loaded<__m512i>
#define _mm512_mask_mov_epi32 emulated::masked
#define _mm512_mask_mov_ps emulated::masked
#define _mm512_max_ps emulated::max
#define _mm512_or_si512 emulated::either
#define _mm512_permutex2var_ps emulated::picked
#define _mm512_permutexvar_ps(order, x) emulated::picked(x, order, x)
#define _mm512_reduce_max_ps emulated::largest
#define _mm512_roundscale_ps(x, how) emulated::nearest(x)
#define _mm512_scalef_ps emulated::scaled
#define _mm512_set1_epi32(x) emulated::integers([&](int) { return int32_t(x); })
#define _mm512_set1_ps(x) emulated::floats([&](int) { return float(x); })
#define _mm512_setr_epi32(...) \
  emulated::vector<__m512i>(emulated::Lanes<int32_t>{{__VA_ARGS__}})
#define _mm512_setzero_ps() __m512{}
#define _mm512_setzero_si512() __m512i{}
#define _mm512_shuffle_f32x4 emulated::shuffled_quarters
#define _mm512_shuffle_ps emulated::shuffled
#define _mm512_slli_epi32 emulated::shifted_left
#define _mm512_store_ps emulated::stored_aligned<__m512>
#define _mm512_store_si512 emulated::stored_aligned<__m512i>
#define _mm512_storeu_ps(p, x) emulated::stored(p, __m512(x))
#define _mm512_storeu_si512(p, x) emulated::stored(p, __m512i(x))
#define _mm512_sub_epi32 emulated::subtract
#define _mm512_unpackhi_ps(a, b) emulated::unpacked(a, b, 2)
#define _mm512_unpacklo_ps(a, b) emulated::unpacked(a, b, 0)

#define _tile_loadconfig emulated::set_up
#define _tile_release emulated::released
#define _tile_zero emulated::zero
#define _tile_loadd emulated::load
#define _tile_stored emulated::store
#define _tile_dpbf16ps emulated::tile_pair_products
#define _tile_dpbssd emulated::tile_byte_products
#define syscall emulated::permitted

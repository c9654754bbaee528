// Dropout for training, with the addition that follows it. The draw of a feature depends on its position and a seed only.
// Each thread can therefore draw its own part, every processor draws the same, and the backward pass draws again instead of
// storing a mask.
#include "../abi.h"
#include "../parallel.h"
#include "../vector.h"

constexpr int BLOCK = 32;  // features: each of sixteen words has bits for two of them

// The finaliser of MurmurHash3: each bit of a word changes about half of the bits of the result.
static inline vu mixed(vu x) {
  x = (x ^ x >> 16) * 0x85ebca6b;
  x = (x ^ x >> 13) * 0xc2b2ae35;
  return x ^ x >> 16;
}

// The mask of a block's features: all ones for a feature that stays.
static inline void draw(uint32_t block, uint64_t seed, uint32_t dropped, vi* kept) {
  for (int u = 0; u < UNIT; ++u) {
    vu place;
    for (int i = 0; i < LANES; ++i) place[i] = uint32_t(u * LANES + i);
    const vu bits = mixed(mixed((place + 16 * block) ^ uint32_t(seed)) + uint32_t(seed >> 32));
    kept[u] = (vi)((bits & 0xffff) >= dropped);
    kept[UNIT + u] = (vi)((bits >> 16) >= dropped);
  }
}

static void drop_block(const float* x, const float* onto, const vi* kept, float scale, float* out) {
  for (int i = 0; i < 2 * UNIT; ++i) {
    const vf y = (vf)((vi)(load(x + i * LANES) * scale) & kept[i]);
    store(out + i * LANES, onto ? load(onto + i * LANES) + y : y);
  }
}

extern "C" {
// out = onto + scale * x for features that stay, and onto for the others, all [count]; `onto` may be null. `dropped` of 65,536
// features are dropped.
void seqkd_dropout(const float* x, const float* onto, int64_t count, uint32_t dropped, float scale, uint64_t seed, int threads,
                   float* out) {
  const int whole = int(count / BLOCK), rest = int(count % BLOCK);
  parallel(threads, [&](int part, int parts) {
    const Range own(whole, part, parts);
    for (int block = own.first; block < own.last; ++block) {
      const size_t at = size_t(block) * BLOCK;
      vi kept[2 * UNIT];
      draw(uint32_t(block), seed, dropped, kept);
      drop_block(x + at, onto ? onto + at : nullptr, kept, scale, out + at);
    }
  });
  if (!rest) return;
  const size_t at = size_t(whole) * BLOCK;
  vi kept[2 * UNIT];
  float last[BLOCK] = {}, last_onto[BLOCK] = {}, last_out[BLOCK];
  std::copy_n(x + at, rest, last);
  if (onto) std::copy_n(onto + at, rest, last_onto);
  draw(uint32_t(whole), seed, dropped, kept);
  drop_block(last, onto ? last_onto : nullptr, kept, scale, last_out);
  std::copy_n(last_out, rest, out + at);
}
}

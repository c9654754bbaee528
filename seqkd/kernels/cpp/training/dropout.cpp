// Dropout of training, with the sum that follows it. What stays is drawn from each feature's place and a seed, so that
// threads draw each their own part, on any processor the same, and the backward pass draws it once more: nothing is kept.
#include "../abi.h"
#include "../parallel.h"
#include "../vector.h"

constexpr int BLOCK = 32;  // features: sixteen words have bits for two of them each

// The mix with which MurmurHash3 ends: each bit of a word changes about half of the result's.
static inline vu mixed(vu x) {
  x = (x ^ x >> 16) * 0x85ebca6b;
  x = (x ^ x >> 13) * 0xc2b2ae35;
  return x ^ x >> 16;
}

// Of the block's features, all ones where one stays.
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
// out = onto + scale * x where x stays, all [count]; `onto` may be null. `dropped` of 65,536 features do not stay.
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

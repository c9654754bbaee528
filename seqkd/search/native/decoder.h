// A Transformer that encodes sentences into slots and decodes all their hypotheses one position at a time.
//
// Rows of hypotheses that do not matter are never computed: slots that are done, and all but the first beam at the first
// position. Keys and values are written once and stay where they are; a table of ancestors says whose entry each
// hypothesis reads at each position.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "layers.h"

struct Slot {
  int position = 0, source = 0;
  bool busy = false;
};

struct State {
  int beam, max_source, max_target;
  std::vector<int> places;  // where the slots that the search knows are kept; shrinking drops some, and copies nothing
  std::vector<Slot> slots;  // by place, as all that follows
  std::vector<uint8_t> ancestors;  // [place][beam][max_target]
  // [layer][place][...]; floats, or bf16 where `half_caches`. Room for the longest outputs is reserved, but
  // memory that no output reaches is never touched, and so never asked of the system.
  Buffer<float> keys, values, cross_keys, cross_values;
  Buffer<uint16_t> half_keys, half_values, half_cross_keys, half_cross_values;
  Buffer<float> features;  // of the newest step's rows
};

static inline bool half_caches(Arithmetic arithmetic) { return arithmetic == BF16 || arithmetic == INT8; }

template <typename T>
struct Caches {
  T *keys, *values, *cross_keys, *cross_values;
};
static Caches<float> caches(State& s, float) {
  return {s.keys.data, s.values.data, s.cross_keys.data, s.cross_values.data};
}
static Caches<uint16_t> caches(State& s, uint16_t) {
  return {s.half_keys.data, s.half_values.data, s.half_cross_keys.data, s.half_cross_values.data};
}

template <typename T>
static void put(T* to, const float* from, int count) {
  for (int i = 0; i < count; i += LANES) store(to + i, load(from + i));
}

template <typename T>
static void admit(const Model& m, State& s, int count, const int64_t* places, const int64_t* ids, int stride,
                  const int32_t* lengths) {
  Scratch& w = scratch();
  const int d = m.dim;
  Ragged sentences;
  for (int n = 0; n < count; ++n) sentences.add(lengths[n]);
  const int rows = sentences.rows();
  const float* x = encode(m, w, sentences, ids, stride);
  float* wide = w.wide.need(size_t(rows) * 2 * d);
  w.operand.set(m.arithmetic, x, rows, d);
  Caches<T> cache = caches(s, T{});
  const size_t slots = s.slots.size();
  for (size_t l = 0; l < m.decoder.size(); ++l) {
    multiply(w.operand, m.decoder[l].key_value, wide, PLAIN);
    for (int n = 0, row = 0; n < count; ++n) {
      const size_t base = (l * slots + places[n]) * s.max_source;
      for (int p = 0; p < lengths[n]; ++p, ++row) {
        put(&cache.cross_keys[(base + p) * d], wide + size_t(row) * 2 * d, d);
        put(&cache.cross_values[(base + p) * d], wide + size_t(row) * 2 * d + d, d);
      }
    }
  }
  for (int n = 0; n < count; ++n) s.slots[places[n]] = {0, lengths[n], true};
}

struct Row {
  int slot, beam, place;
};

// The hypotheses that matter in this step.
static std::vector<Row> rows_of(State& s) {
  std::vector<Row> list;
  for (int slot = 0; slot < int(s.places.size()); ++slot) {
    const int place = s.places[slot];
    const Slot& held = s.slots[place];
    if (!held.busy) continue;
    // At the first position all beams are alike and only the first is alive.
    const int beams = held.position == 0 ? 1 : s.beam;
    for (int beam = 0; beam < beams; ++beam) {
      list.push_back({slot, beam, place});
      s.ancestors[(size_t(place) * s.beam + beam) * s.max_target + held.position] = uint8_t(beam);
    }
  }
  return list;
}

// Rows that go through a layer together: what they read and write stays in the second-level cache.
constexpr int TOGETHER = 128;

// Asks for an entry of a cache some time before it is read. Caches of many slots lie far away, and scattered.
template <typename T>
static inline void fetch(const T* entry, int dim) {
  for (size_t byte = 0; byte < dim * sizeof(T); byte += 64)
    __builtin_prefetch(reinterpret_cast<const char*>(entry) + byte, 0, 2);
}

// Self-attention of a decoder layer, for rows whose residual stream is x.
template <typename T>
static void attend_to_past(const Model& m, Scratch& w, State& s, size_t l, const Row* list, float* x, int rows) {
  const Layer& layer = m.decoder[l];
  const int d = m.dim, head_dim = d / m.heads;
  const float scale = 1.0f / sqrtf(float(head_dim));
  int longest = 1;
  for (int r = 0; r < rows; ++r) longest = std::max(longest, s.slots[list[r].place].position + 1);
  float* wide = w.wide.need(size_t(rows) * 3 * d);
  float* attended = w.attended.need(size_t(rows) * d);
  float* scores = w.scores.need(size_t(m.heads) * (round_up(longest, LANES) + LANES));
  auto** keys = reinterpret_cast<const T**>(w.keys.need(longest));
  auto** values = reinterpret_cast<const T**>(w.values.need(longest));
  const Caches<T> cache = caches(s, T{});
  const size_t slots = s.slots.size();

  w.operand.set(m.arithmetic, block_input(m, w, layer.attention_norm, x, rows), rows, d);
  multiply(w.operand, layer.qkv, wide, PLAIN);
  for (int r = 0; r < rows; ++r) {
    if (const int ahead = r + s.beam; ahead < rows) {
      const Row next = list[ahead];
      const size_t base = (l * slots + next.place) * s.max_target;
      const uint8_t* who = &s.ancestors[(size_t(next.place) * s.beam + next.beam) * s.max_target];
      for (int p = 0; p < s.slots[next.place].position; ++p) {
        if (next.beam && who[p] == who[p - s.max_target]) continue;  // the beam before it reads the same
        const size_t read = ((base + p) * s.beam + who[p]) * d;
        fetch(cache.keys + read, d);
        fetch(cache.values + read, d);
      }
    }
    const Slot& slot = s.slots[list[r].place];
    const float* own = wide + size_t(r) * 3 * d;
    const size_t base = (l * slots + list[r].place) * s.max_target;
    const size_t entry = ((base + slot.position) * s.beam + list[r].beam) * d;
    put(&cache.keys[entry], own + d, d);
    put(&cache.values[entry], own + 2 * d, d);
    const uint8_t* who = &s.ancestors[(size_t(list[r].place) * s.beam + list[r].beam) * s.max_target];
    for (int p = 0; p <= slot.position; ++p) {
      const size_t read = ((base + p) * s.beam + who[p]) * d;
      keys[p] = cache.keys + read;
      values[p] = cache.values + read;
    }
    attend(own, slot.position + 1, keys, values, m.heads, head_dim, scale, scores, attended + size_t(r) * d);
  }
  w.operand.set(m.arithmetic, attended, rows, d);
  multiply(w.operand, layer.out, x, ADD);
  if (!m.pre) layer.attention_norm.apply(x, x, rows);
}

// Its attention to the source, likewise.
template <typename T>
static void attend_to_source(const Model& m, Scratch& w, State& s, size_t l, const Row* list, float* x, int rows) {
  const Layer& layer = m.decoder[l];
  const int d = m.dim, head_dim = d / m.heads;
  const float scale = 1.0f / sqrtf(float(head_dim));
  int longest = 1;
  for (int r = 0; r < rows; ++r) longest = std::max(longest, s.slots[list[r].place].source);
  float* wide = w.wide.need(size_t(rows) * d);
  float* attended = w.attended.need(size_t(rows) * d);
  float* scores = w.scores.need(size_t(m.heads) * (round_up(longest, LANES) + LANES));
  auto** keys = reinterpret_cast<const T**>(w.keys.need(longest));
  auto** values = reinterpret_cast<const T**>(w.values.need(longest));
  const Caches<T> cache = caches(s, T{});
  const size_t slots = s.slots.size();

  w.operand.set(m.arithmetic, block_input(m, w, layer.cross_norm, x, rows), rows, d);
  multiply(w.operand, layer.query, wide, PLAIN);
  for (int r = 0; r < rows; ++r) {
    if (const int ahead = r + s.beam; ahead < rows && list[ahead].place != list[ahead - 1].place) {
      const size_t base = (l * slots + list[ahead].place) * s.max_source;
      for (int p = 0; p < s.slots[list[ahead].place].source; ++p) {
        fetch(cache.cross_keys + (base + p) * d, d);
        fetch(cache.cross_values + (base + p) * d, d);
      }
    }
    const size_t base = (l * slots + list[r].place) * s.max_source;
    const int source = s.slots[list[r].place].source;
    for (int p = 0; p < source; ++p) {
      keys[p] = cache.cross_keys + (base + p) * d;
      values[p] = cache.cross_values + (base + p) * d;
    }
    attend(wide + size_t(r) * d, source, keys, values, m.heads, head_dim, scale, scores, attended + size_t(r) * d);
  }
  w.operand.set(m.arithmetic, attended, rows, d);
  multiply(w.operand, layer.cross_out, x, ADD);
  if (!m.pre) layer.cross_norm.apply(x, x, rows);
}

// Runs all layers for some rows, which depend on no other row of this step, and makes their features the operand.
template <typename T>
static const float* advance(const Model& m, Scratch& w, State& s, const int64_t* tokens, const Row* list, int rows) {
  const int d = m.dim;
  float* x = w.x.need(size_t(rows) * d);
  for (int r = 0; r < rows; ++r) {
    const int64_t id = tokens[size_t(list[r].slot) * s.beam + list[r].beam];
    embed(m, m.target_embedding, m.target_positions, id, s.slots[list[r].place].position, x + size_t(r) * d);
  }
  // All rows through one block before the next: its weights then stay in the second-level cache, a layer's might not.
  auto in_parts = [&](auto block) {
    for (int r = 0; r < rows; r += TOGETHER) block(list + r, x + size_t(r) * d, std::min(TOGETHER, rows - r));
  };
  for (size_t l = 0; l < m.decoder.size(); ++l) {
    in_parts([&](const Row* some, float* y, int count) { attend_to_past<T>(m, w, s, l, some, y, count); });
    in_parts([&](const Row* some, float* y, int count) { attend_to_source<T>(m, w, s, l, some, y, count); });
    in_parts([&](const Row*, float* y, int count) { feed_forward_block(m, w, m.decoder[l], y, count); });
  }
  const float* features = block_input(m, w, m.decoder_norm, x, rows);
  w.operand.set(m.arithmetic, features, rows, d);
  return features;
}

// Splits the rows over the threads and calls `finish(scratch, features, first, count)` on each part; the operand
// is the features, too.
template <typename Finish>
static void all_rows(Model& m, State& s, const int64_t* tokens, const std::vector<Row>& list, Finish finish) {
  m.workers.run(int(list.size()), BLOCK, [&](int first, int count) {
    MatrixUnit unit(m.arithmetic);
    Scratch& w = scratch();
    const Row* part = &list[first];
    auto some = half_caches(m.arithmetic) ? advance<uint16_t> : advance<float>;
    finish(w, some(m, w, s, tokens, part, count), first, count);
  });
}

// After all rows of a step.
static void next_position(State& s) {
  for (Slot& slot : s.slots) slot.position += slot.busy && slot.position + 1 < s.max_target;
}

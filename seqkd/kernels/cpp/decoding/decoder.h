// A model that encodes sentences into slots and decodes all their hypotheses one position at a time.
//
// Rows that do not matter are never computed: finished slots, and all but the first beam at the first position. Keys and values
// are written once and never move; a table of ancestors holds, for each hypothesis and position, the beam whose entry it reads.
// A decoder with recurrent units writes the records of each position beside those of the position before, and the same table
// holds the record from which a hypothesis continues.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "recurrent.h"

struct Slot {
  int position = 0, source = 0;
  bool busy = false;
};

struct State {
  int beam, max_source, max_target;
  std::vector<int> places;  // the place of each slot of the search; shrinking drops entries and copies nothing
  std::vector<Slot> slots;  // by place, as all following members
  std::vector<uint8_t> ancestors;  // [place][beam][max_target]
  // [layer][place][...], floats, or bf16 if `half_caches`. Room for the longest outputs is reserved, but memory that
  // no output reaches is never touched, so the system never has to provide it.
  Buffer<float> keys, values, cross_keys, cross_values;
  Buffer<uint16_t> half_keys, half_values, half_cross_keys, half_cross_values;
  Buffer<float> features;  // features of the rows of the newest step
  Buffer<float> records;  // [odd position][place][beam][record]: the state of recurrent units
  size_t record = 0;  // floats in a record: every layer's cell; for an LSTM the features, and every layer's cell and output

  float* record_at(int position, int place, int beam_at) {
    return records.data + ((size_t(position & 1) * slots.size() + place) * beam + beam_at) * record;
  }
  // The state before the first position of a sentence.
  float* first_record(int place) { return record_at(1, place, 0); }
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
  const Ragged sentences = ragged(lengths, count);
  const int rows = sentences.rows();
  const float* x = encode(m, w, sentences, ids, stride);
  float* wide = w.wide.need(size_t(rows) * 2 * d);
  w.operand.set(m.arithmetic, x, rows, d);
  Caches<T> cache = caches(s, T{});
  const size_t slots = s.slots.size();
  for (size_t l = 0; l < m.decoder.size(); ++l) {
    multiply(m, w.operand, m.decoder[l].key_value, wide, PLAIN);
    for (int n = 0, row = 0; n < count; ++n) {
      const size_t base = (l * slots + places[n]) * s.max_source;
      for (int p = 0; p < lengths[n]; ++p, ++row) {
        put(&cache.cross_keys[(base + p) * d], wide + size_t(row) * 2 * d, d);
        put(&cache.cross_values[(base + p) * d], wide + size_t(row) * 2 * d + d, d);
      }
    }
  }
  for (int n = 0; n < count; ++n) {
    s.slots[places[n]] = {0, lengths[n], true};
    if (s.record) std::fill_n(s.first_record(int(places[n])), s.record, 0.0f);
  }
}

static void admit_lstm(const Model& m, State& s, int count, const int64_t* places, const int64_t* ids, int stride,
                       const int32_t* lengths) {
  Scratch& w = scratch();
  const int d = m.dim, half = d / 2, layers = int(m.lstm.decoder.size());
  const Ragged sentences = ragged(lengths, count);
  const int rows = sentences.rows();
  const float* x = encode_lstm(m, w, sentences, ids, stride);
  float* wide = w.wide.need(std::max(size_t(rows) * 2, size_t(count) * layers) * d);
  w.operand.set(m.arithmetic, x, rows, d);
  multiply(m, w.operand, m.lstm.key_value, wide, PLAIN);
  for (int n = 0; n < count; ++n)
    std::copy_n(wide + size_t(sentences.first[n]) * 2 * d, size_t(lengths[n]) * 2 * d,
                s.cross_keys.data + size_t(places[n]) * s.max_source * 2 * d);
  float* ends = w.normed.need(size_t(count) * d);  // the last state of each direction
  for (int n = 0; n < count; ++n) {
    std::copy_n(x + size_t(sentences.first[n + 1] - 1) * d, half, ends + size_t(n) * d);
    std::copy_n(x + size_t(sentences.first[n]) * d + half, half, ends + size_t(n) * d + half);
  }
  w.operand.set(m.arithmetic, ends, count, d);
  multiply(m, w.operand, m.lstm.start, wide, PLAIN);
  for (int n = 0; n < count; ++n) {
    s.slots[places[n]] = {0, lengths[n], true};
    float* record = s.first_record(int(places[n]));
    std::fill_n(record, d, 0.0f);
    for (int l = 0; l < layers; ++l)
      for (int i = 0; i < d; i += LANES) {
        const vf cell = load(wide + (size_t(n) * layers + l) * d + i);
        store(record + (1 + 2 * l) * d + i, cell);
        store(record + (2 + 2 * l) * d + i, tanh_of(cell));
      }
  }
}

struct Row {
  int slot, beam, place;
};

// The record from which a hypothesis continues, and the record that it writes.
static const float* before(State& s, const Row& row) {
  const int position = s.slots[row.place].position;
  if (position == 0) return s.first_record(row.place);
  const uint8_t* who = &s.ancestors[(size_t(row.place) * s.beam + row.beam) * s.max_target];
  return s.record_at(position - 1, row.place, who[position - 1]);
}
static float* after(State& s, const Row& row) {
  return s.record_at(s.slots[row.place].position, row.place, row.beam);
}

// The hypotheses to compute in this step.
static std::vector<Row> rows_of(State& s) {
  std::vector<Row> list;
  for (int slot = 0; slot < int(s.places.size()); ++slot) {
    const int place = s.places[slot];
    const Slot& held = s.slots[place];
    if (!held.busy) continue;
    // At the first position all beams are equal, and only the first is alive.
    const int beams = held.position == 0 ? 1 : s.beam;
    for (int beam = 0; beam < beams; ++beam) {
      list.push_back({slot, beam, place});
      s.ancestors[(size_t(place) * s.beam + beam) * s.max_target + held.position] = uint8_t(beam);
    }
  }
  return list;
}

// Rows that pass through a layer together: their data stays in the second-level cache.
constexpr int TOGETHER = 128;

// Prefetches an entry of a cache before it is read. The caches of many slots are scattered in memory.
template <typename T>
static inline void fetch(const T* entry, int dim) {
  for (size_t byte = 0; byte < dim * sizeof(T); byte += 64)
    __builtin_prefetch(reinterpret_cast<const char*>(entry) + byte, 0, 2);
}

// The self-attention of a decoder layer, for rows whose residual stream is x.
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
  multiply(m, w.operand, layer.qkv, wide, PLAIN);
  for (int r = 0; r < rows; ++r) {
    if (const int ahead = r + s.beam; ahead < rows) {
      const Row next = list[ahead];
      const size_t base = (l * slots + next.place) * s.max_target;
      const uint8_t* who = &s.ancestors[(size_t(next.place) * s.beam + next.beam) * s.max_target];
      for (int p = 0; p < s.slots[next.place].position; ++p) {
        if (next.beam && who[p] == who[p - s.max_target]) continue;  // the previous beam reads the same entry
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
  multiply(m, w.operand, layer.out, x, ADD);
  if (!m.pre) layer.attention_norm.apply(x, x, rows);
}

// The recurrent unit of a decoder layer, which replaces self-attention.
static void remember(const Model& m, Scratch& w, State& s, size_t l, const Row* list, float* x, int rows) {
  const Layer& layer = m.decoder[l];
  const int d = m.dim, wide = layer.qkv.outputs;
  const bool sru = m.memory == SRU;
  const float* input = block_input(m, w, layer.attention_norm, x, rows);
  float* products = w.wide.need(size_t(rows) * wide);
  w.operand.set(m.arithmetic, input, rows, d);
  multiply(m, w.operand, layer.qkv, products, PLAIN);
  for (int r = 0; r < rows; ++r, input += d, products += wide) {
    const float* cells = before(s, list[r]) + l * d;
    float *left = after(s, list[r]) + l * d, *out = x + size_t(r) * d;
    for (int i = 0; i < d; i += LANES) {
      const vf cell = load(cells + i), value = load(products + d + i);
      vf gate = load(products + i);
      if (sru) gate += cell * load(&layer.peepholes[i]);
      const vf now = value + sigmoid(gate) * (cell - value);
      store(left + i, now);
      vf given;
      if (sru) {  // a highway connection around the unit, scaled as in Lei et al. 2018
        const vf reset = load(products + 2 * d + i) + cell * load(&layer.peepholes[d + i]);
        const vf past = load(input + i) * 1.7320508f;
        given = past + sigmoid(reset) * (now - past);
      } else {
        given = now > 0.0f ? now : (now != now ? now : splat(0.0f));
      }
      store(out + i, load(out + i) + given);
    }
  }
  if (!m.pre) layer.attention_norm.apply(x, x, rows);
}

// The attention of a decoder layer to the source.
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
  multiply(m, w.operand, layer.query, wide, PLAIN);
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
  multiply(m, w.operand, layer.cross_out, x, ADD);
  if (!m.pre) layer.cross_norm.apply(x, x, rows);
}

// Runs all layers for some rows, which do not depend on other rows of this step, and makes their features the operand.
template <typename T>
static const float* advance(const Model& m, Scratch& w, State& s, const int64_t* tokens, const Row* list, int rows) {
  const int d = m.dim;
  float* x = w.x.need(size_t(rows) * d);
  for (int r = 0; r < rows; ++r) {
    const int64_t id = tokens[size_t(list[r].slot) * s.beam + list[r].beam];
    embed_target(m, id, s.slots[list[r].place].position, x + size_t(r) * d);
  }
  norm_embeddings(m.target_norm, x, rows);
  // All rows pass through one block before the next block: the weights of a block stay in the second-level cache, those of a
  // whole layer might not.
  auto in_parts = [&](auto block) {
    for (int r = 0; r < rows; r += TOGETHER) block(list + r, x + size_t(r) * d, std::min(TOGETHER, rows - r));
  };
  for (size_t l = 0; l < m.decoder.size(); ++l) {
    in_parts([&](const Row* some, float* y, int count) {
      (m.memory == ATTENTION ? attend_to_past<T> : remember)(m, w, s, l, some, y, count);
    });
    in_parts([&](const Row* some, float* y, int count) { attend_to_source<T>(m, w, s, l, some, y, count); });
    in_parts([&](const Row*, float* y, int count) { feed_forward_block(m, w, m.decoder[l], y, count); });
  }
  const float* features = block_input(m, w, m.decoder_norm, x, rows);
  w.operand.set(m.arithmetic, features, rows, d);
  return features;
}

// The same for an LSTM with input feeding: cells, attention to the source, and the features that combine both.
static const float* advance_lstm(const Model& m, Scratch& w, State& s, const int64_t* tokens, const Row* all, int total) {
  const int d = m.dim, layers = int(m.lstm.decoder.size());
  float* features = w.x.need(size_t(total) * d);
  for (int first = 0; first < total; first += TOGETHER) {
    const Row* list = all + first;
    const int rows = std::min(TOGETHER, total - first);
    float *input = w.hidden.need(size_t(rows) * 3 * d), *gates = w.wide.need(size_t(rows) * 4 * d);
    float *top = w.attended.need(size_t(rows) * d), *y = features + size_t(first) * d;
    for (int r = 0; r < rows; ++r) {
      const float* record = before(s, list[r]);
      float* row = input + size_t(r) * 3 * d;
      embed_alone(m, m.target_embedding, tokens[size_t(list[r].slot) * s.beam + list[r].beam], row);
      std::copy_n(record, d, row + d);
      std::copy_n(record + 2 * d, d, row + 2 * d);
    }
    for (int l = 0; l < layers; ++l) {
      w.operand.set(m.arithmetic, input, rows, (l == 0 ? 3 : 2) * d);
      multiply(m, w.operand, m.lstm.decoder[l], gates, PLAIN);
      for (int r = 0; r < rows; ++r) {
        const float* record = before(s, list[r]) + (1 + 2 * l) * d;
        float* left = after(s, list[r]) + (1 + 2 * l) * d;
        lstm_cell(gates + size_t(r) * 4 * d, record, left, left + d, d);
        if (l + 1 == layers) {
          std::copy_n(left + d, d, top + size_t(r) * d);
        } else {
          std::copy_n(left + d, d, input + size_t(r) * 2 * d);
          std::copy_n(record + 3 * d, d, input + size_t(r) * 2 * d + d);
        }
      }
    }
    for (int r = 0; r < rows; ++r) {
      const int source = s.slots[list[r].place].source;
      const float* entries = s.cross_keys.data + size_t(list[r].place) * s.max_source * 2 * d;
      float* scores = w.scores.need(round_up(source, LANES));
      attend_whole(top + size_t(r) * d, entries, source, d, scores, y + size_t(r) * d);
    }
    w.operand.set(m.arithmetic, top, rows, d);
    multiply(m, w.operand, m.lstm.mix, y, ADD);
    for (int r = 0; r < rows; ++r) {
      float* left = after(s, list[r]);
      for (int i = 0; i < d; i += LANES) {
        const vf feature = tanh_of(load(y + size_t(r) * d + i));
        store(y + size_t(r) * d + i, feature);
        store(left + i, feature);
      }
    }
  }
  w.operand.set(m.arithmetic, features, total, d);
  return features;
}

// Divides the rows among the threads and calls `finish(scratch, features, first, count)` for each part. The operand holds
// the features, too.
template <typename Finish>
static void all_rows(Model& m, State& s, const int64_t* tokens, const std::vector<Row>& list, Finish finish) {
  m.workers.run(int(list.size()), BLOCK, effort(m.decoding, list.size()), [&](int first, int count) {
    MatrixUnit unit(m.arithmetic);
    Scratch& w = scratch();
    const Row* part = &list[first];
    auto some = m.memory == LSTM ? advance_lstm : half_caches(m.arithmetic) ? advance<uint16_t> : advance<float>;
    finish(w, some(m, w, s, tokens, part, count), first, count);
  });
}

// Called after all rows of a step.
static void next_position(State& s) {
  for (Slot& slot : s.slots) slot.position += slot.busy && slot.position + 1 < s.max_target;
}

// A Transformer that encodes sentences into slots and decodes all their hypotheses one position at a time, on one core.
//
// Rows of hypotheses that do not matter are never computed: slots that are done, and all but the first beam at the first
// position. Keys and values are written once and stay where they are; a table of ancestors says whose entry each
// hypothesis reads at each position.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "blocks.h"
#if defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

struct Layer {
  Weight qkv, out, query, key_value, cross_out, inner, ffn_out;
  Norm attention_norm, cross_norm, ffn_norm;
};

struct Model {
  int dim, heads, vocab, pad, eos;
  bool pre;
  int activation;  // 0 ReLU, 1 GELU, 2 SwiGLU
  Arithmetic arithmetic;
  const float *source_embedding, *target_embedding, *source_positions, *target_positions;
  std::vector<Layer> encoder, decoder;
  Norm encoder_norm, decoder_norm;
  Weight output;
  // Scratch of one call.
  Operand operand;
  Buffer<float> x, normed, wide, hidden, attended, scores;
  Reduction reduction;
};

enum Part { QKV, OUT, QUERY, KEY_VALUE, CROSS_OUT, INNER, FFN_OUT };
enum NormPart { ATTENTION_NORM, CROSS_NORM, FFN_NORM };

struct Slot {
  int position = 0, source = 0;
  bool busy = false;
};

struct State {
  int beam, max_source, max_target;
  std::vector<Slot> slots;
  std::vector<uint8_t> ancestors;  // [slot][beam][max_target]
  // [layer][slot][...]; floats, or bf16 where the arithmetic is bf16
  std::vector<float> keys, values, cross_keys, cross_values;
  std::vector<uint16_t> half_keys, half_values, half_cross_keys, half_cross_values;
};

template <typename T>
struct Caches {
  std::vector<T>&keys, &values, &cross_keys, &cross_values;
};
static Caches<float> caches(State& s, float) { return {s.keys, s.values, s.cross_keys, s.cross_values}; }
static Caches<uint16_t> caches(State& s, uint16_t) {
  return {s.half_keys, s.half_values, s.half_cross_keys, s.half_cross_values};
}

template <typename T>
static void put(T* to, const float* from, int count) {
  for (int i = 0; i < count; i += LANES) store(to + i, load(from + i));
}

// The matrix unit has to be asked for once a process and set up anew in each call: other libraries use it as well.
struct MatrixUnit {
  explicit MatrixUnit(Arithmetic arithmetic) : on(arithmetic != FLOAT32) {
#if defined(__AMX_BF16__)
    if (on) {
      static const TileConfig config;
      _tile_loadconfig(&config);
    }
#endif
  }
  ~MatrixUnit() {
#if defined(__AMX_BF16__)
    if (on) _tile_release();
#endif
  }
  bool on;
};

static void feed_forward(Model& m, const Layer& layer, const float* input, float* x, int rows) {
  const int inner = layer.ffn_out.inputs;
  float* hidden = m.hidden.need(size_t(rows) * layer.inner.outputs);
  m.operand.set(m.arithmetic, input, rows, m.dim);
  multiply(m.operand, layer.inner, hidden, m.activation == 0 ? RELU : m.activation == 1 ? GELU : PLAIN);
  if (m.activation == 2) {
    for (int r = 0; r < rows; ++r) {
      const float* both = hidden + size_t(r) * 2 * inner;
      for (int i = 0; i < inner; i += LANES) {
        vf gate = load(both + inner + i);
        store(hidden + size_t(r) * inner + i, load(both + i) * gate / (1.0f + vexp(-gate)));
      }
    }
  }
  m.operand.set(m.arithmetic, hidden, rows, inner);
  multiply(m.operand, layer.ffn_out, x, ADD);
}

// What a block reads: the stream itself, or its norm where norms come first.
static const float* block_input(Model& m, const Norm& norm, const float* x, int rows) {
  if (!m.pre) return x;
  float* out = m.normed.need(size_t(rows) * m.dim);
  norm.apply(x, out, rows);
  return out;
}

static void embed(const Model& m, const float* table, const float* positions, int64_t id, int position, float* out) {
  const vf scale = splat(sqrtf(float(m.dim)));
  for (int i = 0; i < m.dim; i += LANES)
    store(out + i, load(table + size_t(id) * m.dim + i) * scale + load(positions + size_t(position) * m.dim + i));
}

template <typename T>
static void admit(Model& m, State& s, int count, const int64_t* places, const int64_t* ids, int stride,
                  const int32_t* lengths) {
  MatrixUnit unit(m.arithmetic);
  const int d = m.dim, head_dim = d / m.heads;
  const float scale = 1.0f / sqrtf(float(head_dim));
  int rows = 0, longest = 0;
  for (int n = 0; n < count; ++n) rows += lengths[n], longest = std::max(longest, lengths[n]);
  float* x = m.x.need(size_t(rows) * d);
  float* wide = m.wide.need(size_t(rows) * 3 * d);
  float* attended = m.attended.need(size_t(rows) * d);
  float* scores = m.scores.need(size_t(m.heads) * round_up(longest, LANES));
  for (int n = 0, row = 0; n < count; ++n)
    for (int p = 0; p < lengths[n]; ++p, ++row)
      embed(m, m.source_embedding, m.source_positions, ids[size_t(n) * stride + p], p, x + size_t(row) * d);
  for (Layer& layer : m.encoder) {
    m.operand.set(m.arithmetic, block_input(m, layer.attention_norm, x, rows), rows, d);
    multiply(m.operand, layer.qkv, wide, PLAIN);
    for (int n = 0, first = 0; n < count; first += lengths[n], ++n) {
      const float* base = wide + size_t(first) * 3 * d;
      for (int q = 0; q < lengths[n]; ++q)
        attend(base + size_t(q) * 3 * d, lengths[n], [&](int p) { return base + size_t(p) * 3 * d + d; },
               [&](int p) { return base + size_t(p) * 3 * d + 2 * d; }, m.heads, head_dim, scale, scores,
               attended + size_t(first + q) * d);
    }
    m.operand.set(m.arithmetic, attended, rows, d);
    multiply(m.operand, layer.out, x, ADD);
    if (!m.pre) layer.attention_norm.apply(x, x, rows);
    feed_forward(m, layer, block_input(m, layer.ffn_norm, x, rows), x, rows);
    if (!m.pre) layer.ffn_norm.apply(x, x, rows);
  }
  if (m.pre) m.encoder_norm.apply(x, x, rows);
  m.operand.set(m.arithmetic, x, rows, d);
  Caches<T> cache = caches(s, T{});
  const size_t slots = s.slots.size();
  for (size_t l = 0; l < m.decoder.size(); ++l) {
    multiply(m.operand, m.decoder[l].key_value, wide, PLAIN);
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
  int slot, beam;
};

// Runs all layers for the rows that matter; returns them, with their features in m.normed or m.x.
template <typename T>
static std::vector<Row> advance(Model& m, State& s, const int64_t* tokens, const float** features) {
  const int d = m.dim, head_dim = d / m.heads;
  const float scale = 1.0f / sqrtf(float(head_dim));
  std::vector<Row> list;
  int longest = 1;
  for (int slot = 0; slot < int(s.slots.size()); ++slot) {
    if (!s.slots[slot].busy) continue;
    longest = std::max({longest, s.slots[slot].position + 1, s.slots[slot].source});
    // At the first position all beams are alike and only the first is alive.
    const int beams = s.slots[slot].position == 0 ? 1 : s.beam;
    for (int beam = 0; beam < beams; ++beam) {
      list.push_back({slot, beam});
      s.ancestors[(size_t(slot) * s.beam + beam) * s.max_target + s.slots[slot].position] = uint8_t(beam);
    }
  }
  const int rows = int(list.size());
  float* x = m.x.need(size_t(rows) * d);
  float* wide = m.wide.need(size_t(rows) * 3 * d);
  float* attended = m.attended.need(size_t(rows) * d);
  float* scores = m.scores.need(size_t(m.heads) * round_up(longest, LANES));
  for (int r = 0; r < rows; ++r) {
    const int64_t id = tokens[size_t(list[r].slot) * s.beam + list[r].beam];
    embed(m, m.target_embedding, m.target_positions, id, s.slots[list[r].slot].position, x + size_t(r) * d);
  }
  Caches<T> cache = caches(s, T{});
  const size_t slots = s.slots.size();
  for (size_t l = 0; l < m.decoder.size(); ++l) {
    Layer& layer = m.decoder[l];
    m.operand.set(m.arithmetic, block_input(m, layer.attention_norm, x, rows), rows, d);
    multiply(m.operand, layer.qkv, wide, PLAIN);
    for (int r = 0; r < rows; ++r) {
      const Slot& slot = s.slots[list[r].slot];
      const size_t base = ((l * slots + list[r].slot) * s.max_target + slot.position) * s.beam + list[r].beam;
      put(&cache.keys[base * d], wide + size_t(r) * 3 * d + d, d);
      put(&cache.values[base * d], wide + size_t(r) * 3 * d + 2 * d, d);
    }
    for (int r = 0; r < rows; ++r) {
      const Slot& slot = s.slots[list[r].slot];
      const uint8_t* who = &s.ancestors[(size_t(list[r].slot) * s.beam + list[r].beam) * s.max_target];
      const size_t base = (l * slots + list[r].slot) * s.max_target;
      attend(wide + size_t(r) * 3 * d, slot.position + 1,
             [&](int p) { return &cache.keys[((base + p) * s.beam + who[p]) * d]; },
             [&](int p) { return &cache.values[((base + p) * s.beam + who[p]) * d]; }, m.heads, head_dim, scale, scores,
             attended + size_t(r) * d);
    }
    m.operand.set(m.arithmetic, attended, rows, d);
    multiply(m.operand, layer.out, x, ADD);
    if (!m.pre) layer.attention_norm.apply(x, x, rows);

    m.operand.set(m.arithmetic, block_input(m, layer.cross_norm, x, rows), rows, d);
    multiply(m.operand, layer.query, wide, PLAIN);
    for (int r = 0; r < rows; ++r) {
      const size_t base = (l * slots + list[r].slot) * s.max_source;
      attend(wide + size_t(r) * d, s.slots[list[r].slot].source,
             [&](int p) { return &cache.cross_keys[(base + p) * d]; },
             [&](int p) { return &cache.cross_values[(base + p) * d]; }, m.heads, head_dim, scale, scores,
             attended + size_t(r) * d);
    }
    m.operand.set(m.arithmetic, attended, rows, d);
    multiply(m.operand, layer.cross_out, x, ADD);
    if (!m.pre) layer.cross_norm.apply(x, x, rows);

    feed_forward(m, layer, block_input(m, layer.ffn_norm, x, rows), x, rows);
    if (!m.pre) layer.ffn_norm.apply(x, x, rows);
  }
  for (Slot& slot : s.slots) slot.position += slot.busy && slot.position + 1 < s.max_target;
  *features = block_input(m, m.decoder_norm, x, rows);
  return list;
}

template <typename T>
static void keep(State& s, std::vector<T>& buffer, size_t layers, size_t unit, const int64_t* places, int count) {
  std::vector<T> kept(layers * count * unit);
  for (size_t l = 0; l < layers; ++l)
    for (int n = 0; n < count; ++n)
      std::copy_n(buffer.begin() + (l * s.slots.size() + places[n]) * unit, unit, kept.begin() + (l * count + n) * unit);
  buffer.swap(kept);
}

extern "C" {

// 1: there is a matrix unit and the kernel lets us use it.
int seqkd_matrix_unit() {
#if defined(__AMX_BF16__)
  constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
  return 0;
#endif
}

Model* seqkd_model_new(int dim, int heads, int vocab, int pad, int eos, int pre, int activation, int arithmetic,
                       int encoder_layers, int decoder_layers, const float* source_embedding,
                       const float* target_embedding, const float* source_positions, const float* target_positions) {
  Model* m = new Model;
  m->dim = dim, m->heads = heads, m->vocab = vocab, m->pad = pad, m->eos = eos, m->pre = pre;
  m->activation = activation, m->arithmetic = Arithmetic(arithmetic);
  m->source_embedding = source_embedding, m->target_embedding = target_embedding;
  m->source_positions = source_positions, m->target_positions = target_positions;
  m->encoder = std::vector<Layer>(encoder_layers);
  m->decoder = std::vector<Layer>(decoder_layers);
  return m;
}

void seqkd_model_free(Model* m) { delete m; }

// stack: 0 encoder, 1 decoder, 2 output layer
void seqkd_set_weight(Model* m, int stack, int layer, int part, const float* w, const float* bias, int n, int k) {
  if (stack == 2) return m->output.pack(w, bias, n, k, m->arithmetic);
  Layer& l = (stack == 0 ? m->encoder : m->decoder)[layer];
  Weight* parts[] = {&l.qkv, &l.out, &l.query, &l.key_value, &l.cross_out, &l.inner, &l.ffn_out};
  parts[part]->pack(w, bias, n, k, m->arithmetic);
}

// layer -1: the norm at the end of the stack
void seqkd_set_norm(Model* m, int stack, int layer, int part, const float* weight, const float* bias) {
  Norm* norm;
  if (layer < 0) {
    norm = stack == 0 ? &m->encoder_norm : &m->decoder_norm;
  } else {
    Layer& l = (stack == 0 ? m->encoder : m->decoder)[layer];
    Norm* parts[] = {&l.attention_norm, &l.cross_norm, &l.ffn_norm};
    norm = parts[part];
  }
  norm->weight.assign(weight, weight + m->dim);
  norm->bias.assign(bias, bias + m->dim);
}

State* seqkd_state_new(const Model* m, int slots, int beam, int max_source, int max_target) {
  State* s = new State;
  s->beam = beam, s->max_source = max_source, s->max_target = max_target;
  s->slots.resize(slots);
  s->ancestors.resize(size_t(slots) * beam * max_target);
  const size_t own = m->decoder.size() * size_t(slots) * max_target * beam * m->dim;
  const size_t cross = m->decoder.size() * size_t(slots) * max_source * m->dim;
  if (m->arithmetic == BF16) {
    s->half_keys.resize(own), s->half_values.resize(own);
    s->half_cross_keys.resize(cross), s->half_cross_values.resize(cross);
  } else {
    s->keys.resize(own), s->values.resize(own), s->cross_keys.resize(cross), s->cross_values.resize(cross);
  }
  return s;
}

void seqkd_state_free(State* s) { delete s; }

void seqkd_admit(Model* m, State* s, int count, const int64_t* places, const int64_t* ids, int stride,
                 const int32_t* lengths) {
  m->arithmetic == BF16 ? admit<uint16_t>(*m, *s, count, places, ids, stride, lengths)
                        : admit<float>(*m, *s, count, places, ids, stride, lengths);
}

void seqkd_release(State* s, int count, const int64_t* places) {
  for (int n = 0; n < count; ++n) s->slots[places[n]].busy = false;
}

// Reduced step; rows that were not computed come out as having no continuation.
void seqkd_step(Model* m, State* s, const int64_t* tokens, int count, float* lse, float* values, int64_t* ids,
                float* eos) {
  MatrixUnit unit(m->arithmetic);
  const float* features;
  const std::vector<Row> list =
      m->arithmetic == BF16 ? advance<uint16_t>(*m, *s, tokens, &features) : advance<float>(*m, *s, tokens, &features);
  const size_t all = s->slots.size() * s->beam;
  std::fill(lse, lse + all, 0.0f);
  std::fill(eos, eos + all, NEVER);
  std::fill(values, values + all * count, NEVER);
  std::fill(ids, ids + all * count, int64_t(m->pad));
  if (list.empty()) return;
  std::vector<Best> best(list.size());
  std::vector<float> row_lse(list.size()), row_eos(list.size());
  for (size_t r = 0; r < list.size(); ++r) {
    const size_t at = size_t(list[r].slot) * s->beam + list[r].beam;
    best[r] = {count, values + at * count, ids + at * count};
  }
  m->operand.set(m->arithmetic, features, int(list.size()), m->dim);
  m->reduction.run(m->operand, m->output, m->eos, best, row_lse.data(), row_eos.data());
  for (size_t r = 0; r < list.size(); ++r) {
    const size_t at = size_t(list[r].slot) * s->beam + list[r].beam;
    lse[at] = row_lse[r], eos[at] = row_eos[r];
  }
}

// Whole logits [slots][beam][vocab]; rows that were not computed are left as they are.
void seqkd_step_logits(Model* m, State* s, const int64_t* tokens, float* logits) {
  MatrixUnit unit(m->arithmetic);
  const float* features;
  const std::vector<Row> list =
      m->arithmetic == BF16 ? advance<uint16_t>(*m, *s, tokens, &features) : advance<float>(*m, *s, tokens, &features);
  const int rows = int(list.size());
  alignas(64) float tile[BLOCK * BLOCK];
  m->operand.set(m->arithmetic, features, rows, m->dim);
  for (int panel = 0; panel < m->output.panels; ++panel)
    for (int row = 0; row < rows; row += BLOCK) {
      product(m->operand, m->output, row, panel, tile, BLOCK);
      const int columns = std::min(BLOCK, m->vocab - panel * BLOCK);
      for (int r = 0; r < std::min(BLOCK, rows - row); ++r) {
        const Row at = list[row + r];
        float* out = logits + (size_t(at.slot) * s->beam + at.beam) * m->vocab + panel * BLOCK;
        for (int c = 0; c < columns; ++c)
          out[c] = tile[r * BLOCK + c] + (m->output.bias.empty() ? 0.0f : m->output.bias[panel * BLOCK + c]);
      }
    }
}

void seqkd_reorder(State* s, const int64_t* parents) {
  std::vector<uint8_t> before(size_t(s->beam) * s->max_target);
  for (size_t slot = 0; slot < s->slots.size(); ++slot) {
    const int seen = s->slots[slot].position;
    if (!s->slots[slot].busy || !seen) continue;
    uint8_t* table = &s->ancestors[slot * s->beam * s->max_target];
    std::copy_n(table, before.size(), before.begin());
    for (int beam = 0; beam < s->beam; ++beam)
      std::copy_n(before.begin() + parents[slot * s->beam + beam] * s->max_target, seen, table + beam * s->max_target);
  }
}

void seqkd_shrink(const Model* m, State* s, int count, const int64_t* places) {
  const size_t layers = m->decoder.size();
  const size_t own = size_t(s->max_target) * s->beam * m->dim, cross = size_t(s->max_source) * m->dim;
  if (m->arithmetic == BF16) {
    keep(*s, s->half_keys, layers, own, places, count), keep(*s, s->half_values, layers, own, places, count);
    keep(*s, s->half_cross_keys, layers, cross, places, count), keep(*s, s->half_cross_values, layers, cross, places, count);
  } else {
    keep(*s, s->keys, layers, own, places, count), keep(*s, s->values, layers, own, places, count);
    keep(*s, s->cross_keys, layers, cross, places, count), keep(*s, s->cross_values, layers, cross, places, count);
  }
  keep(*s, s->ancestors, 1, size_t(s->beam) * s->max_target, places, count);
  std::vector<Slot> slots(count);
  for (int n = 0; n < count; ++n) slots[n] = s->slots[places[n]];
  s->slots.swap(slots);
}
}

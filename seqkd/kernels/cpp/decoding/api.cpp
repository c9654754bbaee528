// The functions that Python calls through ctypes. They take plain pointers and numbers only.
#include <algorithm>
#include <functional>
#include <numeric>
#include <vector>

#include "../abi.h"
#include "candidates.h"
#include "frontier.h"
#include "parallel.h"
#if defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

static int64_t sum(const int32_t* lengths, int count) { return std::accumulate(lengths, lengths + count, int64_t{0}); }

static int64_t upsampling_effort(const Model& m, int64_t tokens) {
  return effort(m.encoding, tokens) + effort(m.decoding, m.split.outputs / m.dim * tokens);
}

extern "C" {

// The arithmetics, beside float32, that this processor has and that the operating system allows: bit 0 is bf16, bit 1 int8,
// bit 2 bf16x3.
int seqkd_arithmetics() {
#if defined(__AMX_BF16__)
  constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
  if (syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) != 0) return 0;
#endif
  int found = 1;
#if defined(INT8_PRODUCTS)
  found |= 2;
#endif
#if defined(__AMX_BF16__)
  found |= 4;  // three products instead of one are too slow on a vector unit
#endif
  return found;
}

Model* seqkd_model_new(int dim, int heads, int vocab, int pad, int eos, int pre, int activation, int memory, int arithmetic,
                       int encoder_layers, int decoder_layers, int threads, int zero_start, float scale, float epsilon,
                       const float* source_embedding, const float* target_embedding, const float* source_positions,
                       const float* target_positions) {
  Model* m = new Model;
  m->dim = dim, m->heads = heads, m->vocab = vocab, m->pad = pad, m->eos = eos, m->pre = pre;
  m->activation = activation, m->memory = Memory(memory), m->arithmetic = Arithmetic(arithmetic);
  m->zero_start = zero_start, m->scale = scale, m->epsilon = epsilon;
  m->source_embedding = source_embedding, m->target_embedding = target_embedding;
  m->source_positions = source_positions, m->target_positions = target_positions;
  m->workers.start(threads, [m](const std::function<void()>& work) {
    MatrixUnit unit(m->arithmetic);
    work();
  });
  if (m->memory == LSTM) {
    m->lstm.encoder = std::vector<LstmLayer>(encoder_layers);
    m->lstm.decoder = std::vector<Weight>(decoder_layers);
  } else {
    m->encoder = std::vector<Layer>(encoder_layers);
    m->decoder = std::vector<Layer>(decoder_layers);
  }
  m->output.together = TWO;  // every score depends on these logits: with FOUR, fewer lists would equal those of float32
  return m;
}

void seqkd_model_free(Model* m) { delete m; }

// stack: 0 encoder, 1 decoder, 2 output layer, 3 the layer that splits encoder states
void seqkd_set_weight(Model* m, int stack, int layer, int part, const float* w, const float* bias, int n, int k) {
  (stack == 0 ? m->encoding : m->decoding) += products_of(n, k, m->arithmetic);
  if (stack >= 2) return (stack == 2 ? m->output : m->split).pack(w, bias, n, k, m->arithmetic);
  Layer& l = (stack == 0 ? m->encoder : m->decoder)[layer];
  Weight* parts[] = {&l.qkv, &l.out, &l.query, &l.key_value, &l.cross_out, &l.inner, &l.ffn_out};
  parts[part]->pack(w, bias, n, k, m->arithmetic);
}

// stack: 0 a layer of the encoder, 1 a layer of the decoder, 2 weights that both share
void seqkd_set_lstm(Model* m, int stack, int layer, int part, const float* w, const float* bias, int n, int k) {
  Lstm& lstm = m->lstm;
  (stack == 0 ? m->encoding : m->decoding) += products_of(n, k, m->arithmetic);
  if (stack == 1) return lstm.decoder[layer].pack(w, bias, n, k, m->arithmetic);
  if (stack == 0) {
    LstmLayer& l = lstm.encoder[layer];
    Weight* parts[] = {&l.gates[0], &l.gates[1], &l.recurrent[0], &l.recurrent[1]};
    return parts[part]->pack(w, bias, n, k, m->arithmetic);
  }
  Weight* parts[] = {&lstm.start, &lstm.key_value, &lstm.mix};
  parts[part]->pack(w, bias, n, k, m->arithmetic);
}

void seqkd_set_peepholes(Model* m, int layer, const float* values) {
  m->decoder[layer].peepholes.assign(values, values + 2 * m->dim);
}

// layer -1 is the norm at the end of the stack, and -2 that of the stack's embeddings
void seqkd_set_norm(Model* m, int stack, int layer, int part, const float* weight, const float* bias) {
  Norm* norm;
  if (layer == -2) {
    norm = stack == 0 ? &m->source_norm : &m->target_norm;
  } else if (layer < 0) {
    norm = stack == 0 ? &m->encoder_norm : &m->decoder_norm;
  } else {
    Layer& l = (stack == 0 ? m->encoder : m->decoder)[layer];
    Norm* parts[] = {&l.attention_norm, &l.cross_norm, &l.ffn_norm};
    norm = parts[part];
  }
  norm->weight.assign(weight, weight + m->dim);
  norm->bias.assign(bias, bias + m->dim);
  norm->epsilon = m->epsilon;
}

State* seqkd_state_new(const Model* m, int slots, int beam, int max_source, int max_target) {
  State* s = new State;
  s->beam = beam, s->max_source = max_source, s->max_target = max_target;
  s->slots.resize(slots);
  for (int slot = 0; slot < slots; ++slot) s->places.push_back(slot);
  s->ancestors.resize(size_t(slots) * beam * max_target);
  if (m->memory != ATTENTION) {
    s->record = (m->memory == LSTM ? 1 + 2 * m->lstm.decoder.size() : m->decoder.size()) * m->dim;
    s->records.need(2 * size_t(slots) * beam * s->record);
  }
  if (m->memory == LSTM) {
    s->cross_keys.need(size_t(slots) * max_source * 2 * m->dim);
    return s;
  }
  const size_t own = m->memory == ATTENTION ? m->decoder.size() * size_t(slots) * max_target * beam * m->dim : 0;
  const size_t cross = m->decoder.size() * size_t(slots) * max_source * m->dim;
  if (half_caches(m->arithmetic)) {
    s->half_keys.need(own), s->half_values.need(own), s->half_cross_keys.need(cross), s->half_cross_values.need(cross);
  } else {
    s->keys.need(own), s->values.need(own), s->cross_keys.need(cross), s->cross_values.need(cross);
  }
  return s;
}

void seqkd_state_free(State* s) { delete s; }

void seqkd_admit(Model* m, State* s, int count, const int64_t* places, const int64_t* ids, int stride,
                 const int32_t* lengths) {
  std::vector<int64_t> kept(count);
  for (int n = 0; n < count; ++n) kept[n] = s->places[places[n]];
  m->workers.run(count, 1, effort(m->encoding, sum(lengths, count)), [&](int first, int part) {
    MatrixUnit unit(m->arithmetic);
    auto some = m->memory == LSTM ? admit_lstm : half_caches(m->arithmetic) ? admit<uint16_t> : admit<float>;
    some(*m, *s, part, &kept[first], ids + size_t(first) * stride, stride, lengths + first);
  });
}

void seqkd_release(State* s, int count, const int64_t* places) {
  for (int n = 0; n < count; ++n) s->slots[s->places[places[n]]].busy = false;
}

void seqkd_step(Model* m, State* s, const int64_t* tokens, const float* live, const bool* closing, int count, float* lse,
                float* values, int64_t* ids, float* eos) {
  step_candidates(*m, *s, tokens, live, closing, {count, lse, values, ids, eos});
}

// Writes the logits [slots][beam][vocab]. Rows that are not computed keep their values.
void seqkd_step_logits(Model* m, State* s, const int64_t* tokens, float* logits) {
  const std::vector<Row> list = rows_of(*s);
  all_rows(*m, *s, tokens, list, [&](Scratch& w, const float*, int first, int rows) {
    alignas(64) float tile[BLOCK * BLOCK];
    const Weight& output = m->output;
    for (int panel = 0; panel < output.panels; ++panel)
      for (int row = 0; row < rows; row += BLOCK) {
        product(w.operand, output, row, panel, tile, BLOCK);
        const int columns = std::min(BLOCK, m->vocab - panel * BLOCK);
        for (int r = 0; r < std::min(BLOCK, rows - row); ++r) {
          const Row at = list[first + row + r];
          float* out = logits + (size_t(at.slot) * s->beam + at.beam) * m->vocab + panel * BLOCK;
          for (int c = 0; c < columns; ++c)
            out[c] = tile[r * BLOCK + c] + (output.bias.empty() ? 0.0f : output.bias[panel * BLOCK + c]);
        }
      }
  });
  next_position(*s);
}

void seqkd_reorder(State* s, const int64_t* parents) {
  std::vector<uint8_t> before(size_t(s->beam) * s->max_target);
  for (size_t slot = 0; slot < s->places.size(); ++slot) {
    const size_t place = s->places[slot];
    const int seen = s->slots[place].position;
    if (!s->slots[place].busy || !seen) continue;
    uint8_t* table = &s->ancestors[place * s->beam * s->max_target];
    std::copy_n(table, before.size(), before.begin());
    for (int beam = 0; beam < s->beam; ++beam)
      std::copy_n(before.begin() + parents[slot * s->beam + beam] * s->max_target, seen, table + beam * s->max_target);
  }
}

void seqkd_frontier_advance(const FrontierState* f, int count, const float* lse, const float* values, const int64_t* ids,
                            const float* eos_logits, int64_t* came_from) {
  frontier_advance(*f, count, lse, values, ids, eos_logits, came_from);
}

void seqkd_shrink(State* s, int count, const int64_t* slots) {
  std::vector<int> places(count);
  for (int n = 0; n < count; ++n) places[n] = s->places[slots[n]];
  for (int place : s->places)
    if (std::find(places.begin(), places.end(), place) == places.end()) s->slots[place].busy = false;
  s->places.swap(places);
}

// Writes the encoder states [count][stride][dim]. Padding keeps its values.
void seqkd_encode(Model* m, int count, const int64_t* ids, int stride, const int32_t* lengths, float* memory) {
  m->workers.run(count, 1, effort(m->encoding, sum(lengths, count)), [&](int begin, int part) {
    MatrixUnit unit(m->arithmetic);
    in_blocks(part, lengths + begin, AT_ONCE, [&](int first, int some) {
      first += begin;
      const Ragged sentences = ragged(lengths + first, some);
      const float* x = encode(*m, scratch(), sentences, ids + size_t(first) * stride, stride);
      sentences.scatter(x, memory + size_t(first) * stride * m->dim, stride, m->dim);
    });
  });
}

// Maps inputs [count][stride][dim] to features of the same shape. Padding keeps its values.
void seqkd_decode(Model* m, int count, const float* inputs, int stride, const int32_t* lengths, const float* memory,
                  int source_stride, const int32_t* source_lengths, float* features) {
  m->workers.run(count, 1, effort(m->decoding, sum(lengths, count)), [&](int begin, int part) {
    MatrixUnit unit(m->arithmetic);
    Scratch& w = scratch();
    in_blocks(part, lengths + begin, AT_ONCE, [&](int first, int some) {
      first += begin;
      const Ragged target = ragged(lengths + first, some), source = ragged(source_lengths + first, some);
      float* states = w.x.need(size_t(source.rows()) * m->dim);
      float* y = w.y.need(size_t(target.rows()) * m->dim);
      source.gather(memory + size_t(first) * source_stride * m->dim, states, source_stride, m->dim);
      target.gather(inputs + size_t(first) * stride * m->dim, y, stride, m->dim);
      decode(*m, w, target, false, y, target, source, states);
      target.scatter(y, features + size_t(first) * stride * m->dim, stride, m->dim);
    });
  });
}

// Writes the likeliest pieces [rows][count] of features [rows][dim].
void seqkd_top_pieces(Model* m, int rows, const float* features, int count, int banned_count, const int64_t* banned,
                      float* logits, int64_t* ids, float* lse) {
  const std::vector<int64_t> never(banned, banned + banned_count);
  const int64_t output = products_of(m->output.outputs, m->output.inputs, m->arithmetic);
  m->workers.run(rows, BLOCK, effort(output, rows), [&](int begin, int part) {
    MatrixUnit unit(m->arithmetic);
    for (int first = begin; first < begin + part; first += AT_ONCE)
      top_pieces(*m, scratch(), features + size_t(first) * m->dim, std::min(AT_ONCE, begin + part - first), count, never,
                 logits + size_t(first) * count, ids + size_t(first) * count, lse + first);
  });
}

// Writes the features [count][times * stride][dim] of sentences whose encoder states are split. Padding keeps its values.
void seqkd_upsampled(Model* m, int count, const int64_t* ids, int stride, const int32_t* lengths, float* features) {
  const size_t width = size_t(m->split.outputs) * stride;
  m->workers.run(count, 1, upsampling_effort(*m, sum(lengths, count)), [&](int begin, int part) {
    upsample(*m, part, ids + size_t(begin) * stride, stride, lengths + begin,
             [&](Scratch&, int first, const Ragged& frames, const float* y) {
               frames.scatter(y, features + (begin + first) * width, int(width) / m->dim, m->dim);
             });
  });
}

// The same, but writes the likeliest piece of each position and its log-probability, one sentence after another.
void seqkd_best_upsampled(Model* m, int count, const int64_t* ids, int stride, const int32_t* lengths, int banned_count,
                          const int64_t* banned, int64_t* pieces, float* logprobs) {
  const std::vector<int64_t> never(banned, banned + banned_count);
  const Ragged all = ragged(lengths, count, m->split.outputs / m->dim);
  m->workers.run(count, 1, upsampling_effort(*m, sum(lengths, count)), [&](int begin, int part) {
    upsample(*m, part, ids + size_t(begin) * stride, stride, lengths + begin,
             [&](Scratch& w, int first, const Ragged& frames, const float* y) {
               const int rows = frames.rows();
               float* logits = logprobs + all.first[begin + first];
               std::vector<float> lse(rows);
               top_pieces(*m, w, y, rows, 1, never, logits, pieces + all.first[begin + first], lse.data());
               for (int r = 0; r < rows; ++r) logits[r] -= lse[r];
             });
  });
}

// Writes the log-probabilities of the ids of all targets, including end of sentence, one target after another. `owners`
// [pairs] holds the index of each target's source in [sources][stride], in ascending order.
void seqkd_score(Model* m, int sources, const int64_t* source_ids, int stride, const int32_t* source_lengths, int pairs,
                 const int32_t* owners, int64_t start, const int64_t* ids, const int32_t* lengths, float* logprobs) {
  const Ragged source = ragged(source_lengths, sources), target = ragged(lengths, pairs);
  std::vector<float> memory(size_t(source.rows()) * m->dim);
  m->workers.run(sources, 1, effort(m->encoding, source.rows()), [&](int begin, int part) {
    MatrixUnit unit(m->arithmetic);
    in_blocks(part, source_lengths + begin, AT_ONCE, [&](int first, int some) {
      first += begin;
      const Ragged sentences = ragged(source_lengths + first, some);
      const float* x = encode(*m, scratch(), sentences, source_ids + size_t(first) * stride, stride);
      std::copy_n(x, size_t(sentences.rows()) * m->dim, &memory[size_t(source.first[first]) * m->dim]);
    });
  });
  m->workers.run(pairs, 1, effort(m->decoding, target.rows()), [&](int begin, int part) {
    MatrixUnit unit(m->arithmetic);
    in_blocks(part, lengths + begin, AT_ONCE, [&](int first, int some) {
      first += begin;
      const int row = target.first[first];
      score(*m, scratch(), ragged(lengths + first, some), owners + first, start, ids + row, source, memory.data(),
            logprobs + row);
    });
  });
}
}

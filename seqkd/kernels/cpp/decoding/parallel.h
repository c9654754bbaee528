// Decoders that process all their positions at once. They encode, decode and read the output for some sentences at a time.
#pragma once
#include "layers.h"

// Decoder rows that pass through all layers together: few enough for their data to stay in the cache, and enough for fetching
// each weight once for all of them to cost little.
constexpr int AT_ONCE = 512;

// Attention to the encoder states, with residual and norm. x is the stream, `asking` its rows by source.
static void cross_attention(const Model& m, Scratch& w, const Layer& layer, const Ragged& asking, const Ragged& source,
                            float* x) {
  const int d = m.dim, rows = asking.rows();
  float* query = w.wide.need(size_t(rows) * d);
  float* entries = w.hidden.need(size_t(source.rows()) * 2 * d);
  float* attended = w.attended.need(size_t(rows) * d);
  multiply(m, w.memory, layer.key_value, entries, PLAIN);
  w.operand.set(m.arithmetic, block_input(m, w, layer.cross_norm, x, rows), rows, d);
  multiply(m, w.operand, layer.query, query, PLAIN);
  attend_all(m, w, asking, query, d, source, entries, 2 * d, false, attended);
  w.operand.set(m.arithmetic, attended, rows, d);
  multiply(m, w.operand, layer.cross_out, x, ADD);
  if (!m.pre) layer.cross_norm.apply(x, x, rows);
}

// All decoder layers. x holds the inputs and receives the features; `memory` holds the encoder states. Neighbouring targets may
// share a source: `asking` holds the rows of each source's targets.
static void decode(const Model& m, Scratch& w, const Ragged& target, bool causal, float* x, const Ragged& asking,
                   const Ragged& source, const float* memory) {
  const int d = m.dim, rows = target.rows();
  for (int n = 0; n < target.count(); ++n) {
    float* own = x + size_t(target.first[n]) * d;
    for (int i = 0; i < target.length(n) * d; i += LANES) store(own + i, load(own + i) + load(m.target_positions + i));
  }
  norm_embeddings(m.target_norm, x, rows);
  w.memory.set(m.arithmetic, memory, source.rows(), d);
  for (const Layer& layer : m.decoder) {
    self_attention(m, w, layer, target, causal, x);
    cross_attention(m, w, layer, asking, source, x);
    feed_forward_block(m, w, layer, x, rows);
  }
  if (m.pre) m.decoder_norm.apply(x, x, rows);
}

// Encodes sentences, splits each state into the inputs of several decoder positions, and decodes them. Calls
// `finish(scratch, first, frames, features)` for some sentences at a time, from number `first` on.
template <typename Finish>
static void upsample(const Model& m, int count, const int64_t* ids, int stride, const int32_t* lengths, Finish finish) {
  const int times = m.split.outputs / m.dim;
  MatrixUnit unit(m.arithmetic);
  Scratch& w = scratch();
  in_blocks(count, lengths, std::max(1, AT_ONCE / times), [&](int first, int some) {
    const Ragged source = ragged(lengths + first, some), frames = ragged(lengths + first, some, times);
    const float* memory = encode(m, w, source, ids + size_t(first) * stride, stride);
    float* y = w.y.need(size_t(frames.rows()) * m.dim);
    w.operand.set(m.arithmetic, memory, source.rows(), m.dim);
    multiply(m, w.operand, m.split, y, PLAIN);
    decode(m, w, frames, false, y, frames, source, memory);
    finish(w, first, frames, y);
  });
}

// The likeliest `count` pieces of each row of features, except those in `banned`, and the log-sum-exp of all pieces.
static void top_pieces(const Model& m, Scratch& w, const float* features, int rows, int count,
                       const std::vector<int64_t>& banned, float* logits, int64_t* ids, float* lse) {
  w.operand.set(m.arithmetic, features, rows, m.dim);
  // As many more as may have to be left out.
  const int wanted = count + int(banned.size());
  w.reduction.run(m.workers, w.operand, m.output, wanted, nullptr, lse, nullptr);
  for (int r = 0; r < rows; ++r)
    for (int i = 0, kept = 0; i < wanted && kept < count; ++i) {
      const int64_t id = w.reduction.best.ids_of(r)[i];
      if (std::find(banned.begin(), banned.end(), id) != banned.end()) continue;
      ids[size_t(r) * count + kept] = id;
      logits[size_t(r) * count + kept++] = w.reduction.best.of(r)[i];
    }
}

// The log-probabilities of given targets, one target after another. The decoder reads `start` and then the target without its
// last id. `owners` holds the index of each target's encoded source, in ascending order.
static void score(const Model& m, Scratch& w, const Ragged& target, const int32_t* owners, int64_t start,
                  const int64_t* ids, const Ragged& sources, const float* memory, float* logprobs) {
  const int d = m.dim, rows = target.rows();
  Ragged asking, source;  // of the sources of these targets
  float* y = w.y.need(size_t(rows) * d);
  for (int n = 0, group = 0; n < target.count(); ++n) {
    group += target.length(n);
    for (int row = target.first[n]; row < target.first[n + 1]; ++row) {
      const bool first = row == target.first[n];
      const float* piece = m.target_embedding + size_t(first ? start : ids[row - 1]) * d;
      const vf scale = splat(first && m.zero_start ? 0.0f : m.scale);
      for (int i = 0; i < d; i += LANES) store(y + size_t(row) * d + i, load(piece + i) * scale);
    }
    if (n + 1 < target.count() && owners[n + 1] == owners[n]) continue;
    asking.add(group);
    source.add(sources.length(owners[n]));
    group = 0;
  }
  decode(m, w, target, true, y, asking, source, memory + size_t(sources.first[owners[0]]) * d);
  w.operand.set(m.arithmetic, y, rows, d);
  std::vector<float> lse(rows);
  w.reduction.run(m.workers, w.operand, m.output, 1, ids, lse.data(), logprobs);
  for (int row = 0; row < rows; ++row) logprobs[row] -= lse[row];
}

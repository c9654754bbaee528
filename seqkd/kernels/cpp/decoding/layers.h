// The layers of a Transformer over whole sentences, and the data that all kernels of a model share.
//
// The rows of all sentences follow one another without padding, so nothing is computed for padding.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "attention.h"

// The mechanism by which a decoder sees its earlier outputs.
enum Memory { ATTENTION = 0, SSRU = 1, SRU = 2, LSTM = 3 };

struct Layer {
  Weight qkv, out, query, key_value, cross_out, inner, ffn_out;  // of a recurrent unit, qkv holds the gates and values
  Norm attention_norm, cross_norm, ffn_norm;
  std::vector<float> peepholes;  // SRU only: the weights of the cell in the forget gate and in the reset gate
};

struct LstmLayer {
  Weight gates[2], recurrent[2];  // forward and backward
};

struct Lstm {
  std::vector<LstmLayer> encoder;
  std::vector<Weight> decoder;  // [4 * dim]: the first reads embedding, features, output; others the layer below, output
  Weight start, key_value, mix;
};

struct Model {
  int dim, heads, vocab, pad, eos;
  bool pre;
  int activation;  // 0 ReLU, 1 GELU, 2 SwiGLU, 3 swish
  float scale;    // of embeddings
  float epsilon;  // of layer norms
  bool zero_start;  // the decoder reads zeros first, not an embedding
  Memory memory;
  Arithmetic arithmetic;
  const float *source_embedding, *target_embedding, *source_positions, *target_positions;
  std::vector<Layer> encoder, decoder;
  Lstm lstm;  // replaces the layers
  Norm encoder_norm, decoder_norm;
  Norm source_norm, target_norm;  // of the sums of embeddings and positions; empty if there are none
  Weight output, split;  // split maps one encoder state to the inputs of several decoder positions
  int64_t encoding = 0, decoding = 0;  // cost of a row in each stack, see `products_of`
  mutable Workers workers;
};

// The buffers of one thread.
struct Scratch {
  Operand operand, memory;
  Buffer<float> x, y, normed, wide, hidden, attended, scores;
  Buffer<const void*> keys, values;  // addresses of the entries that one query reads
  Reduction reduction;
};
static Scratch& scratch() {
  thread_local Scratch own;
  return own;
}

// The matrix unit has to be requested once in a process and configured in each call, because other libraries use it, too.
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

// The cost, in the unit of `Workers::run`, of so many rows of a stack. A few rows cost as much as eight, because the weights
// have to be read.
static inline int64_t effort(int64_t stack, int64_t rows) { return stack * std::max<int64_t>(rows, VECTOR_ROWS); }

// The multiplications of a weight for one row, times the bytes of a number, because wider numbers take longer in proportion.
static inline int64_t products_of(int outputs, int inputs, Arithmetic arithmetic) {
  return int64_t(outputs) * inputs * (arithmetic == FLOAT32 ? 4 : arithmetic == INT8 ? 1 : 2);
}

// c = finish(A * W^T + bias), see `multiply_panels`. All threads share the product if there are few rows and much work.
static void multiply(const Model& m, const Operand& a, const Weight& w, float* c, Finish finish) {
  if (!worth_sharing(a.rows, w)) return multiply_panels(a, w, c, finish, 0, w.panels);
  m.workers.share(w.panels, [&](int first, int count) { multiply_panels(a, w, c, finish, first, count); });
}

static void feed_forward(const Model& m, Scratch& w, const Layer& layer, const float* input, float* x, int rows) {
  const int inner = layer.ffn_out.inputs;
  float* hidden = w.hidden.need(size_t(rows) * layer.inner.outputs);
  w.operand.set(m.arithmetic, input, rows, m.dim);
  constexpr Finish finishes[] = {RELU, GELU, PLAIN, SWISH};
  multiply(m, w.operand, layer.inner, hidden, finishes[m.activation]);
  if (m.activation == 2) {
    for (int r = 0; r < rows; ++r) {
      const float* both = hidden + size_t(r) * 2 * inner;
      for (int i = 0; i < inner; i += LANES) {
        vf gate = load(both + inner + i);
        store(hidden + size_t(r) * inner + i, load(both + i) * gate / (1.0f + vexp(-gate)));
      }
    }
  }
  w.operand.set(m.arithmetic, hidden, rows, inner);
  multiply(m, w.operand, layer.ffn_out, x, ADD);
}

// The input of a block: the stream itself, or its norm if norms come first.
static const float* block_input(const Model& m, Scratch& w, const Norm& norm, const float* x, int rows) {
  if (!m.pre) return x;
  float* out = w.normed.need(size_t(rows) * m.dim);
  norm.apply(x, out, rows);
  return out;
}

// The embedding of a piece and its position, before their norm.
static void embed(const Model& m, const float* table, const float* positions, int64_t id, int position, float* out) {
  const vf scale = splat(m.scale);
  for (int i = 0; i < m.dim; i += LANES)
    store(out + i, load(table + size_t(id) * m.dim + i) * scale + load(positions + size_t(position) * m.dim + i));
}

// The same for an input of the decoder.
static void embed_target(const Model& m, int64_t id, int position, float* out) {
  if (m.zero_start && position == 0)
    std::copy_n(m.target_positions, m.dim, out);
  else
    embed(m, m.target_embedding, m.target_positions, id, position, out);
}

static void norm_embeddings(const Norm& norm, float* x, int rows) {
  if (!norm.weight.empty()) norm.apply(x, x, rows);
}

// Sentences whose rows follow one another.
struct Ragged {
  std::vector<int> first{0};  // first row of each sentence, then the number of rows
  int longest = 0;
  void add(int length) {
    first.push_back(first.back() + length);
    longest = std::max(longest, length);
  }
  int count() const { return int(first.size()) - 1; }
  int rows() const { return first.back(); }
  int length(int n) const { return first[n + 1] - first[n]; }

  // Copies from and to sentences that lie `stride` rows apart.
  void gather(const float* padded, float* rows, int stride, int dim) const {
    for (int n = 0; n < count(); ++n)
      std::copy_n(padded + size_t(n) * stride * dim, size_t(length(n)) * dim, rows + size_t(first[n]) * dim);
  }
  void scatter(const float* rows, float* padded, int stride, int dim) const {
    for (int n = 0; n < count(); ++n)
      std::copy_n(rows + size_t(first[n]) * dim, size_t(length(n)) * dim, padded + size_t(n) * stride * dim);
  }
};

static Ragged ragged(const int32_t* lengths, int count, int times = 1) {
  Ragged sentences;
  for (int n = 0; n < count; ++n) sentences.add(times * lengths[n]);
  return sentences;
}

// Calls `work(first, count)` for groups of neighbouring sentences with at most `limit` rows, or for a single longer sentence.
template <typename Work>
static void in_blocks(int count, const int32_t* lengths, int limit, Work work) {
  for (int first = 0, next = 0; first < count; first = next) {
    int rows = lengths[next++];
    while (next < count && rows + lengths[next] <= limit) rows += lengths[next++];
    work(first, next - first);
  }
}

// Attention of each row of `queries`, `stride` apart, to all keys of its sentence or to those up to its own position. A value
// lies `dim` floats behind its key.
static void attend_all(const Model& m, Scratch& w, const Ragged& target, const float* queries, int stride,
                       const Ragged& source, const float* entries, int entry_stride, bool causal, float* out) {
  const int head_dim = m.dim / m.heads;
  float* work = w.scores.need(attention_room(source.longest, head_dim));
  for (int n = 0; n < target.count(); ++n) {
    const Rows own{queries + size_t(target.first[n]) * stride, stride, target.length(n)};
    const Rows seen{entries + size_t(source.first[n]) * entry_stride, entry_stride, source.length(n)};
    attend_sentence(own, seen, causal, m.heads, head_dim, work, out + size_t(target.first[n]) * m.dim);
  }
}

// The self-attention of sentences, with residual and norm; x is the stream.
static void self_attention(const Model& m, Scratch& w, const Layer& layer, const Ragged& sentences, bool causal,
                           float* x) {
  const int d = m.dim, rows = sentences.rows();
  float* wide = w.wide.need(size_t(rows) * 3 * d);
  float* attended = w.attended.need(size_t(rows) * d);
  w.operand.set(m.arithmetic, block_input(m, w, layer.attention_norm, x, rows), rows, d);
  multiply(m, w.operand, layer.qkv, wide, PLAIN);
  attend_all(m, w, sentences, wide, 3 * d, sentences, wide + d, 3 * d, causal, attended);
  w.operand.set(m.arithmetic, attended, rows, d);
  multiply(m, w.operand, layer.out, x, ADD);
  if (!m.pre) layer.attention_norm.apply(x, x, rows);
}

static void feed_forward_block(const Model& m, Scratch& w, const Layer& layer, float* x, int rows) {
  feed_forward(m, w, layer, block_input(m, w, layer.ffn_norm, x, rows), x, rows);
  if (!m.pre) layer.ffn_norm.apply(x, x, rows);
}

// The encoder states of sentences whose ids lie `stride` apart. They are valid until the next call on this thread.
static float* encode(const Model& m, Scratch& w, const Ragged& sentences, const int64_t* ids, int stride) {
  const int d = m.dim, rows = sentences.rows();
  float* x = w.x.need(size_t(rows) * d);
  for (int n = 0, row = 0; n < sentences.count(); ++n)
    for (int p = 0; p < sentences.length(n); ++p, ++row)
      embed(m, m.source_embedding, m.source_positions, ids[size_t(n) * stride + p], p, x + size_t(row) * d);
  norm_embeddings(m.source_norm, x, rows);
  for (const Layer& layer : m.encoder) {
    self_attention(m, w, layer, sentences, false, x);
    feed_forward_block(m, w, layer, x, rows);
  }
  if (m.pre) m.encoder_norm.apply(x, x, rows);
  return x;
}

// Attention of whole sentences. All queries see the same keys, so both halves are products of small matrices.
#pragma once
#include <algorithm>
#include <type_traits>

#include "blocks.h"

// Multiplies VECTOR_ROWS rows left[i][0..depth) by right[depth][LANES * N], whose rows are `stride` apart.
template <int N>
static inline void some_rows(const float* const* left, const float* right, int stride, int depth, vf (*out)[N]) {
  vf total[VECTOR_ROWS][N] = {};
  for (int p = 0; p < depth; ++p, right += stride) {
    vf value[N];
    for (int v = 0; v < N; ++v) value[v] = load(right + v * LANES);
#pragma GCC unroll 8
    for (int i = 0; i < VECTOR_ROWS; ++i)
      for (int v = 0; v < N; ++v) total[i][v] += left[i][p] * value[v];
  }
  for (int i = 0; i < VECTOR_ROWS; ++i)
    for (int v = 0; v < N; ++v) out[i][v] = total[i][v];
}

// Calls `work(vectors, first)` for pairs of vectors and for a last single one. `vectors` is a compile-time constant.
template <typename Work>
static inline void pairwise(int count, Work work) {
  for (int v = 0; v + 1 < count; v += 2) work(std::integral_constant<int, 2>{}, v);
  if (count % 2) work(std::integral_constant<int, 1>{}, count - 1);
}

// The rows of a sentence, `stride` floats apart.
struct Rows {
  const float* data;
  int stride, count;
  const float* row(int i) const { return data + size_t(i) * stride; }
};

// The size of the buffer `work` that `attend_sentence` needs.
static size_t attention_room(int keys, int head_dim) {
  return size_t(head_dim + VECTOR_ROWS) * round_up(keys, LANES);
}

// Each query attends to all keys or, if `causal`, to the keys up to its own position. A value lies `heads * V` vectors
// behind its key. A head is `V` vectors wide.
template <int V>
static void attend_sentence(const Rows& queries, const Rows& keys, bool causal, int heads, float* work, float* out) {
  constexpr int HEAD = V * LANES;
  const int dim = heads * HEAD, width = round_up(keys.count, LANES);
  const float scale = 1.0f / sqrtf(float(HEAD));
  float *turned = work, *scores = work + size_t(HEAD) * width;  // [HEAD][width], [VECTOR_ROWS][width]
  for (int h = 0; h < heads; ++h) {
    for (int p = 0; p < width; p += LANES)
      for (int v = 0; v < V; ++v) {
        vf tile[LANES];
        for (int i = 0; i < LANES; ++i)
          tile[i] = p + i < keys.count ? load(keys.row(p + i) + h * HEAD + v * LANES) * scale : vf{};
        transpose(tile);
        for (int i = 0; i < LANES; ++i) store(turned + size_t(v * LANES + i) * width + p, tile[i]);
      }
    for (int first = 0; first < queries.count; first += VECTOR_ROWS) {
      const int rows = std::min(VECTOR_ROWS, queries.count - first);
      const int seen = causal ? first + rows : keys.count, reach = round_up(seen, LANES);
      const float *query[VECTOR_ROWS], *weights[VECTOR_ROWS];
      float inverse[VECTOR_ROWS];
      for (int i = 0; i < VECTOR_ROWS; ++i) {  // rows beyond the last repeat the last one
        query[i] = queries.row(first + std::min(i, rows - 1)) + h * HEAD;
        weights[i] = scores + size_t(std::min(i, rows - 1)) * width;
      }
      pairwise(reach / LANES, [&](auto vectors, int v) {
        constexpr int N = decltype(vectors)::value;
        vf dots[VECTOR_ROWS][N];
        some_rows<N>(query, turned + v * LANES, width, HEAD, dots);
        for (int i = 0; i < rows; ++i)
          for (int j = 0; j < N; ++j) store(scores + size_t(i) * width + (v + j) * LANES, dots[i][j]);
      });
      for (int i = 0; i < rows; ++i) {
        float* s = scores + size_t(i) * width;
        const int own = causal ? first + i + 1 : seen;
        for (int p = own / LANES * LANES; p < reach; p += LANES) store(s + p, load(s + p) + outside_mask(own - p));
        inverse[i] = exponentials(s, reach);
      }
      pairwise(V, [&](auto vectors, int v) {
        constexpr int N = decltype(vectors)::value;
        vf sums[VECTOR_ROWS][N];
        const int offset = h * HEAD + v * LANES;
        some_rows<N>(weights, keys.data + dim + offset, keys.stride, seen, sums);
        for (int i = 0; i < rows; ++i)
          for (int j = 0; j < N; ++j)
            store(out + size_t(first + i) * dim + offset + j * LANES, sums[i][j] * inverse[i]);
      });
    }
  }
}

// The same for every width of heads that `attend` supports; out [queries][dim].
static void attend_sentence(const Rows& queries, const Rows& keys, bool causal, int heads, int head_dim, float* work,
                            float* out) {
  switch (head_dim / 16) {
    case 1: return attend_sentence<1 * UNIT>(queries, keys, causal, heads, work, out);
    case 2: return attend_sentence<2 * UNIT>(queries, keys, causal, heads, work, out);
    case 3: return attend_sentence<3 * UNIT>(queries, keys, causal, heads, work, out);
    case 4: return attend_sentence<4 * UNIT>(queries, keys, causal, heads, work, out);
    case 5: return attend_sentence<5 * UNIT>(queries, keys, causal, heads, work, out);
    case 6: return attend_sentence<6 * UNIT>(queries, keys, causal, heads, work, out);
    case 8: return attend_sentence<8 * UNIT>(queries, keys, causal, heads, work, out);
  }
}

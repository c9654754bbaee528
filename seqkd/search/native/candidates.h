// The continuations that a step hands to the search: a few of each row, and more of those rows where a few may not do.
//
// Of a large beam's 2 * beam best continuations hardly any row holds more than a vectorful, and a row's place among the
// others shows afterwards whether it might have held more. Such rows, one in a hundred, are reduced once more.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "decoder.h"

// Where they are written, as `seqkd.search.protocol.FusedSearchModel.step_candidates` lays them out.
struct Candidates {
  int count;
  float *lse, *values;
  int64_t* ids;
  float* eos;
};

// The best `few` continuations of rows whose features are the operand; `count` or less.
static void reduce_rows(const Model& m, Scratch& w, int beam, const Row* list, int rows, int few, const Candidates& out) {
  std::vector<float> lse(rows), eos(rows);
  Reduction& reduction = w.reduction;
  reduction.run(w.operand, m.output, few, m.eos, lse.data(), eos.data());
  for (int r = 0; r < rows; ++r) {
    const size_t at = size_t(list[r].slot) * beam + list[r].beam;
    out.lse[at] = lse[r], out.eos[at] = eos[r];
    std::copy_n(reduction.best.of(r), few, out.values + at * out.count);
    std::copy_n(reduction.best.ids_of(r), few, out.ids + at * out.count);
  }
}

// Which of the rows may have more than the `few` continuations that are known among the 2 * beam best of their sentence.
// What is not known of a row is no better than the last that is. The others that it is held against must be sure to
// count: padding and ends of sentence may be ruled out. Scores are rounded as `frontier_advance` rounds them.
static std::vector<int> rows_with_more(const Model& m, const State& s, const std::vector<Row>& list, int few,
                                       const float* live, const Candidates& known) {
  const size_t enough = size_t(2) * s.beam;
  auto score = [&](size_t at, int c) { return known.values[at * known.count + c] + (live[at] - known.lse[at]); };
  std::vector<int> more;
  std::vector<float> scores;
  for (size_t first = 0, next; first < list.size(); first = next) {
    scores.clear();
    const size_t base = size_t(list[first].slot) * s.beam;
    for (next = first; next < list.size() && list[next].slot == list[first].slot; ++next) {
      const size_t at = base + list[next].beam;
      for (int c = 0; c < few; ++c) {
        const int64_t id = known.ids[at * known.count + c];
        const float one = score(at, c);
        if (id != m.pad && id != m.eos && one > NEVER) scores.push_back(one);
      }
    }
    float bar = NEVER;
    if (scores.size() >= enough) {
      std::nth_element(scores.begin(), scores.begin() + enough - 1, scores.end(), std::greater<float>());
      bar = scores[enough - 1];
    }
    for (size_t row = first; row < next; ++row) {
      const float last = score(base + list[row].beam, few - 1);
      if (last > NEVER && last >= bar) more.push_back(int(row));
    }
  }
  return more;
}

// One step; `live`, if any, are the scores of the hypotheses before it. Rows that are not computed come out as having
// no continuation, and so does what `live` shows not to be among the best 2 * beam of a sentence.
static void step_candidates(Model& m, State& s, const int64_t* tokens, const float* live, const Candidates& out) {
  const size_t all = s.places.size() * s.beam;
  std::fill(out.lse, out.lse + all, 0.0f);
  std::fill(out.eos, out.eos + all, NEVER);
  std::fill(out.values, out.values + all * out.count, NEVER);
  std::fill(out.ids, out.ids + all * out.count, int64_t(m.pad));
  const std::vector<Row> list = rows_of(s);
  const int few = live ? std::min(LANES, out.count) : out.count;
  float* features = few < out.count ? s.features.need(list.size() * m.dim) : nullptr;
  all_rows(m, s, tokens, list, [&](Scratch& w, const float* x, int first, int rows) {
    if (features) std::copy_n(x, size_t(rows) * m.dim, features + size_t(first) * m.dim);
    reduce_rows(m, w, s.beam, &list[first], rows, few, out);
  });
  if (!features) return;
  const std::vector<int> more = rows_with_more(m, s, list, few, live, out);
  m.workers.run(int(more.size()), BLOCK, [&](int first, int count) {
    MatrixUnit unit(m.arithmetic);
    Scratch& w = scratch();
    std::vector<Row> again;
    float* x = w.x.need(size_t(count) * m.dim);
    for (int r = 0; r < count; ++r) {
      again.push_back(list[more[first + r]]);
      std::copy_n(features + size_t(more[first + r]) * m.dim, m.dim, x + size_t(r) * m.dim);
    }
    w.operand.set(m.arithmetic, x, count, m.dim);
    reduce_rows(m, w, s.beam, again.data(), count, out.count, out);
  });
}

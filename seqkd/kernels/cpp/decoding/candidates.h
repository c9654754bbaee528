// The continuations that a step passes to the search: a few of each row, and more of the rows for which a few may not suffice.
//
// The search continues with the `beam` best continuations of a sentence other than end of sentence; an end of sentence counts
// if it ranks among the `beam` best. A continuation that is worse than `beam` others, none of them an end, is therefore never
// needed. With a large beam hardly any row contributes more than sixteen needed continuations, and the ranking shows
// afterwards whether a row might have contributed more. Such rows, about one in a hundred, are reduced again. And because
// log-probabilities only fall, a hypothesis that already scores below that many continuations of better hypotheses need not
// be computed at all.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "decoder.h"

// The output arrays, as `seqkd.search.protocol.FusedSearchModel.step_candidates` describes them.
struct Candidates {
  int count;
  float *lse, *values;
  int64_t* ids;
  float* eos;
};

// Writes the best `few` continuations, at most `count`, of the rows whose features are the operand.
static void reduce_rows(const Model& m, Scratch& w, int beam, const Row* list, int rows, int few, const Candidates& out) {
  std::vector<float> lse(rows), eos(rows);
  const std::vector<int64_t> ends(rows, m.eos);
  Reduction& reduction = w.reduction;
  reduction.run(m.workers, w.operand, m.output, few, ends.data(), lse.data(), eos.data());
  for (int r = 0; r < rows; ++r) {
    const size_t at = size_t(list[r].slot) * beam + list[r].beam;
    out.lse[at] = lse[r], out.eos[at] = eos[r];
    std::copy_n(reduction.best.of(r), few, out.values + at * out.count);
    std::copy_n(reduction.best.ids_of(r), few, out.ids + at * out.count);
  }
}

// From this beam size on, the best quarter of a sentence's hypotheses is computed first, and all continuations that may be
// needed are kept for them. For the other hypotheses a few suffice.
constexpr int LARGE = 16;
constexpr int FEW = 16;  // continuations kept of the others

// Larger than the amount by which rounding can lift a continuation above its hypothesis, for logits up to some thousands.
constexpr float SLACK = 0.01f;

// For each slot, the score that `beam` of the known continuations reach. Only continuations that certainly count are
// considered: padding and ends of sentence may be ruled out. Scores are rounded as `frontier_advance` rounds them.
static std::vector<float> bars(const Model& m, const State& s, const float* live, const Candidates& known) {
  std::vector<float> found(s.places.size(), NEVER), scores;
  for (size_t slot = 0; slot < found.size(); ++slot) {
    scores.clear();
    for (size_t at = slot * s.beam; at < (slot + 1) * s.beam; ++at) {
      const float base = live[at] - known.lse[at];
      for (int c = 0; c < known.count; ++c) {
        const int64_t id = known.ids[at * known.count + c];
        const float score = known.values[at * known.count + c] + base;
        if (!(score > NEVER)) break;
        if (id != m.pad && id != m.eos) scores.push_back(score);
      }
    }
    if (scores.size() < size_t(s.beam)) continue;
    std::nth_element(scores.begin(), scores.begin() + s.beam - 1, scores.end(), std::greater<float>());
    found[slot] = scores[s.beam - 1];
  }
  return found;
}

// Rows that are computed together, and the data kept of each until it is known which rows need more continuations.
struct Round {
  std::vector<Row> list;
  int kept;
};

// Computes one step. `live`, if given, holds the scores of the hypotheses before the step; `closing` marks the sentences whose
// hypotheses must all end now. Rows that are not computed, and rows that `live` shows to be useless, have no continuation.
static void step_candidates(Model& m, State& s, const int64_t* tokens, const float* live, const bool* closing,
                            const Candidates& out) {
  const size_t all = s.places.size() * s.beam;
  std::fill(out.lse, out.lse + all, 0.0f);
  std::fill(out.eos, out.eos + all, NEVER);
  std::fill(out.values, out.values + all * out.count, NEVER);
  std::fill(out.ids, out.ids + all * out.count, int64_t(m.pad));
  auto at = [&](const Row& row) { return size_t(row.slot) * s.beam + row.beam; };
  Round rounds[] = {{rows_of(s), out.count}, {{}, std::min(FEW, out.count)}};
  if (live) {
    const int leading = s.beam < LARGE ? s.beam : s.beam / 4;
    rounds[0].kept = std::min(round_up(s.beam, FEW), out.count);
    std::vector<Row>& list = rounds[0].list;
    const auto rest = std::stable_partition(list.begin(), list.end(), [&](const Row& row) {
      return row.beam < leading || (closing && closing[row.slot]);
    });
    rounds[1].list.assign(rest, list.end());
    list.erase(rest, list.end());
  }

  const size_t rows = rounds[0].list.size() + rounds[1].list.size();
  const bool enough = rounds[1].list.empty() && rounds[0].kept == out.count;  // no row can need more
  float* features = enough ? nullptr : s.features.need(rows * m.dim);
  float* next = features;
  auto compute = [&](const Round& round) {
    all_rows(m, s, tokens, round.list, [&](Scratch& w, const float* x, int first, int count) {
      if (!enough) std::copy_n(x, size_t(count) * m.dim, next + size_t(first) * m.dim);
      reduce_rows(m, w, s.beam, &round.list[first], count, round.kept, out);
    });
    next += round.list.size() * m.dim;
  };
  compute(rounds[0]);
  if (std::vector<Row>& list = rounds[1].list; !list.empty()) {
    const std::vector<float> bar = bars(m, s, live, out);
    auto behind = [&](const Row& row) { return live[at(row)] + SLACK < bar[row.slot]; };
    list.erase(std::remove_if(list.begin(), list.end(), behind), list.end());
    compute(rounds[1]);
  }
  next_position(s);
  if (enough) return;

  // The unknown continuations of a row are no better than its last known one.
  const std::vector<float> bar = bars(m, s, live, out);
  std::vector<Row> more;
  std::vector<const float*> inputs;
  next = features;
  for (const Round& round : rounds)
    for (const Row& row : round.list) {
      const float last = out.values[at(row) * out.count + round.kept - 1] + (live[at(row)] - out.lse[at(row)]);
      if (round.kept < out.count && last > NEVER && last >= bar[row.slot]) more.push_back(row), inputs.push_back(next);
      next += m.dim;
    }
  m.workers.run(int(more.size()), BLOCK, 0, [&](int first, int count) {
    MatrixUnit unit(m.arithmetic);
    Scratch& w = scratch();
    float* x = w.x.need(size_t(count) * m.dim);
    for (int r = 0; r < count; ++r) std::copy_n(inputs[first + r], m.dim, x + size_t(r) * m.dim);
    w.operand.set(m.arithmetic, x, count, m.dim);
    reduce_rows(m, w, s.beam, &more[first], count, out.count, out);
  });
}

// The continuations that a step hands to the search: a few of each row, and more of those rows where a few may not do.
//
// The search goes on with a sentence's `beam` best continuations that are no end of sentence, and an end of sentence
// counts if it ranks among its `beam` best. So what is worse than `beam` others, none of them an end, is of no use.
// Of a large beam hardly any row holds more than sixteen of what is, and a row's place among the others shows
// afterwards whether it might have held more. Such rows, one in a hundred, are reduced once more. And as
// log-probabilities only fall, a hypothesis that is already behind that many continuations of better ones need not be
// computed at all.
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

// From this beam on, the best hypotheses of a sentence go first: a quarter of them, of which as many continuations are
// kept as can be of use. Of the others few do.
constexpr int LARGE = 16;
constexpr int FEW = 16;  // what is kept of the others

// More than rounding can lift a continuation above the hypothesis that it continues, for logits up to some thousands.
constexpr float SLACK = 0.01f;

// By slot, the score that `beam` of the known continuations reach or pass. They must be sure to count: padding and ends
// of sentence may be ruled out. Scores are rounded as `frontier_advance` rounds them.
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

// Rows that are computed together, and what is kept of each until it is known which had more that is of use.
struct Round {
  std::vector<Row> list;
  int kept;
};

// One step; `live`, if any, are the scores of the hypotheses before it, and `closing` says of which sentences every
// hypothesis must end now. Rows that are not computed come out as having no continuation, and so does what `live` shows
// to be of no use.
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
  const bool enough = rounds[1].list.empty() && rounds[0].kept == out.count;  // no row can turn out to have more
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

  // What is not known of a row is no better than the last that is.
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

// One step of beam search for all slots. It computes the same as `Frontier.advance` in torch, in one pass over the candidates.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "blocks.h"

// The fields of `Frontier` that a step reads and writes, in the order of `seqkd.search.cpu.frontier`.
struct FrontierState {
  int64_t slots, beam, max_target, eos, pad, exact, favours_length;
  float* live;        // [slots][beam]
  int64_t* last;      // [slots][beam]
  int64_t* tokens;    // [slots][max_target][beam]
  int64_t* parents;   // [slots][max_target][beam]
  int64_t* positions; // [slots], as the next four
  const int64_t *minimums, *limits;
  int64_t* count;
  bool *done, *bad;
  float *scores, *logprobs;         // [slots][beam + 1], as the next three
  int64_t *steps, *finished_parents;
  bool* forced;
  const float* divisors;  // divisors of log-probabilities, by length
};

struct Ranked {
  float score;
  int64_t id;
  int beam;
};

// The best `room` continuations in order. Of equal ones the earlier stays in front.
static void rank(std::vector<Ranked>& best, size_t room, Ranked entry) {
  if (best.size() == room) {
    if (!(entry.score > best.back().score)) return;
    best.pop_back();
  }
  auto place = best.end();
  while (place != best.begin() && (place - 1)->score < entry.score) --place;
  best.insert(place, entry);
}

static void finish_exact(const FrontierState& f, int64_t slot, const Ranked& entry, float score, int64_t position,
                         bool at_limit) {
  const size_t base = slot * (f.beam + 1);
  int place = int(f.beam);
  while (place > 0 && f.scores[base + place - 1] < score) --place;
  if (place == f.beam) return;
  for (int i = int(f.beam) - 1; i > place; --i) {
    f.scores[base + i] = f.scores[base + i - 1], f.logprobs[base + i] = f.logprobs[base + i - 1];
    f.steps[base + i] = f.steps[base + i - 1], f.finished_parents[base + i] = f.finished_parents[base + i - 1];
    f.forced[base + i] = f.forced[base + i - 1];
  }
  f.scores[base + place] = score, f.logprobs[base + place] = entry.score, f.steps[base + place] = position;
  f.finished_parents[base + place] = entry.beam, f.forced[base + place] = at_limit;
}

// Writes to `came_from` [slots][beam] the hypothesis that each new one continues. Finished slots keep their order.
static void frontier_advance(const FrontierState& f, int count, const float* lse, const float* values,
                             const int64_t* ids, const float* eos_logits, int64_t* came_from) {
  const int beam = int(f.beam);
  std::vector<Ranked> best;
  for (int64_t slot = 0; slot < f.slots; ++slot) {
    int64_t* from = came_from + slot * beam;
    for (int j = 0; j < beam; ++j) from[j] = j;
    if (f.done[slot]) continue;
    float* live = f.live + slot * beam;
    const int64_t position = f.positions[slot];
    const bool early = position < f.minimums[slot], at_limit = position >= f.limits[slot];
    const size_t room = std::min(2 * beam, beam * count);
    best.clear();
    for (int j = 0; j < beam; ++j) {
      const size_t row = slot * beam + j;
      if (live[j] > NEVER && !std::isfinite(lse[row])) f.bad[slot] = true;
      const float base = live[j] - lse[row];
      if (at_limit) {
        // The only continuation, whether or not it is among the best.
        if (const float score = eos_logits[row] + base; score > NEVER) rank(best, room, {score, f.eos, j});
        continue;
      }
      for (int c = 0; c < count; ++c) {
        const int64_t id = ids[row * count + c];
        const float score = values[row * count + c] + base;
        // Scores fall along a row: if one is too low, so are all after it.
        if (!(score > NEVER) || (best.size() == room && !(score > best.back().score))) break;
        if (id == f.pad || (early && id == f.eos)) continue;
        rank(best, room, {score, id, j});
      }
    }

    const float divisor = f.divisors[position + 1];
    int ranks = 0;
    for (const Ranked& entry : best) {
      if (ranks++ >= beam) break;
      if (entry.id != f.eos) continue;
      const float score = entry.score / divisor;
      int64_t& held = f.count[slot];
      if (f.exact) {
        finish_exact(f, slot, entry, score, position, at_limit);
      } else if (held < beam) {
        const size_t at = slot * (beam + 1) + held;
        f.scores[at] = score, f.logprobs[at] = entry.score, f.steps[at] = position;
        f.finished_parents[at] = entry.beam, f.forced[at] = at_limit;
      }
      held = std::min<int64_t>(held + 1, beam);
    }

    int kept = 0;
    for (const Ranked& entry : best) {
      if (entry.id == f.eos || kept == beam) continue;
      live[kept] = entry.score, f.last[slot * beam + kept] = entry.id, from[kept] = entry.beam;
      ++kept;
    }
    const bool dead = kept == 0;
    // If fewer hypotheses continue, the remaining beams hold none, but still need a token that the model can read.
    for (; kept < beam; ++kept) live[kept] = NEVER, f.last[slot * beam + kept] = f.pad, from[kept] = 0;
    const size_t written = (slot * f.max_target + position) * beam;
    std::copy_n(f.last + slot * beam, beam, f.tokens + written);
    std::copy_n(from, beam, f.parents + written);

    bool settled = f.count[slot] >= beam;
    if (settled && f.exact) {
      // Log-probabilities only fall: no live hypothesis can reach a better score than this.
      const int64_t longest = f.favours_length ? f.limits[slot] : position + 1;
      const float* scores = f.scores + slot * (beam + 1);
      settled = *std::max_element(live, live + beam) / f.divisors[longest + 1] <= *std::min_element(scores, scores + beam);
    }
    f.done[slot] |= at_limit || settled || dead;
    f.positions[slot] = std::min(position + 1, f.max_target - 1);
  }
}

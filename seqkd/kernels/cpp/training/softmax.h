// The output layer over a vocabulary: log-sum-exp with gradients, the expectation under a softmax, and the likeliest piece.
// This file is a part of training.cpp.
#pragma once

extern "C" {
// The log-sum-exp of each row's logits x * w^T. If `expected` [rows x width] is given, it receives the expectation of the rows
// of `values` [vocab x width] under the softmax, and the sum over rows of (probability of v) * y [rows x width] is added to row
// v of `to` [vocab x width]; each row is multiplied by its `weight` (null: 1). With w as values and x as y these are the
// gradients.
void seqkd_softmax(const float* x, const float* w, const float* values, const float* y, const float* weight, int rows, int dim,
                   int width, int vocab, int threads, float* log_sums, float* expected, float* to) {
  static thread_local Buffer<uint16_t> outward_buffer, inward_buffer, left_buffer, kept_buffer, y_buffer;
  static thread_local Buffer<float> reference_buffer, totals_buffer, sums_buffer;
  const int steps = dim / BLOCK, panels = vocab / BLOCK, panels_of_width = width / BLOCK;
  const int room = std::max(BLOCK, int(std::min<size_t>(SOFTMAX_KEPT / vocab, size_t(blocks_of(rows, BLOCK)) * BLOCK)) /
                                       BLOCK * BLOCK);
  uint16_t* outward = outward_buffer.need(size_t(vocab) * dim);
  uint16_t* inward = expected ? inward_buffer.need(size_t(vocab) * width) : nullptr;
  with_unit(threads, [&](int part, int parts) {
    const Range own(panels, part, parts);
    pack_right_transposed(w, dim, own.first, own.last, outward);
    if (inward) pack_right(values, nullptr, vocab, width, own.first, own.last, panels, inward);
  });
  uint16_t* left = left_buffer.need(size_t(room) * dim);
  uint16_t* kept = expected ? kept_buffer.need(size_t(room) * vocab) : nullptr;
  uint16_t* y_right = expected ? y_buffer.need(size_t(room) * width) : nullptr;
  float* reference = reference_buffer.need(room);
  float* totals = totals_buffer.need(size_t(room) * threads);
  float* sums = expected ? sums_buffer.need(size_t(room) * width * threads) : nullptr;
  for (int first = 0; first < rows; first += room) {
    const int count = std::min(room, rows - first), row_blocks = blocks_of(count, BLOCK);
    with_unit(threads, [&](int part, int parts) {
      const Range own(row_blocks, part, parts);
      pack_left(x + size_t(first) * dim, count, dim, 2 * own.first, 2 * own.last, left);
    });
    // Exponents are relative to the largest of a row's first logits. If another logit lies far above it, the maximum of all is
    // used.
    bool exact = false;
    int used = 1;
    while (true) {
      const int looked_at = exact ? panels : std::min(panels, SOFTMAX_COLUMNS / BLOCK / 2);
      with_unit(threads, [&](int part, int parts) {
        const Range own(row_blocks, part, parts);
        alignas(64) float tile[BLOCK * BLOCK];
        for (int block = own.first; block < own.last; ++block) {
          vf peaks[BLOCK];
          for (vf& peak : peaks) peak = splat(-INFINITY);
          for (int panel = 0; panel < looked_at; ++panel) {
            product<ZERO>(left + size_t(block) * BLOCK * dim, size_t(steps) * TILE,
                          outward + size_t(panel) * steps * 2 * TILE, steps, tile, BLOCK);
            for (int r = 0; r < BLOCK; ++r)
              peaks[r] = vmax(peaks[r], vmax(load(tile + r * BLOCK), load(tile + r * BLOCK + LANES)));
          }
          for (int r = 0; r < BLOCK; ++r) reference[block * BLOCK + r] = largest(peaks[r]);
        }
      });
      bool far = false;
      with_unit(threads, [&](int part, int parts) {
        static thread_local Buffer<float> logits_buffer;
        static thread_local Buffer<uint16_t> narrow_buffer;
        if (part == 0) used = parts;
        const Range own(vocab, part, parts, SOFTMAX_COLUMNS);
        float* logits = logits_buffer.need(BLOCK * SOFTMAX_COLUMNS);
        uint16_t* narrowed = narrow_buffer.need(BLOCK * SOFTMAX_COLUMNS);
        float* own_totals = totals + size_t(part) * room;
        float* own_sums = expected ? sums + size_t(part) * room * width : nullptr;
        std::fill_n(own_totals, row_blocks * BLOCK, 0.0f);
        if (expected && own.first == own.last) std::fill_n(own_sums, size_t(row_blocks) * BLOCK * width, 0.0f);
        vf highest = splat(-INFINITY);
        for (int column = own.first; column < own.last; column += SOFTMAX_COLUMNS) {
          const int columns = std::min(SOFTMAX_COLUMNS, own.last - column), column_steps = columns / BLOCK;
          for (int block = 0; block < row_blocks; ++block) {
            for (int c = 0; c < columns; c += BLOCK)
              product<ZERO>(left + size_t(block) * BLOCK * dim, size_t(steps) * TILE,
                            outward + size_t((column + c) / BLOCK) * steps * 2 * TILE, steps, logits + c, SOFTMAX_COLUMNS);
            for (int r = 0; r < BLOCK; ++r) {
              const int row = block * BLOCK + r;
              const float* from = logits + r * SOFTMAX_COLUMNS;
              uint16_t* packed = narrowed + (size_t(r / 16) * column_steps) * TILE + r % 16 * 32;
              if (row >= count) {
                for (int c = 0; c < columns; c += BLOCK, packed += TILE) _mm512_store_si512(packed, _mm512_setzero_si512());
                continue;
              }
              const vf base = splat(reference[row]);
              vf even = {}, odd = {};
              for (int c = 0; c < columns; c += BLOCK, packed += TILE) {
                const vf a = load(from + c) - base, b = load(from + c + LANES) - base;
                highest = vmax(highest, vmax(a, b));
                const vf p = vexp(a), q = vexp(b);
                even += p, odd += q;
                _mm512_store_si512(packed, narrow32(p, q));
              }
              own_totals[row] += sum(even + odd);
            }
            if (!expected) continue;
            for (int panel = 0; panel < panels_of_width; ++panel) {
              float* out = own_sums + size_t(block) * BLOCK * width + panel * BLOCK;
              const uint16_t* b = inward + (size_t(panel) * panels + column / BLOCK) * 2 * TILE;
              if (column == own.first)
                product<ZERO>(narrowed, size_t(column_steps) * TILE, b, column_steps, out, width);
              else
                product<ADD>(narrowed, size_t(column_steps) * TILE, b, column_steps, out, width);
            }
            // Kept transposed for the gradient of w.
            for (int c = 0; c < columns; c += 16) {
              vf pairs[16];
              for (int p = 0; p < 16; ++p) {
                const uint16_t* at = narrowed + (size_t(p / 8) * column_steps + c / 32) * TILE + 2 * p % 16 * 32 + c % 32;
                const __m512i even = _mm512_cvtepu16_epi32(_mm256_load_si256(reinterpret_cast<const __m256i*>(at)));
                const __m512i odd = _mm512_cvtepu16_epi32(_mm256_load_si256(reinterpret_cast<const __m256i*>(at + 32)));
                pairs[p] = (vf)_mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
              }
              store_turned(kept + (size_t((column + c) / 16) * row_blocks + block) * TILE, pairs);
            }
          }
        }
        if (largest(highest) > FAR) __atomic_store_n(&far, true, __ATOMIC_RELAXED);
      });
      if (!far || exact) break;
      exact = true;
    }
    for (int r = 0; r < count; ++r) {
      for (int p = 1; p < used; ++p) totals[r] += totals[size_t(p) * room + r];
      log_sums[first + r] = reference[r] + std::log(totals[r]);
      totals[r] = (weight ? weight[first + r] : 1.0f) / totals[r];
    }
    if (!expected) continue;
    with_unit(threads, [&](int part, int parts) {
      const Range own(row_blocks, part, parts);
      pack_right(y + size_t(first) * width, totals, count, width, own.first, own.last, row_blocks, y_right);
      for (int r = own.first * BLOCK; r < std::min(count, own.last * BLOCK); ++r)
        for (int c = 0; c < width; c += LANES) {
          vf total = load(sums + size_t(r) * width + c);
          for (int p = 1; p < used; ++p) total += load(sums + (size_t(p) * room + r) * width + c);
          store(expected + size_t(first + r) * width + c, total * totals[r]);
        }
    });
    with_unit(threads, [&](int part, int parts) {
      const Range own(panels, part, parts);
      for (int panel = own.first; panel < own.last; ++panel)
        for (int c = 0; c < panels_of_width; ++c)
          product<ADD>(kept + size_t(panel) * 2 * row_blocks * TILE, size_t(row_blocks) * TILE,
                       y_right + size_t(c) * row_blocks * 2 * TILE, row_blocks,
                       to + size_t(panel) * BLOCK * width + c * BLOCK, width);
    });
  }
}

// The column of the largest logit x * w^T of each row; the lowest of equal ones; 0 if all are NaN.
void seqkd_best(const float* x, const float* w, int rows, int dim, int vocab, int threads, int64_t* ids) {
  static thread_local Buffer<uint16_t> packed;
  const int steps = dim / BLOCK, panels = vocab / BLOCK;
  uint16_t* right = packed.need(size_t(vocab) * dim);
  with_unit(threads, [&](int part, int parts) {
    const Range own(panels, part, parts);
    pack_right_transposed(w, dim, own.first, own.last, right);
  });
  with_unit(threads, [&](int part, int parts) {
    static thread_local Buffer<uint16_t> left_buffer;
    static thread_local Buffer<vf> best_buffer;
    static thread_local Buffer<vi> places_buffer;
    const Range own(rows, part, parts, BLOCK);
    uint16_t* left = left_buffer.need(size_t(LINEAR_ROWS) * dim);
    vf* best = best_buffer.need(LINEAR_ROWS);
    vi* places = places_buffer.need(LINEAR_ROWS);
    vi lanes;
    for (int i = 0; i < LANES; ++i) lanes[i] = i;
    alignas(64) float tile[BLOCK * BLOCK];
    for (int first = own.first; first < own.last; first += LINEAR_ROWS) {
      const int count = std::min(LINEAR_ROWS, own.last - first), blocks = blocks_of(count, BLOCK);
      pack_left(x + size_t(first) * dim, count, dim, 0, 2 * blocks, left);
      std::fill_n(best, blocks * BLOCK, splat(-INFINITY));
      std::fill_n(places, blocks * BLOCK, vi{});
      for (int panel = 0; panel < panels; ++panel)
        for (int block = 0; block < blocks; ++block) {
          product<ZERO>(left + size_t(block) * BLOCK * dim, size_t(steps) * TILE,
                        right + size_t(panel) * steps * 2 * TILE, steps, tile, BLOCK);
          for (int r = 0; r < BLOCK; ++r)
            for (int half = 0; half < BLOCK; half += LANES) {
              const vf y = load(tile + r * BLOCK + half);
              vf& top = best[block * BLOCK + r];
              vi& place = places[block * BLOCK + r];
              const vi above = y > top;
              top = above ? y : top;
              place = above ? lanes + (panel * BLOCK + half) : place;
            }
        }
      for (int r = 0; r < count; ++r) {
        int lane = 0;
        for (int i = 1; i < LANES; ++i)
          if (best[r][i] > best[r][lane] || (best[r][i] == best[r][lane] && places[r][i] < places[r][lane])) lane = i;
        ids[first + r] = places[r][lane];
      }
    }
  });
}

// Adds scale * x[r] to row targets[r] of `to`.
void seqkd_scatter(const float* x, const int64_t* targets, float scale, int rows, int dim, int threads, float* to) {
  with_unit(threads, [&](int part, int parts) {
    const Range own(dim, part, parts, LANES);
    for (int r = 0; r < rows; ++r)
      for (int c = own.first; c < own.last; c += LANES) {
        float* at = to + size_t(targets[r]) * dim + c;
        store(at, load(at) + load(x + size_t(r) * dim + c) * scale);
      }
  });
}
}

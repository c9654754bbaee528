"""Word alignment in a few matrix operations: IBM model 1 with fast_align's prior on the diagonal.

Model 1: Brown et al. 1993. The prior: Dyer, Chahuneau & Smith 2013, "A Simple, Fast, and Effective Reparameterization
of IBM Model 2", with its two parameters fixed instead of tuned. It serves to compare corpora with the same sources, for
which a small deterministic aligner, fitted on all of them together, is worth more than a better one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NULL = -1
DIAGONAL = 4.0  # how sharply the prior favours the diagonal (lambda)
NULL_PRIOR = 0.08  # prior probability that a target word has no source word (p0)

_PART = 1 << 20  # cells processed together

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Cells = NDArray[np.int32]

_NO_PAIRS: Ints = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class RaggedIds:
    """Token ids of many sentences, end to end.

    Attributes:
        ids: All ids, `[tokens]`.
        lengths: Tokens of each sentence, `[sentences]`; they add up to `tokens`.
    """

    ids: Ints
    lengths: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignedCounts:
    """How often each source word was aligned to each target word, with pairs in ascending order.

    Attributes:
        source: Source ids, `[pairs]`.
        target: Target ids, `[pairs]`.
        counts: Times seen, `[pairs]`.
    """

    source: Ints
    target: Ints
    counts: Ints


@dataclass(frozen=True, slots=True)
class _Cells:
    """Every (target token, source position or NULL) of every sentence, grouped by target token."""

    starts: Ints  # [target tokens]: the first cell of each
    token: Cells  # [cells]: target token of each cell, counted over the corpus
    pair: Cells  # [cells]: index into the table of (source, target) pairs
    prior: NDArray[np.float32]  # [cells]
    pairs: Ints  # [pairs]: source id + 1 (NULL 0) times the base of all texts plus target id


def align(texts: Sequence[tuple[RaggedIds, RaggedIds]], *, iterations: int = 5) -> list[AlignedCounts]:
    """Align the target words of several texts by one model, and count the pairs of each text.

    The model is fitted on all texts together, so that their counts differ by their words and not by their models. Every
    target word is aligned to its most likely source word or to none.

    Memory is about 12 bytes for each combination of a target word and a source word of its sentence, and another 40
    bytes for each combination in the largest text. `count_cells` returns the number of combinations.

    Args:
        texts: For each text its source sentences and their translations, in the same order.
        iterations: EM steps from a uniform table.

    Returns:
        The counts of each text.
    """
    base = 1 + max((int(target.ids.max()) for _, target in texts if len(target.ids)), default=0)
    grids = [_make_cells(source, target, base) for source, target in texts]
    pairs = np.unique(np.concatenate([_NO_PAIRS, *(grid.pairs for grid in grids)]))
    places = [np.searchsorted(pairs, grid.pairs) for grid in grids]  # of the pairs of each text in the common table
    source_of_pair = pairs // base
    table = 1.0 / np.bincount(source_of_pair)[source_of_pair]
    for _ in range(iterations):
        counts = np.zeros(len(pairs))
        for grid, place in zip(grids, places, strict=True):
            posterior = grid.prior * table[place][grid.pair]
            posterior /= np.add.reduceat(posterior, grid.starts)[grid.token]
            counts[place] += np.bincount(grid.pair, weights=posterior, minlength=len(place))
        table = counts / np.maximum(np.bincount(source_of_pair, weights=counts), 1e-300)[source_of_pair]
    return [_align_best(grid, table[place], base) for grid, place in zip(grids, places, strict=True)]


def count_cells(source_lengths: Ints, target_lengths: Ints) -> Ints:
    """Count the combinations in each sentence, `[sentences]`: target words times source words and NULL."""
    return (source_lengths.astype(np.int64) + 1) * target_lengths.astype(np.int64)


def _make_cells(source: RaggedIds, target: RaggedIds, base: int) -> _Cells:
    sentence = np.repeat(np.arange(len(target.lengths)), target.lengths)  # [target tokens]
    width = source.lengths[sentence] + 1  # cells of each target token: NULL, then the source from left to right
    starts = np.cumsum(width) - width
    token = np.repeat(np.arange(len(sentence), dtype=np.int32), width)
    column = np.arange(len(token), dtype=np.int32) - starts.astype(np.int32)[token]  # 0 is NULL
    pairs, pair = _number_pairs(source, target, sentence, token, column, base)
    prior = _compute_prior(source, target, sentence, starts, token, column)
    return _Cells(starts, token, pair, prior, pairs)


def _number_pairs(
    source: RaggedIds, target: RaggedIds, sentence: Ints, token: Cells, column: Cells, base: int
) -> tuple[Ints, Cells]:
    first = np.cumsum(source.lengths) - source.lengths
    padded = np.append(source.ids, 0) + 1
    position = first[sentence].astype(np.int32)[token]
    position += column
    position -= 1
    keys = padded[position]  # the position of NULL may be -1, which is the padding and is not used
    keys[column == 0] = 0
    keys *= base
    keys += target.ids[token]
    pair = np.empty(len(keys), dtype=np.int32)
    found = []
    for start in range(0, len(keys), _PART):  # one `unique` over all would need several times the memory
        some, inverse = np.unique(keys[start : start + _PART], return_inverse=True)
        pair[start : start + _PART] = inverse
        found.append(some)
    pairs = np.unique(np.concatenate([_NO_PAIRS, *found]))
    for index, some in enumerate(found):
        part = slice(index * _PART, (index + 1) * _PART)
        pair[part] = np.searchsorted(pairs, some).astype(np.int32)[pair[part]]
    return pairs, pair


def _compute_prior(
    source: RaggedIds, target: RaggedIds, sentence: Ints, starts: Ints, token: Cells, column: Cells
) -> NDArray[np.float32]:
    rows = np.arange(len(sentence)) - (np.cumsum(target.lengths) - target.lengths)[sentence]
    row = ((rows + 0.5) / target.lengths[sentence]).astype(np.float32)
    step = (1.0 / np.maximum(source.lengths, 1)[sentence]).astype(np.float32)
    weight = (column - np.float32(0.5)) * step[token]
    weight -= row[token]
    np.abs(weight, out=weight)
    weight *= np.float32(-DIAGONAL)
    np.exp(weight, out=weight)
    null = column == 0
    weight[null] = 0.0
    total = np.add.reduceat(weight, starts)
    weight *= (np.float32(1.0 - NULL_PRIOR) / np.where(total > 0.0, total, np.float32(1.0)))[token]
    weight[null] = NULL_PRIOR
    return weight


def _align_best(grid: _Cells, table: Floats, base: int) -> AlignedCounts:
    posterior = grid.prior * table[grid.pair]
    best = np.maximum.reduceat(posterior, grid.starts)
    hits = np.flatnonzero(posterior == best[grid.token])
    _, first = np.unique(grid.token[hits], return_index=True)  # the leftmost of equal ones
    chosen, counts = np.unique(grid.pairs[grid.pair[hits[first]]], return_counts=True)
    words = chosen >= base  # NULL's pairs come first
    return AlignedCounts(
        source=chosen[words] // base - 1, target=chosen[words] % base, counts=counts[words].astype(np.int64)
    )

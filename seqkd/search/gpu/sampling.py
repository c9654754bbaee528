"""Sampling as one Triton kernel: each row is read from memory once, and the host is asked nothing.

`seqkd.search.sampling.draw` says what is computed. Continuations are not sorted. Those that can be drawn are all above
a threshold, and the first of those that are equal to it. The threshold is found by bisection over the ordered bits of
floats; each pass also moves the bounds to the nearest log-probabilities of the row. A row of some ten thousands stays
in the cache of its multiprocessor meanwhile.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# The largest number of log-probabilities that a program holds at a time.
CHUNK = 4096
# The key of -inf, below those of all other log-probabilities.
LOWEST: tl.constexpr = tl.constexpr(-(2**31) + 0x7FFFFF)
# Above all keys.
HIGHEST: tl.constexpr = tl.constexpr(2**31 - 1)


@triton.jit
def _key(value: tl.tensor) -> tl.tensor:
    """Return int32 that are ordered as the values; -0 counts as 0."""
    bits = tl.where(value == 0.0, 0.0, value).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _load(logprobs: tl.tensor, i: tl.tensor, vocab: tl.tensor) -> tl.tensor:
    """Return the log-probabilities of ids `i`; NaN counts as -inf."""
    value = tl.load(logprobs + i, mask=i < vocab, other=float("-inf"))
    return tl.where(value == value, value, float("-inf"))


@triton.jit
def _weight_of_key(key: tl.tensor, shift: tl.tensor) -> tl.tensor:
    """Return the weight of one continuation, float64."""
    value = (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    return tl.exp(value - shift).to(tl.float64)


@triton.jit
def _count_and_weight(
    logprobs: tl.tensor, vocab: tl.tensor, shift: tl.tensor, least: tl.tensor, chunk: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Measure the continuations whose key is at least `least`.

    Returns:
        Their number, the sum of their weights (float64), the lowest of their keys, and the highest key of the others.
    """
    number = 0
    lowest = least * 0 + HIGHEST
    highest = least * 0 + LOWEST
    total = shift.to(tl.float64) * 0.0
    for start in range(0, vocab, chunk):
        i = start + tl.arange(0, chunk)
        value = _load(logprobs, i, vocab)
        key = _key(value)
        inside = (i < vocab) & (key >= least)
        number += tl.sum(inside.to(tl.int32), axis=0)
        total += tl.sum(tl.where(inside, tl.exp(value - shift), 0.0), axis=0).to(tl.float64)
        lowest = tl.minimum(lowest, tl.min(tl.where(inside, key, HIGHEST), axis=0))
        highest = tl.maximum(highest, tl.max(tl.where(inside, LOWEST, key), axis=0))
    return number, total, lowest, highest


@triton.jit
def _draw_kernel(
    logprobs: tl.tensor,
    numbers: tl.tensor,
    drawn: tl.tensor,
    vocab: tl.tensor,
    count: tl.tensor,
    mass: tl.constexpr,
    limited: tl.constexpr,
    nucleus: tl.constexpr,
    chunk: tl.constexpr,
) -> None:
    """One row a program."""
    row = tl.program_id(0)
    logprobs += row.to(tl.int64) * vocab
    shift = tl.max(_load(logprobs, tl.arange(0, chunk), vocab), axis=0)
    for start in range(chunk, vocab, chunk):
        shift = tl.maximum(shift, tl.max(_load(logprobs, start + tl.arange(0, chunk), vocab), axis=0))
    shift = tl.where(shift == float("-inf"), 0.0, shift)
    none = shift.to(tl.float64) * 0.0
    top = _key(shift) + 1

    # Those with a key above `least` can be drawn, and the first `ties` of those whose key it is.
    least = top * 0 + LOWEST
    ties = vocab
    if limited:
        low, high, more = least, top, 0
        weight = none
        while low + 1 < high:
            middle = (low & high) + ((low ^ high) >> 1)  # the sum of both may not fit in 32 bits
            held, heavy, lowest, highest = _count_and_weight(logprobs, vocab, shift, middle, chunk)
            enough = held >= count
            low = tl.where(enough, tl.minimum(lowest, high - 1), low)
            high = tl.where(enough, high, highest + 1)
            more = tl.where(enough, more, held)
            weight = tl.where(enough, weight, heavy)
        least = low
        ties = count - more
        total = weight + ties.to(tl.float64) * _weight_of_key(least, shift)
    else:
        _, total, _, _ = _count_and_weight(logprobs, vocab, shift, least, chunk)
    if nucleus:
        wanted = total * mass
        low, high, weight = least, top, none
        while low + 1 < high:
            middle = (low & high) + ((low ^ high) >> 1)
            _, heavy, lowest, highest = _count_and_weight(logprobs, vocab, shift, middle, chunk)
            enough = heavy >= wanted
            # Without any weight everything is enough, even none.
            low = tl.where(enough, tl.minimum(lowest, high - 1), low)
            high = tl.where(enough, high, highest + 1)
            weight = tl.where(enough, weight, heavy)
        one = _weight_of_key(low, shift)
        # As many as reach the wanted weight, rounded up.
        share = (wanted - weight) / one
        whole = share.to(tl.int32)
        needed = tl.maximum(whole + (whole < share).to(tl.int32), 1)
        ties = tl.where(low == least, tl.minimum(needed, ties), needed)
        least = low
        total = weight + ties.to(tl.float64) * one

    target = tl.load(numbers + row) * total
    # The draw is in the last chunk with a weight before which the sum is not above the target.
    seen, before = none, none
    tied, tied_before, first = 0, 0, 0
    for start in range(0, vocab, chunk):
        i = start + tl.arange(0, chunk)
        value = _load(logprobs, i, vocab)
        key = _key(value)
        inside = (i < vocab) & (key >= least)
        if limited or nucleus:
            equal = (inside & (key == least)).to(tl.int32)
            inside = inside & ((equal == 0) | (tied + tl.cumsum(equal, axis=0) <= ties))
        weight = tl.sum(tl.where(inside, tl.exp(value - shift), 0.0).to(tl.float64), axis=0)
        here = (weight > 0.0) & (seen <= target)
        first = tl.where(here, start, first)
        before = tl.where(here, seen, before)
        tied_before = tl.where(here, tied, tied_before)
        seen += weight
        if limited or nucleus:
            tied += tl.sum(equal, axis=0)
    i = first + tl.arange(0, chunk)
    value = _load(logprobs, i, vocab)
    key = _key(value)
    inside = (i < vocab) & (key >= least)
    if limited or nucleus:
        equal = (inside & (key == least)).to(tl.int32)
        inside = inside & ((equal == 0) | (tied_before + tl.cumsum(equal, axis=0) <= ties))
    weights = tl.where(inside, tl.exp(value - shift), 0.0).to(tl.float64)
    sums = before + (tl.cumsum(weights, axis=0) - weights)
    place = tl.max(tl.where((weights > 0.0) & (sums <= target), i, -1), axis=0)
    # Rows without a finite log-probability have no such place. `Sampler.bad` marks them.
    tl.store(drawn + row, tl.where(place < 0, vocab - 1, place).to(tl.int64))


def draw(logprobs: Tensor, numbers: Tensor, *, count: int, mass: float, chunk: int = CHUNK) -> Tensor:
    """See `seqkd.search.sampling.draw`; a program holds `chunk` log-probabilities at a time, a power of two.

    Weights are float32 and their sums over parts of a row float64. A draw differs from that of the reference, whose
    weights are float64 throughout, only if its number is within some 1e-7 of the border between two continuations.
    """
    vocab = logprobs.size(-1)
    drawn = torch.empty(logprobs.shape[:-1], dtype=torch.long, device=logprobs.device)
    _draw_kernel[(drawn.numel(),)](
        logprobs.contiguous(),
        numbers.contiguous(),
        drawn,
        vocab,
        count,
        mass=mass,
        limited=0 < count < vocab,
        nucleus=mass < 1.0,
        chunk=min(chunk, triton.next_power_of_2(vocab)),
        num_warps=8,
    )
    return drawn

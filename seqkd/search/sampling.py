"""Sampling of translations with counter-based random numbers.

A draw depends only on the seed, the row id, the number of the sample and the position, not on the state of a generator.
A row therefore gets the same samples whatever the batches, their order and restarts are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from seqkd.search.candidates import top_k
from seqkd.search.constraints import NEVER, Clock, Distribution
from seqkd.search.frontier import normalize_scores
from seqkd.search.pace import send
from seqkd.search.settings import BeamSettings, Hypothesis

GOLDEN = 0x9E3779B97F4A7C15
MIXERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
LAST_SHIFT = 31
# Bits of an int64 that do not fit the 53-bit mantissa of a double.
SPARE_BITS = 11
UNIT = 2.0**-53
# Number of continuations that are sorted first for `top_p`.
FEW = 128


def _to_signed(value: int) -> int:
    """Return the int64 with the same 64 bits, because torch has no arithmetic for unsigned integers."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _shift_right(bits: Tensor, by: int) -> Tensor:
    """Shift to the right without keeping the sign, unlike torch's operator."""
    return torch.bitwise_and(bits >> by, (1 << (64 - by)) - 1)


def mix_bits(bits: Tensor) -> Tensor:
    """Apply the output function of SplitMix64 (Steele et al. 2014) to int64 of any shape."""
    for shift, factor in MIXERS:
        bits = (bits ^ _shift_right(bits, shift)) * _to_signed(factor)
    return bits ^ _shift_right(bits, LAST_SHIFT)


def stream_keys(seed: int, rows: Sequence[int], count: int, device: torch.device) -> Tensor:
    """Return the keys of `count` streams of random numbers for each row id, `[rows, count]` int64."""
    start = mix_bits(torch.tensor([_to_signed(seed)]) + _to_signed(GOLDEN))
    keys = mix_bits(mix_bits(start + torch.tensor([_to_signed(row) for row in rows])) + _to_signed(GOLDEN))
    return send(mix_bits(keys[:, None] + torch.arange(1, count + 1) * _to_signed(GOLDEN)), device)


def uniform(keys: Tensor, positions: Tensor) -> Tensor:
    """Return the number at `positions` `[slots]` of each stream `[slots, count]`: float64 in [0, 1)."""
    bits = mix_bits(keys + (positions[:, None] + 1) * _to_signed(GOLDEN))
    return _shift_right(bits, SPARE_BITS).double() * UNIT


class Draw(Protocol):
    """A function that draws a continuation of each hypothesis; see `draw`."""

    def __call__(self, logprobs: Tensor, numbers: Tensor, *, count: int, mass: float) -> Tensor:
        """See `draw`."""
        ...


def draw(logprobs: Tensor, numbers: Tensor, *, count: int, mass: float) -> Tensor:
    """Invert the cumulative distribution of each row.

    This is the reference for the kernel in `seqkd.search.gpu.sampling`, and the CPU's way: its sums are float64, which
    decides the draws. With `mass` it asks the device once whether a few continuations hold the mass.

    Continuations are ordered by their ids, not by their probabilities. Rounding, which depends on the batch size, may
    swap two continuations of almost equal probability, and this must not change a draw.

    Args:
        logprobs: `[..., vocab]`, not necessarily normalised.
        numbers: `[...]` float64 in [0, 1).
        count: Number of likeliest continuations to draw from; 0 for all.
        mass: Share of the probability of these continuations. The likeliest that together hold it can be drawn.

    Returns:
        Ids `[...]`.
    """
    ids: Tensor | None = None
    if count or mass < 1.0:
        values, ids = _likeliest(logprobs, count or logprobs.size(-1), mass)
        ids, order = ids.sort(dim=-1)
        logprobs = values.gather(-1, order)
    sums = logprobs.double().softmax(dim=-1).cumsum(dim=-1)
    # Take the first place whose cumulative sum is larger than the number. Its probability is above 0.
    place = torch.searchsorted(sums, numbers[..., None] * sums[..., -1:], right=True)
    # Rows with NaN or infinite logits have no such place. `Sampler.bad` marks them.
    place = place.clamp(max=sums.size(-1) - 1)
    return (place if ids is None else ids.gather(-1, place))[..., 0]


def _likeliest(logprobs: Tensor, count: int, mass: float) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and ids of the likeliest continuations, with -inf after those that hold `mass`."""
    vocab = logprobs.size(-1)
    count = min(count, vocab)
    if mass == 1.0:
        return top_k(logprobs, count)
    # Sorting whole rows is slow on a CPU, and a few continuations nearly always hold the mass.
    few = min(count, FEW)
    values, ids = top_k(logprobs, few)
    total = logprobs if count == vocab else values if few == count else top_k(logprobs, count)[0]
    total = total.double().logsumexp(dim=-1, keepdim=True)
    sums = (values.double() - total).exp().cumsum(dim=-1)
    if few < count and bool(sums[..., -1].lt(mass).any()):
        values, ids = top_k(logprobs, count)
        sums = (values.double() - total).exp().cumsum(dim=-1)
    # A place is kept if the places before it hold less than `mass`, so the first place is always kept.
    return values.masked_fill(functional.pad(sums[..., :-1], (1, 0)) >= mass, NEVER), ids


def drop_unlikely(logprobs: Tensor, epsilon: float) -> Tensor:
    """Exclude continuations of a probability below `epsilon`, except the likeliest one of each row.

    Epsilon sampling, Hewitt et al. 2022, "Truncation Sampling as Language Model Desmoothing", section 4.1.

    Args:
        logprobs: `[..., vocab]`, normalised log-probabilities.
        epsilon: The threshold; 0 excludes nothing.

    Returns:
        `[..., vocab]`, with -inf for excluded continuations.
    """
    if not epsilon:
        return logprobs
    least = logprobs.amax(dim=-1, keepdim=True).clamp(max=math.log(epsilon))
    return logprobs.masked_fill(logprobs < least, -math.inf)


class Sampler:
    """The unfinished samples of `slots` sentences, with the interface of `Frontier`.

    Attributes:
        last: `[slots, beam]` int64: the newest token of each sample.
        clock: The position of each sentence.
        done: `[slots]` bool: all samples have ended.
        bad: `[slots]` bool: the model returned logits that are NaN or infinite.
    """

    def __init__(
        self,
        settings: BeamSettings,
        *,
        slots: int,
        max_target: int,
        start_id: int,
        eos_id: int,
        device: torch.device,
        draw: Draw = draw,
    ) -> None:
        self.settings, self.start_id, self.eos_id = settings, start_id, eos_id
        self._draw = draw
        shape = (slots, settings.beam)
        self.clock = Clock.idle(slots, device)
        self.last = torch.full(shape, start_id, device=device)
        self.keys = torch.zeros(shape, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(shape, device=device)
        self.lengths = torch.zeros(shape, dtype=torch.long, device=device)
        self.ended = torch.ones(shape, dtype=torch.bool, device=device)
        self.cut = torch.zeros(shape, dtype=torch.bool, device=device)
        self.tokens = torch.full((slots, max_target, settings.beam), eos_id, device=device)
        self.done = torch.ones(slots, dtype=torch.bool, device=device)
        self.bad = torch.zeros(slots, dtype=torch.bool, device=device)
        self._beams = torch.arange(settings.beam, device=device)

    def admit(self, slots: Tensor, *, minimums: Tensor, limits: Tensor, rows: Sequence[int]) -> None:
        """See `Frontier.admit`. The draws depend on `rows`."""
        self.clock.admit(slots, minimums, limits)
        self.keys[slots] = stream_keys(self.settings.seed, rows, self.settings.beam, self.keys.device)
        self.last.index_fill_(0, slots, self.start_id)
        for field in (self.logprobs, self.lengths, self.ended, self.cut, self.done, self.bad):
            field.index_fill_(0, slots, 0)

    def choose(self, distribution: Distribution) -> Tensor:
        """Draw one token for every sample; see `Frontier.choose`."""
        settings, positions = self.settings, self.clock.positions
        self.bad |= (~distribution.finite & ~self.ended).any(dim=1)
        numbers = uniform(self.keys, positions)
        allowed = drop_unlikely(distribution.logprobs, settings.epsilon)
        self.last = self._draw(allowed, numbers, count=settings.top_k, mass=settings.top_p)
        gained = distribution.logprobs.gather(2, self.last[..., None])[..., 0]
        # At the first position all samples continue hypothesis 0.
        parents = self._beams * positions.ne(0)[:, None]
        going = ~self.ended
        self.logprobs += torch.where(going, gained, 0.0)
        self.lengths += going
        rows = torch.arange(len(positions), device=positions.device)
        self.tokens[rows, positions] = self.last
        ends = going & self.last.eq(self.eos_id)
        self.cut |= ends & self.clock.at_limit()[:, None]
        self.ended |= ends
        self.done |= self.ended.all(dim=1)
        positions.add_(1).clamp_(max=self.tokens.size(1) - 1)
        return parents

    def collect(self, slots: Tensor, depth: int) -> list[Tensor]:
        """See `Frontier.collect`."""
        logprobs, lengths = self.logprobs[slots], self.lengths[slots]
        scores = normalize_scores(self.settings, logprobs, lengths)
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, : self.settings.nbest]
        return [order, scores, logprobs, lengths, self.cut[slots], self.tokens[:, :depth][slots]]

    def hypotheses(self, collected: Sequence[Tensor]) -> list[list[Hypothesis]]:
        """See `Frontier.hypotheses`."""
        order, *fields, tokens = (field.numpy() for field in collected)
        results = []
        for best, *row in zip(order, *fields, tokens.transpose(0, 2, 1), strict=True):
            score, logprob, length, cut, texts = row
            results.append(
                [
                    Hypothesis(
                        texts[sample, : length[sample] - 1].tolist(),
                        float(score[sample]),
                        float(logprob[sample]),
                        "max_length" if cut[sample] else "eos",
                    )
                    for sample in best
                ]
            )
        return results

    def shrink(self, slots: Tensor) -> None:
        """Keep only these slots, `[n]`, in this order."""
        for name in ("last", "keys", "logprobs", "lengths", "ended", "cut", "tokens", "done", "bad"):
            setattr(self, name, getattr(self, name)[slots])
        self.clock.shrink(slots)

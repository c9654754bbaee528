"""Sampling translations, each draw decided by a counter and not by a generator's state.

A draw depends on the seed, the row id, the number of the sample and the position alone, so that the same row has the
same samples in whatever batch it is decoded, in whatever order, and after whatever restart.
"""

from __future__ import annotations

from collections.abc import Sequence

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
# A double has 53 bits of mantissa.
SPARE_BITS = 11
UNIT = 2.0**-53
# Continuations that are looked at first for `top_p`.
FEW = 128


def _to_signed(value: int) -> int:
    """The int64 with the same 64 bits: torch has no arithmetic for unsigned ones."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _shift_right(bits: Tensor, by: int) -> Tensor:
    """Logical shift to the right; torch's keeps the sign."""
    return torch.bitwise_and(bits >> by, (1 << (64 - by)) - 1)


def mix_bits(bits: Tensor) -> Tensor:
    """The output function of SplitMix64 (Steele et al. 2014) on int64 of any shape."""
    for shift, factor in MIXERS:
        bits = (bits ^ _shift_right(bits, shift)) * _to_signed(factor)
    return bits ^ _shift_right(bits, LAST_SHIFT)


def stream_keys(seed: int, rows: Sequence[int], count: int, device: torch.device) -> Tensor:
    """The keys of `count` streams of random numbers for each row id, `[rows, count]` int64."""
    start = mix_bits(torch.tensor([_to_signed(seed)]) + _to_signed(GOLDEN))
    keys = mix_bits(mix_bits(start + torch.tensor([_to_signed(row) for row in rows])) + _to_signed(GOLDEN))
    return send(mix_bits(keys[:, None] + torch.arange(1, count + 1) * _to_signed(GOLDEN)), device)


def uniform(keys: Tensor, positions: Tensor) -> Tensor:
    """Number `positions` `[slots]` of each stream `[slots, count]`: float64 in [0, 1)."""
    bits = mix_bits(keys + (positions[:, None] + 1) * _to_signed(GOLDEN))
    return _shift_right(bits, SPARE_BITS).double() * UNIT


def draw(logprobs: Tensor, numbers: Tensor, *, count: int, mass: float) -> Tensor:
    """Invert the cumulative distribution of each row.

    Continuations are lined up by their ids and not by their probabilities: that rounding swaps two which are nearly
    equally likely, as another batch size may do, then changes no draw.

    Args:
        logprobs: `[..., vocab]`; need not be normalised.
        numbers: `[...]` float64 in [0, 1).
        count: Draw among the likeliest `count`; 0: among all.
        mass: Of these, among the likeliest that together hold this share of the probability.

    Returns:
        Ids `[...]`.
    """
    ids: Tensor | None = None
    if count or mass < 1.0:
        values, ids = _likeliest(logprobs, count or logprobs.size(-1), mass)
        ids, order = ids.sort(dim=-1)
        logprobs = values.gather(-1, order)
    sums = logprobs.double().softmax(dim=-1).cumsum(dim=-1)
    # The first place whose sum is larger; it has a probability above 0.
    place = torch.searchsorted(sums, numbers[..., None] * sums[..., -1:], right=True)
    # Rows without a sound distribution have no such place; they are reported elsewhere.
    place = place.clamp(max=sums.size(-1) - 1)
    return (place if ids is None else ids.gather(-1, place))[..., 0]


def _likeliest(logprobs: Tensor, count: int, mass: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities and ids of the likeliest continuations, -inf behind those that hold `mass`."""
    vocab = logprobs.size(-1)
    count = min(count, vocab)
    if mass == 1.0:
        return top_k(logprobs, count)
    # Sorting whole rows is slow on a CPU, and the mass nearly always lies with a few.
    few = min(count, FEW)
    values, ids = top_k(logprobs, few)
    total = logprobs if count == vocab else values if few == count else top_k(logprobs, count)[0]
    total = total.double().logsumexp(dim=-1, keepdim=True)
    sums = (values.double() - total).exp().cumsum(dim=-1)
    if few < count and bool(sums[..., -1].lt(mass).any()):
        values, ids = top_k(logprobs, count)
        sums = (values.double() - total).exp().cumsum(dim=-1)
    # What is kept before a place decides about it, so the first always stays.
    return values.masked_fill(functional.pad(sums[..., :-1], (1, 0)) >= mass, NEVER), ids


class Sampler:
    """Samples of `slots` sentences under way; drives the same scheduler as `Frontier`.

    Attributes:
        last: `[slots, beam]` int64: the newest token of each sample.
        clock: Where each sentence stands.
        done: `[slots]` bool: all samples have ended.
        bad: `[slots]` bool: the model returned logits that are NaN or infinite.
    """

    def __init__(
        self, settings: BeamSettings, *, slots: int, max_target: int, start_id: int, eos_id: int, device: torch.device
    ) -> None:
        self.settings, self.start_id, self.eos_id = settings, start_id, eos_id
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
        """See `Frontier.admit`; `rows` decide the draws."""
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
        self.last = draw(distribution.logprobs, numbers, count=settings.top_k, mass=settings.top_p)
        gained = distribution.logprobs.gather(2, self.last[..., None])[..., 0]
        # At the first position every sample goes on from the one hypothesis there is.
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

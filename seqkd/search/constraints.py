"""The options of a search that change a model's logits: pure functions over `[slots, beam, vocab]`, and their order.

Only searches with such options use this module. Without them the best few continuations of each row are enough, and an
engine need never write its logits to memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqkd.search.pace import send
from seqkd.search.settings import BeamSettings

NEVER = float("-inf")


@dataclass(slots=True)
class Distribution:
    """All continuations of every live hypothesis.

    Attributes:
        logprobs: `[slots, beam, vocab]` float32, -inf for continuations that are ruled out. Penalties are included, so
            the probabilities of a row need not sum to 1.
        finite: `[slots, beam]` bool: the logits were neither NaN nor infinite.
        forced: `[slots]` bool: every row has exactly one continuation, which is given by the prefix.
    """

    logprobs: Tensor
    finite: Tensor
    forced: Tensor


@dataclass(slots=True)
class Clock:
    """The target position and the length limits of each sentence. All fields are `[slots]` int64.

    Attributes:
        positions: Number of tokens in the sentence's hypotheses.
        minimums: Tokens of the shortest output, without end of sentence.
        limits: Tokens of the longest output, without end of sentence.
    """

    positions: Tensor
    minimums: Tensor
    limits: Tensor

    @classmethod
    def idle(cls, slots: int, device: torch.device) -> Clock:
        """Return the clock of slots without sentences."""
        return cls(*(torch.zeros(slots, dtype=torch.long, device=device) for _ in range(3)))

    def admit(self, slots: Tensor, minimums: Tensor, limits: Tensor) -> None:
        """Start new sentences in `slots` `[n]`."""
        self.positions.index_fill_(0, slots, 0)
        self.minimums[slots] = minimums
        self.limits[slots] = limits

    def at_limit(self) -> Tensor:
        """Return `[slots]` bool: whether only the end of sentence may follow."""
        return self.positions.ge(self.limits)

    def shrink(self, slots: Tensor) -> None:
        """Keep only these slots, `[n]`, in this order."""
        self.positions, self.minimums, self.limits = (f[slots] for f in (self.positions, self.minimums, self.limits))


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Return the log-softmax of logits `[slots, beam, vocab]` at a temperature, as a new float32 tensor."""
    logits = logits.float()
    return (logits / temperature if temperature != 1.0 else logits).log_softmax(dim=-1)


def bound_lengths(logprobs: Tensor, clock: Clock, eos_id: int) -> None:
    """Rule out the end of sentence before the minimum length, and all other tokens at the limit, in place."""
    end = logprobs[..., eos_id]
    at_limit = clock.at_limit()[:, None]
    early = clock.positions.lt(clock.minimums)[:, None] & ~at_limit
    end = end.masked_fill(early, NEVER)
    logprobs.masked_fill_(at_limit[..., None], NEVER)
    logprobs[..., eos_id] = end


def repeated_tokens(texts: Tensor, positions: Tensor, size: int, none: int) -> Tensor:
    """Find the tokens that would complete an n-gram that the hypothesis already contains.

    The rule is that of fairseq's `no_repeat_ngram_size`. The start token is not part of any n-gram.

    Args:
        texts: `[slots, beam, length]`: tokens of each hypothesis.
        positions: `[slots]`: number of tokens in the hypotheses.
        size: n, at most `length`.
        none: The id that fills places without a token to rule out.

    Returns:
        `[slots, beam, length - size + 1]` ids.
    """
    windows = texts.unfold(2, size, 1)
    newest = positions[:, None] + torch.arange(1 - size, 0, device=texts.device)
    newest = newest.clamp(min=0)[:, None].expand(-1, texts.size(1), -1)
    context = texts.gather(2, newest)
    last = torch.arange(size - 1, texts.size(2), device=texts.device)
    again = windows[..., :-1].eq(context[:, :, None]).all(dim=-1) & last.lt(positions[:, None])[:, None]
    return windows[..., -1].masked_fill(~again, none)


class Shaper:
    """Applies the options of a search to its logits, one step at a time.

    The order is: temperature, log-softmax, unknown-piece penalty, lengths, repeated n-grams, forced prefix. A forced
    token keeps the log-probability that it had before the rules for lengths and n-grams.

    Attributes:
        opening: Number of further steps in which a sentence can be at its first position or within its prefix.
    """

    def __init__(
        self,
        settings: BeamSettings,
        *,
        slots: int,
        max_target: int,
        longest_prefix: int,
        eos_id: int,
        pad_id: int,
        unk_id: int,
        device: torch.device,
    ) -> None:
        self.settings = settings
        self.eos_id, self.pad_id, self.unk_id = eos_id, pad_id, unk_id
        self.opening = 0
        self.prefixes = torch.full((slots, longest_prefix), pad_id, dtype=torch.long, device=device)
        self.texts: Tensor | None = None
        if settings.no_repeat_ngram_size:
            # Padding at the end leaves room for one window even if all outputs are shorter.
            length = max(max_target, settings.no_repeat_ngram_size)
            self.texts = torch.full((slots, settings.beam, length), pad_id, dtype=torch.long, device=device)

    def admit(self, slots: Tensor, prefixes: Sequence[Sequence[int]]) -> None:
        """Start new sentences in `slots` `[n]`, whose outputs begin with `prefixes`."""
        self.opening = max(self.opening, 1, *map(len, prefixes))
        width = self.prefixes.size(1)
        if width:
            rows = [[*prefix, *[self.pad_id] * (width - len(prefix))] for prefix in prefixes]
            self.prefixes[slots] = send(torch.tensor(rows), slots.device)

    def __call__(self, logits: Tensor, clock: Clock) -> Distribution:
        """Shape the logits `[slots, beam, vocab]` of one step."""
        settings, eos_id = self.settings, self.eos_id
        logprobs = log_probabilities(logits, settings.temperature)
        # NaN and +inf turn their whole row into NaN; -inf is a continuation that the model rules out.
        finite = ~logprobs[..., 0].isnan()
        if self.opening:
            # At the first position all hypotheses are equal, and an engine may compute only the first.
            first = clock.positions.eq(0)[:, None]
            logprobs = torch.where(first[..., None], logprobs[:, :1], logprobs)
            finite = torch.where(first, finite[:, :1], finite)
        logprobs[..., self.unk_id] -= settings.unk_penalty
        wanted, given = self._forced_tokens(logprobs, clock.positions)
        logprobs[..., self.pad_id] = NEVER
        end = logprobs[..., eos_id].clone()
        bound_lengths(logprobs, clock, eos_id)
        if self.texts is not None:
            again = repeated_tokens(self.texts, clock.positions, settings.no_repeat_ngram_size, self.pad_id)
            # At the limit only the end of sentence is left, which is never part of a repetition.
            logprobs.scatter_(2, again, NEVER)
            stuck = logprobs.amax(dim=-1).eq(NEVER)
            logprobs[..., eos_id] = torch.where(stuck, end, logprobs[..., eos_id])
        forced = wanted.ne(self.pad_id)
        if self.opening and self.prefixes.size(1):
            logprobs.masked_fill_(forced[:, None, None], NEVER)
            logprobs.scatter_(2, wanted[:, None, None].expand(-1, logprobs.size(1), 1), given)
        self.opening = max(0, self.opening - 1)
        return Distribution(logprobs, finite, forced | clock.at_limit())

    def _forced_tokens(self, logprobs: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the forced tokens `[slots]` and their log-probabilities `[slots, beam, 1]`; padding means no token."""
        width = self.prefixes.size(1)
        if not (self.opening and width):
            return torch.full_like(positions, self.pad_id), logprobs[..., :1]
        wanted = self.prefixes.gather(1, positions.clamp(max=width - 1)[:, None])[:, 0]
        wanted = wanted.masked_fill(positions.ge(width), self.pad_id)
        given = logprobs.gather(2, wanted[:, None, None].expand(-1, logprobs.size(1), 1))
        return wanted, given.masked_fill(wanted.eq(self.pad_id)[:, None, None], NEVER)

    def follow(self, parents: Tensor, tokens: Tensor, positions: Tensor) -> None:
        """Record the choices of a step.

        Args:
            parents: `[slots, beam]`: the hypothesis that each new one continues.
            tokens: `[slots, beam]`: the token that continues it.
            positions: `[slots]`: the position of that token.
        """
        if self.texts is None:
            return
        self.texts = self.texts.gather(1, parents[..., None].expand_as(self.texts))
        place = positions[:, None, None].expand(-1, tokens.size(1), 1)
        self.texts.scatter_(2, place, tokens[..., None])

    def shrink(self, slots: Tensor) -> None:
        """Keep only these slots, `[n]`, in this order."""
        self.prefixes = self.prefixes[slots]
        if self.texts is not None:
            self.texts = self.texts[slots]

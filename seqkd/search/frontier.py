"""One step of beam search for all slots: pure tensor work, no answer from the device needed.

The semantics are fairseq's: of the best 2K continuations of K live hypotheses, an end of sentence finishes if it ranks
among the first K, and the first K others stay alive.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from seqkd.kernels.decoding import kernels
from seqkd.search.candidates import RowCandidates, top_k
from seqkd.search.constraints import NEVER, Distribution
from seqkd.search.cpu.frontier import FrontierNumbers, NativeFrontier
from seqkd.search.diverse import rank_groups
from seqkd.search.frontier_state import FrontierState
from seqkd.search.settings import BeamSettings, Ended, Hypothesis


def length_divisors(settings: BeamSettings, lengths: Tensor) -> Tensor:
    """What log-probabilities are divided by; `lengths` count the end of sentence."""
    length = lengths.to(torch.float32)
    if settings.normalization == "gnmt":
        length = (length + 5.0) / 6.0
    return length**settings.length_penalty


def normalize_scores(settings: BeamSettings, logprobs: Tensor, lengths: Tensor) -> Tensor:
    """Final scores; `lengths` count the end of sentence."""
    return logprobs / length_divisors(settings, lengths)


class Frontier:
    """Live and finished hypotheses of `slots` sentences.

    Args:
        settings: Of the search.
        state: Where they are held; changed in place.
        start_id: The token that every output opens with.
        eos_id: End of sentence.
        pad_id: Padding, which is never continued with.

    Attributes:
        state: All of it; below, the tensors of its fields.
        divisors: `[max_target + 2]` float32, what the log-probability of so many tokens is divided by.
        clock: Where each sentence stands.
        last: `[slots, beam]` int64: the newest token of each live hypothesis.
        done: `[slots]` bool: nothing more will change here.
        bad: `[slots]` bool: the model returned logits that are NaN or infinite.
    """

    def __init__(
        self, settings: BeamSettings, state: FrontierState, *, start_id: int, eos_id: int, pad_id: int
    ) -> None:
        self.settings = settings
        self.start_id, self.eos_id, self.pad_id = start_id, eos_id, pad_id
        self._hold(state)
        device = state.live.device
        self.divisors = length_divisors(settings, torch.arange(state.tokens.size(1) + 2, device=device))
        self._ranks = torch.arange(2 * settings.beam, device=device)
        self._kernels = kernels() if device.type == "cpu" else None

    def _hold(self, state: FrontierState) -> None:
        self.state = state
        self.live, self.last, self.tokens, self.parents = state.live, state.last, state.tokens, state.parents
        self.clock, self.finished = state.clock, state.finished
        self.count, self.done, self.bad = state.count, state.done, state.bad
        self._native: NativeFrontier | None = None

    @property
    def count_needed(self) -> int:
        """Candidates wanted of each row: 2K, and more because padding and end of sentence may be ruled out.

        A penalised unknown piece may fall behind others that were not among the best.
        """
        return 2 * self.settings.beam + (3 if self.settings.unk_penalty else 2)

    def admit(self, slots: Tensor, *, minimums: Tensor, limits: Tensor, rows: Sequence[int]) -> None:  # noqa: ARG002
        """Start new sentences in `slots` `[n]`.

        Args:
            slots: Where.
            minimums: `[n]`: least tokens of their outputs.
            limits: `[n]`: most tokens.
            rows: Their ids; the beam does not ask who they are.
        """
        # index_fill_ takes its number along with the launch; an assignment would copy it to the device.
        self.live.index_fill_(0, slots, NEVER)
        # One live hypothesis a group, so that the first step does not find the same continuation several times.
        self.live[:, : self.settings.diverse_groups].index_fill_(0, slots, 0.0)
        self.last.index_fill_(0, slots, self.start_id)
        self.clock.admit(slots, minimums, limits)
        for counts in (self.count, self.done, self.bad):
            counts.index_fill_(0, slots, 0)
        self.finished.scores.index_fill_(0, slots, NEVER)

    def advance(self, candidates: RowCandidates) -> Tensor:
        """Take one step in every slot.

        Args:
            candidates: The best continuations of every hypothesis.

        Returns:
            Parents `[slots, beam]` int64 of the new live hypotheses, for the model to follow.
        """
        if self._kernels is None:
            return self.advance_in_torch(candidates)
        if self._native is None:
            self._native = self._bound(self._kernels)
        return self._native.advance(candidates.lse, candidates.values, candidates.ids, candidates.eos)

    def advance_in_torch(self, candidates: RowCandidates) -> Tensor:
        """`advance` where there is no kernel; it says what the kernels must compute."""
        self._watch(candidates.lse.isfinite())
        ids, clock = candidates.ids, self.clock
        base = (self.live - candidates.lse)[..., None]
        scores = candidates.values + base
        barred = ids.eq(self.pad_id)
        early = clock.positions.lt(clock.minimums)[:, None, None]
        barred |= early & ids.eq(self.eos_id)
        # At its limit a hypothesis has one continuation, whether or not that is among its best.
        at_limit = clock.at_limit()
        barred |= at_limit[:, None, None]
        scores = scores.masked_fill(barred, NEVER)
        end = candidates.eos + base[..., 0]
        scores[..., 0] = torch.where(at_limit[:, None], end, scores[..., 0])
        first_ids = ids[..., 0]
        ids = torch.cat((first_ids.masked_fill(at_limit[:, None], self.eos_id)[..., None], ids[..., 1:]), dim=-1)
        return self._take(*self._rank(scores, ids), at_limit)

    def _bound(self, library: ctypes.CDLL) -> NativeFrontier:
        """This frontier for the CPU's kernel."""
        settings = self.settings
        slots, max_target, beam = self.tokens.shape
        numbers = FrontierNumbers(
            slots=slots,
            beam=beam,
            max_target=max_target,
            eos=self.eos_id,
            pad=self.pad_id,
            exact=settings.stopping == "exact",
            favours_length=settings.length_penalty > 0,
        )
        return NativeFrontier(library, numbers, [*self.state.fields(), self.divisors])

    def choose(self, distribution: Distribution) -> Tensor:
        """Take one step in every slot, given all continuations, shaped by the search's options.

        Returns:
            Parents, as `advance`.
        """
        self._watch(distribution.finite)
        settings, logprobs = self.settings, distribution.logprobs
        if settings.diverse_groups > 1:
            ranked = rank_groups(
                self.live[..., None] + logprobs,
                groups=settings.diverse_groups,
                strength=settings.diverse_strength,
                forced=distribution.forced,
            )
        else:
            values, ids = top_k(logprobs, min(2 * settings.beam, logprobs.size(-1)))
            ranked = self._rank(values + self.live[..., None], ids)
        return self._take(*ranked, self.clock.at_limit())

    def _watch(self, finite: Tensor) -> None:
        """Note in which slots a live hypothesis' logits are not `finite`, `[slots, beam]` bool."""
        broken = ~finite & self.live.gt(NEVER)
        self.bad |= broken.any(dim=1) & ~self.done

    def _rank(self, scores: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best 2K of all hypotheses' continuations `[slots, beam, count]`.

        Returns:
            Scores, ids, and the hypotheses that they continue, `[slots, 2K]`.
        """
        ranked, order = scores.flatten(1).sort(dim=1, descending=True, stable=True)
        take = min(2 * self.settings.beam, ranked.size(1))
        order = order[:, :take]
        return ranked[:, :take], ids.flatten(1).gather(1, order), order // ids.size(-1)

    def _take(self, ranked: Tensor, ranked_ids: Tensor, ranked_beams: Tensor, at_limit: Tensor) -> Tensor:
        """Finish and continue hypotheses, given candidates `[slots, 2K]` in their order of precedence."""
        beam, take = self.settings.beam, ranked.size(1)
        ranks = self._ranks[:take]
        ends = ranked_ids.eq(self.eos_id) & ranked.gt(NEVER)
        finishing = ends & ranks.lt(beam) & ~self.done[:, None]
        self._finish(finishing, ranked, ranked_beams, at_limit)

        survivors = (ends * take + ranks).sort(dim=1).indices[:, :beam]
        if survivors.size(1) < beam:  # a vocabulary so small that fewer continuations than beams exist
            missing = beam - survivors.size(1)
            survivors = torch.cat((survivors, survivors[:, -1:].expand(-1, missing)), dim=1)
            torch.gather(ranked, 1, survivors, out=self.live)
            self.live[:, -missing:] = NEVER
        else:
            torch.gather(ranked, 1, survivors, out=self.live)
        # Where fewer than `beam` continuations go on, ends of sentence fill up the rest: they must not live on.
        self.live.masked_fill_(ends.gather(1, survivors), NEVER)
        torch.gather(ranked_ids, 1, survivors, out=self.last)
        parents = ranked_beams.gather(1, survivors)
        positions = self.clock.positions
        rows = torch.arange(self.live.size(0), device=self.live.device)
        self.tokens[rows, positions] = self.last
        self.parents[rows, positions] = parents
        self.done |= at_limit | self._is_settled() | self.live.eq(NEVER).all(dim=1)
        positions.add_(1).clamp_(max=self.tokens.size(1) - 1)
        return parents

    def _finish(self, finishing: Tensor, logprobs: Tensor, beams: Tensor, at_limit: Tensor) -> None:
        """Record the candidates `[slots, 2 * beam]` that are marked in `finishing`."""
        beam = self.settings.beam
        scores = logprobs / self.divisors[self.clock.positions + 1][:, None]
        steps = self.clock.positions[:, None].expand_as(beams)
        forced = at_limit[:, None].expand_as(beams)
        new = (scores, logprobs, steps, beams, forced)
        if self.settings.stopping == "first":
            place = self.count[:, None] + finishing.cumsum(dim=1) - 1
            place = place.masked_fill(~finishing | place.ge(beam), beam)
            for column, value in zip(self.finished.columns(), new, strict=True):
                column.scatter_(1, place, value)
        else:
            held = self.finished.columns()
            candidates = torch.cat((held[0][:, :beam], scores.masked_fill(~finishing, NEVER)), dim=1)
            best = candidates.sort(dim=1, descending=True, stable=True).indices[:, :beam]
            held[0][:, :beam] = candidates.gather(1, best)
            for column, value in zip(held[1:], new[1:], strict=True):
                column[:, :beam] = torch.cat((column[:, :beam], value), dim=1).gather(1, best)
        self.count.add_(finishing.sum(dim=1)).clamp_(max=beam)

    def _is_settled(self) -> Tensor:
        """`[slots]` bool: enough hypotheses are finished."""
        full = self.count.ge(self.settings.beam)
        if self.settings.stopping == "first":
            return full
        # Log-probabilities only fall. A live hypothesis can do no better than to end next, or, where longer outputs
        # are favoured, to reach its limit at no further cost.
        longest = self.clock.limits if self.settings.length_penalty > 0 else self.clock.positions + 1
        reachable = self.live.amax(dim=1) / self.divisors[longest + 1]
        return full & reachable.le(self.finished.scores[:, : self.settings.beam].amin(dim=1))

    def collect(self, slots: Tensor, depth: int) -> list[Tensor]:
        """What `hypotheses` needs of the finished sentences in `slots` `[n]`, none longer than `depth` with its end."""
        fields = (self.count, *self.finished.columns(), self.tokens[:, :depth], self.parents[:, :depth])
        return [field[slots] for field in fields]

    def hypotheses(self, collected: Sequence[Tensor]) -> list[list[Hypothesis]]:
        """The `nbest` results of each sentence, best first, from what `collect` gave, on the host."""
        beam, nbest = self.settings.beam, self.settings.nbest
        count, scores, logprobs, steps, beams, forced, tokens, parents = (field.numpy() for field in collected)
        depth = min(int(steps.max(initial=0)) + 1, tokens.shape[1])
        rows = np.arange(len(count))
        texts = np.zeros((len(count), beam, depth), dtype=np.int64)
        at = beams[:, :beam].copy()
        for position in range(depth - 1, -1, -1):
            # Hypotheses that ended later have tokens here; `at` is the beam that wrote each of them.
            inside = steps[:, :beam] > position
            texts[:, :, position] = tokens[rows[:, None], position, at]
            at = np.where(inside, parents[rows[:, None], position, at], at)
        results = []
        for row, finished in enumerate(count):
            order = np.argsort(-scores[row, :finished], kind="stable")[:nbest]
            hypotheses = []
            for index in order:
                ended: Ended = "max_length" if forced[row, index] else "eos"
                ids = texts[row, index, : steps[row, index]].tolist()
                hypotheses.append(Hypothesis(ids, float(scores[row, index]), float(logprobs[row, index]), ended))
            results.append(hypotheses)
        return results

    def shrink(self, slots: Tensor) -> None:
        """Keep only these slots, `[n]`, in this order."""
        self._hold(self.state.select_slots(slots))

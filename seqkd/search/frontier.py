"""One step of beam search for all slots, in tensor operations that never wait for the device.

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
    """Return the divisors of log-probabilities for `lengths`, which include end of sentence."""
    length = lengths.to(torch.float32)
    if settings.normalization == "gnmt":
        length = (length + 5.0) / 6.0
    return length**settings.length_penalty


def normalize_scores(settings: BeamSettings, logprobs: Tensor, lengths: Tensor) -> Tensor:
    """Return length-normalised scores; `lengths` include end of sentence."""
    return logprobs / length_divisors(settings, lengths)


class Frontier:
    """Live and finished hypotheses of `slots` sentences.

    Args:
        settings: The settings of the search.
        state: The tensors of the hypotheses, which are changed in place.
        start_id: Id of the start token.
        eos_id: Id of end of sentence.
        pad_id: Id of padding, which never continues a hypothesis.

    Attributes:
        state: The state; `live`, `last`, `tokens`, `parents`, `count` and `finished` are its fields.
        divisors: `[max_target + 2]` float32, the divisor of a log-probability for each number of tokens.
        clock: The position of each sentence.
        last: `[slots, beam]` int64: the newest token of each live hypothesis.
        done: `[slots]` bool: the sentence is finished, and its results no longer change.
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
        """Return the number of candidates that `advance` needs of each row.

        They are 2K, two more because padding and end of sentence may be ruled out, and one more for a penalised unknown
        piece, which may then rank behind a token that was not among the best.
        """
        return 2 * self.settings.beam + (3 if self.settings.unk_penalty else 2)

    def admit(self, slots: Tensor, *, minimums: Tensor, limits: Tensor, rows: Sequence[int]) -> None:  # noqa: ARG002
        """Start new sentences in `slots` `[n]`.

        Args:
            slots: Slot numbers.
            minimums: `[n]`: tokens of the shortest output.
            limits: `[n]`: tokens of the longest output.
            rows: Row ids, which beam search does not use.
        """
        # index_fill_ passes its value with the kernel launch; an assignment would copy it to the device.
        self.live.index_fill_(0, slots, NEVER)
        # Each group starts with one live hypothesis, so that the first step finds each continuation only once.
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
            Parents `[slots, beam]` int64 of the new live hypotheses, for `SearchModel.reorder`.
        """
        if self._kernels is None:
            return self.advance_in_torch(candidates)
        if self._native is None:
            self._native = self._bound(self._kernels)
        return self._native.advance(candidates.lse, candidates.values, candidates.ids, candidates.eos)

    def advance_in_torch(self, candidates: RowCandidates) -> Tensor:
        """Do `advance` without a kernel. This is the reference for the kernels."""
        self._watch(candidates.lse.isfinite())
        ids, clock = candidates.ids, self.clock
        base = (self.live - candidates.lse)[..., None]
        scores = candidates.values + base
        barred = ids.eq(self.pad_id)
        early = clock.positions.lt(clock.minimums)[:, None, None]
        barred |= early & ids.eq(self.eos_id)
        # At its limit a hypothesis can only end, whether or not the end is among its best continuations.
        at_limit = clock.at_limit()
        barred |= at_limit[:, None, None]
        scores = scores.masked_fill(barred, NEVER)
        end = candidates.eos + base[..., 0]
        scores[..., 0] = torch.where(at_limit[:, None], end, scores[..., 0])
        first_ids = ids[..., 0]
        ids = torch.cat((first_ids.masked_fill(at_limit[:, None], self.eos_id)[..., None], ids[..., 1:]), dim=-1)
        return self._take(*self._rank(scores, ids), at_limit)

    def _bound(self, library: ctypes.CDLL) -> NativeFrontier:
        """Return this frontier bound to the CPU kernel."""
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
        """Take one step in every slot, given the distribution over all continuations.

        Returns:
            Parents, as in `advance`.
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
        """Mark slots as bad if a live hypothesis is not `finite`, `[slots, beam]` bool."""
        broken = ~finite & self.live.gt(NEVER)
        self.bad |= broken.any(dim=1) & ~self.done

    def _rank(self, scores: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find the best 2K of the continuations `[slots, beam, count]` of all hypotheses.

        Returns:
            Scores, ids, and the numbers of the hypotheses that they continue, each `[slots, 2K]`.
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
        if survivors.size(1) < beam:  # the vocabulary is so small that there are fewer continuations than beams
            missing = beam - survivors.size(1)
            survivors = torch.cat((survivors, survivors[:, -1:].expand(-1, missing)), dim=1)
            torch.gather(ranked, 1, survivors, out=self.live)
            self.live[:, -missing:] = NEVER
        else:
            torch.gather(ranked, 1, survivors, out=self.live)
        # If fewer than `beam` candidates are not ends of sentence, ends fill the rest. They must not stay alive.
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
        """Return `[slots]` bool: whether enough hypotheses are finished."""
        full = self.count.ge(self.settings.beam)
        if self.settings.stopping == "first":
            return full
        # Log-probabilities only decrease. The best possible score of a live hypothesis is that of ending at the next
        # step, or, if longer outputs are favoured, that of reaching its limit with its present log-probability.
        longest = self.clock.limits if self.settings.length_penalty > 0 else self.clock.positions + 1
        reachable = self.live.amax(dim=1) / self.divisors[longest + 1]
        return full & reachable.le(self.finished.scores[:, : self.settings.beam].amin(dim=1))

    def collect(self, slots: Tensor, depth: int) -> list[Tensor]:
        """Gather the tensors for `hypotheses` of the finished sentences in `slots` `[n]`.

        No output of these sentences is longer than `depth` tokens, including end of sentence.
        """
        fields = (self.count, *self.finished.columns(), self.tokens[:, :depth], self.parents[:, :depth])
        return [field[slots] for field in fields]

    def hypotheses(self, collected: Sequence[Tensor]) -> list[list[Hypothesis]]:
        """Return the `nbest` results of each sentence, best first, from the tensors of `collect` on the host."""
        beam, nbest = self.settings.beam, self.settings.nbest
        count, scores, logprobs, steps, beams, forced, tokens, parents = (field.numpy() for field in collected)
        depth = min(int(steps.max(initial=0)) + 1, tokens.shape[1])
        rows = np.arange(len(count))
        texts = np.zeros((len(count), beam, depth), dtype=np.int64)
        at = beams[:, :beam].copy()
        for position in range(depth - 1, -1, -1):
            # Only hypotheses that ended later have a token at this position; `at` is the beam that wrote it.
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

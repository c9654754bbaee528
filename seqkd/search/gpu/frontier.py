"""The step of beam search as one Triton kernel, so that it ends the model's step inside the same CUDA graph.

What it computes is told at `seqkd.search.frontier.Frontier.advance_in_torch`. One program has one sentence. Each row of
candidates is sorted, so the best of all rows are found by merging: every hypothesis offers its best continuation that
is left, and the best offer is taken, 2K times at most. That holds one number a hypothesis, for a beam of 64 as well.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from seqkd.search.candidates import RowCandidates
from seqkd.search.frontier import Frontier


@triton.jit
def _offer(
    values: tl.tensor,
    ids: tl.tensor,
    row: tl.tensor,
    head: tl.tensor,
    open_rows: tl.tensor,
    base: tl.tensor,
    early: tl.tensor,
    count: tl.tensor,
    eos_id: tl.tensor,
    pad_id: tl.tensor,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The continuation at `head` of each row, or one behind it where those are ruled out; and where it stands."""
    # Padding and an end of sentence that comes too early: two tokens at most are passed over.
    for _ in tl.static_range(2):
        inside = open_rows & (head < count)
        number = tl.load(ids + row * count + head, mask=inside, other=-1)
        head += (inside & ((number == pad_id) | (early & (number == eos_id)))).to(tl.int32)
    inside = open_rows & (head < count)
    number = tl.load(ids + row * count + head, mask=inside, other=-1)
    score = tl.load(values + row * count + head, mask=inside, other=float("-inf")) + base
    # NaN is not above anything either.
    return head, number, tl.where(inside & (score > float("-inf")), score, float("-inf"))


@triton.jit
def _insert(
    scores: tl.tensor,
    logprobs: tl.tensor,
    steps: tl.tensor,
    ends: tl.tensor,
    forced: tl.tensor,
    k: tl.tensor,
    beam: tl.tensor,
    score: tl.tensor,
    logprob: tl.tensor,
    position: tl.tensor,
    parent: tl.tensor,
    at_limit: tl.tensor,
) -> None:
    """Put a hypothesis among the `beam` best of its sentence, behind those that are as good; it may fall off."""
    mine = k < beam
    held = tl.load(scores + k, mask=mine, other=float("-inf"))
    place = tl.sum((mine & (held >= score)).to(tl.int32), axis=0)
    before = k - (k > place).to(tl.int32)
    new = k == place
    held = tl.where(new, score, tl.load(scores + before, mask=mine, other=float("-inf")))
    held_logprobs = tl.where(new, logprob, tl.load(logprobs + before, mask=mine, other=0.0))
    held_steps = tl.where(new, position, tl.load(steps + before, mask=mine, other=0))
    held_ends = tl.where(new, parent, tl.load(ends + before, mask=mine, other=0))
    held_forced = tl.where(new, at_limit, tl.load(forced + before, mask=mine, other=0) != 0)
    # In place: every thread must have read before the first one writes, and written before the next one reads.
    tl.debug_barrier()
    tl.store(scores + k, held, mask=mine)
    tl.store(logprobs + k, held_logprobs, mask=mine)
    tl.store(steps + k, held_steps, mask=mine)
    tl.store(ends + k, held_ends, mask=mine)
    tl.store(forced + k, held_forced, mask=mine)
    tl.debug_barrier()


@triton.jit
def _advance_kernel(
    lse: tl.tensor,
    values: tl.tensor,
    ids: tl.tensor,
    eos: tl.tensor,
    live: tl.tensor,
    last: tl.tensor,
    tokens: tl.tensor,
    parents: tl.tensor,
    positions: tl.tensor,
    minimums: tl.tensor,
    limits: tl.tensor,
    counts: tl.tensor,
    done: tl.tensor,
    bad: tl.tensor,
    scores: tl.tensor,
    logprobs: tl.tensor,
    steps: tl.tensor,
    ends: tl.tensor,
    forced: tl.tensor,
    divisors: tl.tensor,
    came_from: tl.tensor,
    beam: tl.tensor,
    count: tl.tensor,
    max_target: tl.tensor,
    eos_id: tl.tensor,
    pad_id: tl.tensor,
    beams: tl.constexpr,
    exact: tl.constexpr,
    favours_length: tl.constexpr,
) -> None:
    """One sentence a program."""
    slot = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, beams)
    mine = k < beam
    row = slot * beam + k
    if tl.load(done + slot):
        tl.store(came_from + row, k.to(tl.int64), mask=mine)
    else:
        position = tl.load(positions + slot)
        limit = tl.load(limits + slot)
        early = position < tl.load(minimums + slot)
        at_limit = position >= limit
        alive = tl.load(live + row, mask=mine, other=float("-inf"))
        total = tl.load(lse + row, mask=mine, other=0.0)
        sick = (alive > float("-inf")) & ~(tl.abs(total) < float("inf"))
        if tl.max(sick.to(tl.int32), axis=0) > 0:
            tl.store(bad + slot, True)
        base = alive - total

        # At its limit a hypothesis has one continuation, whether or not that is among its best.
        open_rows = mine & ~at_limit
        head = tl.zeros([beams], tl.int32)
        head, number, score = _offer(values, ids, row, head, open_rows, base, early, count, eos_id, pad_id)
        end = tl.load(eos + row, mask=mine, other=float("-inf")) + base
        end = tl.where(mine & (end > float("-inf")), end, float("-inf"))
        score = tl.where(at_limit, end, score)
        number = tl.where(at_limit, eos_id, number)

        first = slot * (beam + 1)
        divisor = tl.load(divisors + position + 1)
        held = tl.load(counts + slot).to(tl.int32)
        next_live = tl.full([beams], float("-inf"), tl.float32)
        next_token = tl.zeros([beams], tl.int64) + pad_id
        next_parent = tl.zeros([beams], tl.int64)
        kept = 0
        rank = 0
        best = tl.max(score, axis=0)
        # Each hypothesis ends once, so that `beam` others are among the best 2K, if there are so many.
        while (best > float("-inf")) & (kept < beam):
            # Of equal ones the earlier hypothesis is first.
            parent = tl.min(tl.where(score == best, k, beams), axis=0)
            chosen = k == parent
            token = tl.sum(tl.where(chosen, number, 0), axis=0)
            if token == eos_id:
                if rank < beam:
                    normalized = tl.div_rn(best, divisor)
                    if exact:
                        _insert(
                            scores + first,
                            logprobs + first,
                            steps + first,
                            ends + first,
                            forced + first,
                            k,
                            beam,
                            normalized,
                            best,
                            position,
                            parent.to(tl.int64),
                            at_limit,
                        )
                    elif held < beam:
                        at = first + held
                        tl.store(scores + at, normalized)
                        tl.store(logprobs + at, best)
                        tl.store(steps + at, position)
                        tl.store(ends + at, parent.to(tl.int64))
                        tl.store(forced + at, at_limit)
                    held = tl.minimum(held + 1, beam)
            else:
                new = k == kept
                next_live = tl.where(new, best, next_live)
                next_token = tl.where(new, token, next_token)
                next_parent = tl.where(new, parent.to(tl.int64), next_parent)
                kept += 1
            rank += 1
            moved, moved_number, moved_score = _offer(
                values, ids, row, head + 1, open_rows & chosen, base, early, count, eos_id, pad_id
            )
            head = tl.where(chosen, moved, head)
            number = tl.where(chosen, moved_number, number)
            score = tl.where(chosen, moved_score, score)
            best = tl.max(score, axis=0)

        tl.store(live + row, next_live, mask=mine)
        tl.store(last + row, next_token, mask=mine)
        tl.store(came_from + row, next_parent, mask=mine)
        written = (slot * max_target + position) * beam + k
        tl.store(tokens + written, next_token, mask=mine)
        tl.store(parents + written, next_parent, mask=mine)

        settled = held >= beam
        if exact:
            # Log-probabilities only fall: no live hypothesis can do better than this.
            longest = limit if favours_length else position + 1
            reachable = tl.div_rn(tl.max(next_live, axis=0), tl.load(divisors + longest + 1))
            worst = tl.min(tl.load(scores + first + k, mask=mine, other=float("inf")), axis=0)
            settled = settled & (reachable <= worst)
        tl.store(counts + slot, held.to(tl.int64))
        tl.store(done + slot, at_limit | settled | (kept == 0))
        tl.store(positions + slot, tl.minimum(position + 1, max_target - 1))


def advance(frontier: Frontier, candidates: RowCandidates, parents: Tensor) -> None:
    """See `Operations.advance`."""
    _, max_target, beam = frontier.tokens.shape
    settings = frontier.settings
    _advance_kernel[(candidates.lse.size(0),)](
        *(tensor.contiguous() for tensor in (candidates.lse, candidates.values, candidates.ids, candidates.eos)),
        *frontier.state.fields(),
        frontier.divisors,
        parents,
        beam,
        candidates.ids.size(-1),
        max_target,
        frontier.eos_id,
        frontier.pad_id,
        beams=triton.next_power_of_2(beam),
        exact=settings.stopping == "exact",
        favours_length=settings.length_penalty > 0,
        # One warp needs no barrier between its many small reductions.
        num_warps=1,
    )

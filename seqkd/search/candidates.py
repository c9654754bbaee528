"""The best continuations of each hypothesis: log-sum-exp and top-k of a row of logits."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(slots=True)
class RowCandidates:
    """Continuations of every live hypothesis.

    Attributes:
        lse: `[slots, beam]` float32, log-sum-exp of the row, that is, the log of the softmax's denominator.
        values: `[slots, beam, count]` float32 logits, best first; ties are in the order of their ids.
        ids: `[slots, beam, count]` int64, the tokens of `values`.
        eos: `[slots, beam]` float32, the logit of end of sentence.
    """

    lse: Tensor
    values: Tensor
    ids: Tensor
    eos: Tensor


def top_candidates(logits: Tensor, count: int, eos_id: int) -> RowCandidates:
    """Reduce logits `[slots, beam, vocab]` of any float type; sums are taken in float32."""
    logits = logits.float()
    lse = logits.logsumexp(dim=-1)
    values, ids = top_k(logits, min(count, logits.size(-1)))
    return RowCandidates(lse=lse, values=values, ids=ids, eos=logits[..., eos_id])


def penalize(candidates: RowCandidates, token: int, penalty: float) -> RowCandidates:
    """Subtract `penalty` from the logit of one token."""
    values = candidates.values - candidates.ids.eq(token) * penalty
    values, order = values.sort(dim=-1, descending=True, stable=True)
    return replace(candidates, values=values, ids=candidates.ids.gather(-1, order))


def top_k(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the largest values as `torch.topk` does over the last dimension, but with ties to the lower index.

    Args:
        values: `[..., size]`, float.
        count: Number of values to return, at most `size`.

    Returns:
        Values and indices, `[..., count]`.
    """
    size = values.size(-1)
    if count == size:
        return values.sort(dim=-1, descending=True, stable=True)
    extra = count + 1
    top, ids = values.topk(extra, dim=-1)
    # torch does not define the order of equal values. Equal values within the top are sorted by their ids. If the cut
    # itself falls between equal values (one row in many thousands), the whole rows are sorted. The order of tokens
    # that are ruled out (-inf) does not matter.
    if values.device.type == "cpu" and bool((top[..., -1].eq(top[..., -2]) & top[..., -1].gt(float("-inf"))).any()):
        top, ids = values.sort(dim=-1, descending=True, stable=True)
        return top[..., :count].contiguous(), ids[..., :count].contiguous()
    ids, order = ids[..., :count].sort(dim=-1)
    top, order2 = top[..., :count].gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return top, ids.gather(-1, order2)

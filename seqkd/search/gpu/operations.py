"""What a decoder step is made of beside matrix products, and each of these in plain torch.

The engine runs on any set of operations: the Triton kernels of `kernels.py` and `output.py`, or these, which say what
the kernels must compute and against which the benchmark weighs them one by one.

All of them work on *groups* of rows, one group of `beam` rows a sentence, and find a group's caches through `places`:
the batch is cut down by shortening `places`, and no cache is ever moved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqkd.models.transformer import merge_heads, split_heads
from seqkd.search.candidates import RowCandidates, top_candidates
from seqkd.search.frontier import Frontier


@dataclass(slots=True, kw_only=True)
class SelfCache:
    """Keys and values of every target position, as written by every beam; nothing is copied when beams are reordered.

    A position's entries of all heads of one beam lie together: the newest ones are one contiguous write a sentence, and
    a head of 64 half-precision features is one line of 128 bytes wherever an ancestor points.

    Attributes:
        keys: `[places, max_target, beam, dim]`.
        values: Likewise.
    """

    keys: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """The parts of a step; none may wait for the device, so that all can be captured in a graph.

    Attributes:
        follow: `(ancestors, parents, positions, places)`: beam k of group g goes on from `parents[g, k]`. Rewrites, in
            `ancestors [places, beam, max_target]` uint8, the entries before the place's position: which beam wrote that
            position of hypothesis k. `parents [groups, beam]`, `positions [places]`, `places [groups]` are int64.
        self_attention: `(qkv, cache, ancestors, positions, places, heads)`: writes the new keys and values at each
            place's position, and lets each query see its own ancestors and itself. `qkv [groups * beam, 3 * dim]` to
            `[groups * beam, dim]`.
        cross_attention: `(query, cache, lengths, places, heads)`: over the source, whose keys and values
            `[places, max_source, 2 * dim]` exist once a sentence; `lengths [places]` int64 is at least 1.
            `query [groups * beam, dim]` to the same shape.
        add_norm: `(x, y, norm)`: `x + y`, and its layer norm, for `[rows, dim]`.
        output: `(features, weight, bias, vocab, count, eos_id)`: log-sum-exp and best continuations of `features [rows,
            dim]`, for weights of `vocab` pieces and any further rows that only fill up, `[vocab or more, dim]`, and
            their bias `[vocab or more]` of the same length, or None; the fields' leading dimensions are `[rows]`.
        advance: `(frontier, candidates, parents)`: `Frontier.advance`, with the parents written to `parents [slots,
            beam]` int64. Slots that are done have themselves for parents.
    """

    follow: Callable[[Tensor, Tensor, Tensor, Tensor], None]
    self_attention: Callable[[Tensor, SelfCache, Tensor, Tensor, Tensor, int], Tensor]
    cross_attention: Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
    add_norm: Callable[[Tensor, Tensor, nn.LayerNorm], tuple[Tensor, Tensor]]
    output: Callable[[Tensor, Tensor, Tensor | None, int, int, int], RowCandidates]
    advance: Callable[[Frontier, RowCandidates, Tensor], None]


def project(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`[rows, dim]`, `[vocab, dim]` and `[vocab]` to logits `[rows, vocab]`, in float32 where the device can.

    Rounded to bf16, one logit in dozens would tie with a neighbour, and beams would be chosen by token id.
    """
    if features.device.type == "cuda" and features.dtype != torch.float32:
        logits = torch.mm(features, weight.t(), out_dtype=torch.float32)
        return logits if bias is None else logits.add_(bias)
    return functional.linear(features, weight, bias)


def plain_follow(ancestors: Tensor, parents: Tensor, positions: Tensor, places: Tensor) -> None:
    """See `Operations.follow`."""
    moved = ancestors[places].gather(1, parents[:, :, None].expand(-1, -1, ancestors.size(2)))
    newest = torch.arange(ancestors.size(2), device=places.device).eq(positions[places][:, None] - 1)
    ancestors[places] = torch.where(newest[:, None], parents[:, :, None].to(torch.uint8), moved)


def plain_self_attention(
    qkv: Tensor, cache: SelfCache, ancestors: Tensor, positions: Tensor, places: Tensor, heads: int
) -> Tensor:
    """See `Operations.self_attention`: over all beams' entries, with those of other hypotheses masked out."""
    groups, (_, max_target, beam, dim) = len(places), cache.keys.shape
    query, key, value = qkv.view(groups, beam, 3 * dim).chunk(3, dim=-1)
    at = positions[places]
    cache.keys[places, at], cache.values[places, at] = key, value
    beams = torch.arange(beam, device=places.device)
    steps = torch.arange(max_target, device=places.device)
    now = steps.eq(at[:, None])[:, None, :, None]
    past = steps.lt(at[:, None])[:, None, :, None]
    visible = past & ancestors[places][..., None].eq(beams) | now & beams[:, None, None].eq(beams)
    attended = functional.scaled_dot_product_attention(
        split_heads(query, heads),
        split_heads(cache.keys[places].flatten(1, 2), heads),
        split_heads(cache.values[places].flatten(1, 2), heads),
        attn_mask=visible.view(groups, 1, beam, max_target * beam),
    )
    return merge_heads(attended).reshape(groups * beam, dim)


def plain_cross_attention(query: Tensor, cache: Tensor, lengths: Tensor, places: Tensor, heads: int) -> Tensor:
    """See `Operations.cross_attention`."""
    groups = len(places)
    key, value = cache[places].chunk(2, dim=-1)
    inside = torch.arange(cache.size(1), device=places.device) < lengths[places][:, None]
    attended = functional.scaled_dot_product_attention(
        split_heads(query.view(groups, -1, query.size(-1)), heads),
        split_heads(key, heads),
        split_heads(value, heads),
        attn_mask=inside[:, None, None],
    )
    return merge_heads(attended).reshape(query.shape)


def plain_add_norm(x: Tensor, y: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """See `Operations.add_norm`."""
    total = x + y
    return total, norm(total)


def plain_output(
    features: Tensor, weight: Tensor, bias: Tensor | None, vocab: int, count: int, eos_id: int
) -> RowCandidates:
    """See `Operations.output`."""
    return top_candidates(project(features, weight, bias)[:, :vocab], count, eos_id)


def plain_advance(frontier: Frontier, candidates: RowCandidates, parents: Tensor) -> None:
    """See `Operations.advance`; what no result depends on does change in slots that are done."""
    parents.copy_(frontier.advance_in_torch(candidates))


PLAIN = Operations(
    follow=plain_follow,
    self_attention=plain_self_attention,
    cross_attention=plain_cross_attention,
    add_norm=plain_add_norm,
    output=plain_output,
    advance=plain_advance,
)

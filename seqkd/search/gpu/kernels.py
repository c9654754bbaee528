"""Triton kernels of a decoder step: ancestors, attention over uncopied caches, residual and layer norm.

What they compute is told at `seqkd.search.gpu.operations.Operations`. Every program reads its sentence's position or
length and stops there, so one launch serves slots that stand at different positions, and a captured graph fits all
steps. Sums are float32 whatever the storage.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from seqkd.search.gpu.frontier import advance
from seqkd.search.gpu.operations import Operations, SelfCache
from seqkd.search.gpu.output import output

# Elements of the largest tile of one program; at 4 warps that is 64 a thread and tensor, which fits the registers.
TILE = 8192


@triton.jit
def _follow_kernel(
    ancestors: tl.tensor,
    parents: tl.tensor,
    positions: tl.tensor,
    places: tl.tensor,
    beam: tl.tensor,
    max_target: tl.tensor,
    beams: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """One group and one block of positions a program."""
    group = tl.program_id(0)
    place = tl.load(places + group)
    position = tl.load(positions + place)
    start = tl.program_id(1) * block
    if start < position:
        k = tl.arange(0, beams)
        p = start + tl.arange(0, block)
        table = ancestors + place * beam * max_target
        parent = tl.load(parents + group * beam + k, mask=k < beam, other=0)
        inside = (k < beam)[:, None] & (p < position)[None, :]
        old = tl.load(table + parent[:, None] * max_target + p[None, :], mask=inside, other=0)
        # The newest position of the parent was written by the parent itself.
        new = tl.where((p == position - 1)[None, :], parent[:, None], old.to(tl.int64))
        # In place: every thread must have read before the first one writes.
        tl.debug_barrier()
        tl.store(table + k[:, None] * max_target + p[None, :], new.to(tl.uint8), mask=inside)


@triton.jit
def _self_attention_kernel(
    qkv: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    ancestors: tl.tensor,
    positions: tl.tensor,
    places: tl.tensor,
    out: tl.tensor,
    beam: tl.tensor,
    max_target: tl.tensor,
    scale: tl.tensor,
    heads: tl.constexpr,
    size: tl.constexpr,
    padded_size: tl.constexpr,
    beams: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """One group, one head and `beams` hypotheses a program; each follows its ancestors, whose overlap is cached."""
    group = tl.program_id(0) // heads
    head = tl.program_id(0) % heads
    dim: tl.constexpr = heads * size
    place = tl.load(places + group)
    position = tl.load(positions + place).to(tl.int32)
    k = tl.program_id(1) * beams + tl.arange(0, beams)
    d = tl.arange(0, padded_size)
    mine = (k < beam)[:, None] & (d < size)[None, :]
    feature = head * size + d
    row = group.to(tl.int64) * beam + k

    source = qkv + row[:, None] * (3 * dim) + feature[None, :]
    query = tl.load(source, mask=mine, other=0.0).to(tl.float32) * scale
    key = tl.load(source + dim, mask=mine, other=0.0)
    value = tl.load(source + 2 * dim, mask=mine, other=0.0)
    first = place * max_target * beam
    newest = (first + position * beam + k)[:, None] * dim + feature[None, :]
    tl.store(keys + newest, key, mask=mine)
    tl.store(values + newest, value, mask=mine)

    # A hypothesis sees itself from registers; only the past is read back.
    top = tl.sum(query * key.to(tl.float32), axis=1)
    total = tl.full([beams], 1.0, tl.float32)
    mixed = value.to(tl.float32)
    for start in range(0, position, block):
        p = start + tl.arange(0, block)
        inside = (k < beam)[:, None] & (p < position)[None, :]
        entry = (place * beam + k)[:, None] * max_target + p[None, :]
        writer = tl.load(ancestors + entry, mask=inside, other=0).to(tl.int64)
        at = (first + p[None, :] * beam + writer)[:, :, None] * dim + feature[None, None, :]
        seen = inside[:, :, None] & (d < size)[None, None, :]
        old_key = tl.load(keys + at, mask=seen, other=0.0).to(tl.float32)
        old_value = tl.load(values + at, mask=seen, other=0.0).to(tl.float32)
        scores = tl.where(inside, tl.sum(query[:, None, :] * old_key, axis=2), float("-inf"))
        higher = tl.maximum(top, tl.max(scores, axis=1))
        shrink = tl.exp(top - higher)
        weights = tl.exp(scores - higher[:, None])
        total = total * shrink + tl.sum(weights, axis=1)
        mixed = mixed * shrink[:, None] + tl.sum(weights[:, :, None] * old_value, axis=1)
        top = higher
    result = mixed / total[:, None]
    tl.store(out + row[:, None] * dim + feature[None, :], result.to(out.dtype.element_ty), mask=mine)


@triton.jit
def _cross_attention_kernel(
    query: tl.tensor,
    cache: tl.tensor,
    lengths: tl.tensor,
    places: tl.tensor,
    out: tl.tensor,
    beam: tl.tensor,
    max_source: tl.tensor,
    scale: tl.tensor,
    heads: tl.constexpr,
    size: tl.constexpr,
    padded_size: tl.constexpr,
    beams: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """One group and one head a program: the beams are the rows of one product, each key and value is read once."""
    group = tl.program_id(0) // heads
    head = tl.program_id(0) % heads
    dim: tl.constexpr = heads * size
    place = tl.load(places + group)
    length = tl.load(lengths + place).to(tl.int32)
    k = tl.arange(0, beams)
    d = tl.arange(0, padded_size)
    mine = (k < beam)[:, None] & (d < size)[None, :]
    rows = (group.to(tl.int64) * beam + k)[:, None] * dim + (head * size + d)[None, :]
    queries = tl.load(query + rows, mask=mine, other=0.0)

    top = tl.full([beams], float("-inf"), tl.float32)
    total = tl.zeros([beams], tl.float32)
    mixed = tl.zeros([beams, padded_size], tl.float32)
    for start in range(0, length, block):
        s = start + tl.arange(0, block)
        seen = (s < length)[:, None] & (d < size)[None, :]
        at = cache + (place * max_source + s)[:, None] * (2 * dim) + (head * size + d)[None, :]
        key = tl.load(at, mask=seen, other=0.0)
        value = tl.load(at + dim, mask=seen, other=0.0)
        scores = tl.dot(queries, tl.trans(key), input_precision="ieee") * scale
        scores = tl.where((s < length)[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, axis=1))
        shrink = tl.exp(top - higher)
        weights = tl.exp(scores - higher[:, None])
        total = total * shrink + tl.sum(weights, axis=1)
        mixed = mixed * shrink[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        top = higher
    result = mixed / total[:, None]
    tl.store(out + rows, result.to(out.dtype.element_ty), mask=mine)


@triton.jit
def _add_norm_kernel(
    x: tl.tensor,
    y: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    total: tl.tensor,
    normed: tl.tensor,
    dim: tl.tensor,
    epsilon: tl.tensor,
    width: tl.constexpr,
) -> None:
    """One row a program."""
    row = tl.program_id(0).to(tl.int64) * dim
    d = tl.arange(0, width)
    inside = d < dim
    kind = total.dtype.element_ty
    added = tl.load(x + row + d, mask=inside, other=0.0).to(tl.float32)
    added = (added + tl.load(y + row + d, mask=inside, other=0.0).to(tl.float32)).to(kind)
    tl.store(total + row + d, added, mask=inside)
    # The norm is that of the rounded sum, as where the two are separate.
    added = added.to(tl.float32)
    mean = tl.sum(added, axis=0) / dim
    centred = tl.where(inside, added - mean, 0.0)
    variance = tl.sum(centred * centred, axis=0) / dim
    gain = tl.load(weight + d, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + d, mask=inside, other=0.0).to(tl.float32)
    result = centred / tl.sqrt(variance + epsilon) * gain + shift
    tl.store(normed + row + d, result.to(kind), mask=inside)


def follow(ancestors: Tensor, parents: Tensor, positions: Tensor, places: Tensor) -> None:
    """See `Operations.follow`."""
    _, beam, max_target = ancestors.shape
    block = 128
    _follow_kernel[(len(places), triton.cdiv(max_target, block))](
        ancestors, parents, positions, places, beam, max_target, beams=triton.next_power_of_2(beam), block=block
    )


def self_attention(
    qkv: Tensor, cache: SelfCache, ancestors: Tensor, positions: Tensor, places: Tensor, heads: int
) -> Tensor:
    """See `Operations.self_attention`."""
    _, max_target, beam, dim = cache.keys.shape
    size = dim // heads
    padded = triton.next_power_of_2(size)
    beams = min(8, triton.next_power_of_2(beam))
    out = torch.empty(len(places) * beam, dim, dtype=qkv.dtype, device=qkv.device)
    _self_attention_kernel[(len(places) * heads, triton.cdiv(beam, beams))](
        qkv,
        cache.keys,
        cache.values,
        ancestors,
        positions,
        places,
        out,
        beam,
        max_target,
        size**-0.5,
        heads=heads,
        size=size,
        padded_size=padded,
        beams=beams,
        block=max(4, min(64, TILE // (beams * padded))),
    )
    return out


def cross_attention(query: Tensor, cache: Tensor, lengths: Tensor, places: Tensor, heads: int) -> Tensor:
    """See `Operations.cross_attention`."""
    dim = query.size(1)
    size = dim // heads
    beam = query.size(0) // len(places)
    out = torch.empty_like(query)
    # A matrix product has at least 16 rows, columns and terms.
    padded = max(16, triton.next_power_of_2(size))
    _cross_attention_kernel[(len(places) * heads,)](
        query,
        cache,
        lengths,
        places,
        out,
        beam,
        cache.size(1),
        size**-0.5,
        heads=heads,
        size=size,
        padded_size=padded,
        beams=max(16, triton.next_power_of_2(beam)),
        block=32,
    )
    return out


def add_norm(x: Tensor, y: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """See `Operations.add_norm`."""
    rows, dim = x.shape
    total, normed = torch.empty_like(x), torch.empty_like(x)
    width = triton.next_power_of_2(dim)
    _add_norm_kernel[(rows,)](
        x, y, norm.weight, norm.bias, total, normed, dim, norm.eps, width=width, num_warps=max(1, min(8, width // 512))
    )
    return total, normed


TRITON = Operations(
    follow=follow,
    self_attention=self_attention,
    cross_attention=cross_attention,
    add_norm=add_norm,
    output=output,
    advance=advance,
)

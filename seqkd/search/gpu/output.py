"""Log-sum-exp and top-k of logits in Triton, exact, in one pass over the logits.

The vocabulary is cut into small chunks. The first pass keeps each chunk's maximum. The `count` best logits lie in the
`count` chunks of highest maxima (a chunk that is not among them has `count` better logits elsewhere, one in each of
those; ties go to the lower chunk as they go to the lower id), so the second pass reads those few chunks alone.

Rows of logits may be padded: with a stride that is a multiple of 16, they are read 16 bytes at a time, whatever the
vocabulary. Padding is read and then ignored.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqkd.search.candidates import RowCandidates
from seqkd.search.gpu.operations import project

# Chunks that one program of the first pass reduces: 64 x 64 logits.
GROUP = 64
# Below any key of a logit.
NONE: tl.constexpr = tl.constexpr(-(2**63))


@triton.jit
def _key(value: tl.tensor, number: tl.tensor) -> tl.tensor:
    """One int64 that orders by value, then by lower number; NaN counts as -inf and -0 as 0."""
    value = tl.where(value == value, value, float("-inf"))
    value = tl.where(value == 0.0, 0.0, value)
    bits = value.to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - number).to(tl.int64)


@triton.jit
def _key_number(key: tl.tensor) -> tl.tensor:
    return (0x7FFFFFFF - (key & 0x7FFFFFFF)).to(tl.int32)


@triton.jit
def _key_value(key: tl.tensor) -> tl.tensor:
    ordered = (key >> 32).to(tl.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _reduce_kernel(
    logits: tl.tensor,
    bias: tl.tensor,
    maxima: tl.tensor,
    tops: tl.tensor,
    sums: tl.tensor,
    vocab: tl.tensor,
    stride: tl.tensor,
    chunks: tl.tensor,
    groups: tl.tensor,
    biased: tl.constexpr,
    chunk: tl.constexpr,
    per_group: tl.constexpr,
) -> None:
    """One row and `per_group` chunks a program: each chunk's maximum, and the sum of exponentials of them all."""
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    c = group * per_group + tl.arange(0, per_group)
    ids = c[:, None] * chunk + tl.arange(0, chunk)[None, :]
    value = tl.load(logits + row * stride + ids, mask=ids < stride, other=float("-inf")).to(tl.float32)
    if biased:
        value += tl.load(bias + ids, mask=ids < stride, other=0.0).to(tl.float32)
    value = tl.where(ids < vocab, value, float("-inf"))
    best = tl.max(tl.where(value == value, value, float("-inf")), axis=1)
    tl.store(maxima + row * chunks + c, best, mask=c < chunks)
    top = tl.max(best, axis=0)
    # NaN and +inf both end as NaN in the sum; -inf everywhere must not.
    shift = tl.where(top == float("-inf"), 0.0, top)
    total = tl.sum(tl.sum(tl.exp(value - shift), axis=1), axis=0)
    tl.store(tops + row * groups + group, top)
    tl.store(sums + row * groups + group, total)


@triton.jit
def _project_kernel(
    features: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    logits: tl.tensor,
    maxima: tl.tensor,
    tops: tl.tensor,
    sums: tl.tensor,
    rows: tl.tensor,
    vocab: tl.tensor,
    stride: tl.tensor,
    chunks: tl.tensor,
    groups: tl.tensor,
    dim: tl.tensor,
    biased: tl.constexpr,
    chunk: tl.constexpr,
    block_rows: tl.constexpr,
    block_ids: tl.constexpr,
    block_dim: tl.constexpr,
) -> None:
    """The output layer's product with `_reduce_kernel` in its last lines, while the logits are still in registers."""
    r = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    group = tl.program_id(1)
    ids = group * block_ids + tl.arange(0, block_ids)
    row = r.to(tl.int64)
    value = tl.zeros([block_rows, block_ids], tl.float32)
    for start in range(0, dim, block_dim):
        d = start + tl.arange(0, block_dim)
        left = tl.load(
            features + row[:, None] * dim + d[None, :], mask=(r < rows)[:, None] & (d < dim)[None, :], other=0.0
        )
        right = tl.load(
            weight + ids[None, :] * dim + d[:, None], mask=(ids < vocab)[None, :] & (d < dim)[:, None], other=0.0
        )
        value = tl.dot(left, right, value, input_precision="ieee")
    if biased:
        value += tl.load(bias + ids, mask=ids < stride, other=0.0).to(tl.float32)[None, :]
    inside = (r < rows)[:, None] & (ids < stride)[None, :]
    tl.store(logits + row[:, None] * stride + ids[None, :], value, mask=inside)
    value = tl.where((ids < vocab)[None, :], value, float("-inf"))
    clean = tl.where(value == value, value, float("-inf"))
    per_group: tl.constexpr = block_ids // chunk
    best = tl.max(tl.reshape(clean, [block_rows, per_group, chunk]), axis=2)
    c = group * per_group + tl.arange(0, per_group)
    tl.store(maxima + row[:, None] * chunks + c[None, :], best, mask=(r < rows)[:, None] & (c < chunks)[None, :])
    top = tl.max(best, axis=1)
    shift = tl.where(top == float("-inf"), 0.0, top)
    total = tl.sum(tl.exp(value - shift[:, None]), axis=1)
    tl.store(tops + row * groups + group, top, mask=r < rows)
    tl.store(sums + row * groups + group, total, mask=r < rows)


@triton.jit
def _select_kernel(
    logits: tl.tensor,
    bias: tl.tensor,
    maxima: tl.tensor,
    tops: tl.tensor,
    sums: tl.tensor,
    lse: tl.tensor,
    values: tl.tensor,
    numbers: tl.tensor,
    ends: tl.tensor,
    vocab: tl.tensor,
    stride: tl.tensor,
    chunks: tl.tensor,
    groups: tl.tensor,
    eos_id: tl.tensor,
    biased: tl.constexpr,
    count: tl.constexpr,
    picks: tl.constexpr,
    padded_count: tl.constexpr,
    padded_picks: tl.constexpr,
    padded_chunks: tl.constexpr,
    padded_groups: tl.constexpr,
    chunk: tl.constexpr,
) -> None:
    """One row a program: the log-sum-exp of its groups, its best chunks, and the best logits of those."""
    row = tl.program_id(0).to(tl.int64)
    g = tl.arange(0, padded_groups)
    top = tl.load(tops + row * groups + g, mask=g < groups, other=float("-inf"))
    total = tl.load(sums + row * groups + g, mask=g < groups, other=0.0)
    highest = tl.max(top, axis=0)
    shift = tl.where(highest == float("-inf"), 0.0, highest)
    tl.store(lse + row, shift + tl.log(tl.sum(total * tl.exp(top - shift), axis=0)))
    end = tl.load(logits + row * stride + eos_id).to(tl.float32)
    if biased:
        end += tl.load(bias + eos_id).to(tl.float32)
    tl.store(ends + row, end)

    c = tl.arange(0, padded_chunks)
    best = tl.load(maxima + row * chunks + c, mask=c < chunks, other=float("-inf"))
    keys = tl.where(c < chunks, _key(best, c), NONE)
    order = tl.arange(0, padded_picks)
    picked = tl.zeros([padded_picks], tl.int32)
    for pick in range(picks):
        first = tl.max(keys, axis=0)
        picked = tl.where(order == pick, _key_number(first), picked)
        keys = tl.where(keys == first, NONE, keys)

    ids = picked[:, None] * chunk + tl.arange(0, chunk)[None, :]
    chosen_chunks = (order < picks)[:, None]
    inside = chosen_chunks & (ids < stride)
    value = tl.load(logits + row * stride + ids, mask=inside, other=float("-inf")).to(tl.float32)
    if biased:
        value += tl.load(bias + ids, mask=inside, other=0.0).to(tl.float32)
    keys = tl.where(chosen_chunks & (ids < vocab), _key(value, ids), NONE)
    order = tl.arange(0, padded_count)
    chosen = tl.zeros([padded_count], tl.int64)
    for pick in range(count):
        first = tl.max(tl.max(keys, axis=1), axis=0)
        chosen = tl.where(order == pick, first, chosen)
        keys = tl.where(keys == first, NONE, keys)
    tl.store(values + row * count + order, _key_value(chosen), mask=order < count)
    tl.store(numbers + row * count + order, _key_number(chosen).to(tl.int64), mask=order < count)


@dataclass(slots=True, kw_only=True)
class _Reduction:
    """What the first pass leaves: `maxima [rows, chunks]`, `tops` and `sums` `[rows, groups]`, float32."""

    maxima: Tensor
    tops: Tensor
    sums: Tensor

    @classmethod
    def empty(cls, rows: int, chunks: int, groups: int, device: torch.device) -> _Reduction:
        """Room for it."""
        shapes = ((rows, chunks), (rows, groups), (rows, groups))
        maxima, tops, sums = (torch.empty(shape, dtype=torch.float32, device=device) for shape in shapes)
        return cls(maxima=maxima, tops=tops, sums=sums)


def _chunk(count: int) -> int:
    """The second pass holds count * chunk logits at once."""
    return 64 if count <= 32 else 32


def _warps(padded_chunks: int, picks: int, chunk: int) -> int:
    """Warps for a row of the second pass, in which a key takes two registers.

    One warp needs no barrier between its many small reductions. From 64,000 pieces on, or a beam of 15, it would have
    too few registers to run beside enough others, and with 256,000 pieces too few to work without spills.
    """
    held = 2 * padded_chunks + picks * chunk
    return 1 if held <= 2048 else 4 if held <= 8192 else 8


def candidates(logits: Tensor, count: int, eos_id: int, bias: Tensor | None = None) -> RowCandidates:
    """Log-sum-exp and the `count` best of logits `[rows, vocab]` of any float type; ties go to the lower id.

    The logits may be the first columns of a wider tensor. A row with NaN or +inf has NaN for its log-sum-exp; its ids
    are valid, its values mean nothing.

    Args:
        logits: `[rows, vocab]`, without the bias.
        count: Number of continuations.
        eos_id: The piece whose logit is returned in any case.
        bias: One number for each column of the logits, or of the wider tensor. It is added in float32, while the logits
            are in registers. None adds nothing.
    """
    rows, vocab = logits.shape
    if logits.stride(1) != 1 or logits.stride(0) < vocab:
        logits = logits.contiguous()
    chunk = _chunk(count)
    chunks = triton.cdiv(vocab, chunk)
    groups = triton.cdiv(chunks, GROUP)
    reduced = _Reduction.empty(rows, chunks, groups, logits.device)
    _reduce_kernel[(rows, groups)](
        logits,
        logits if bias is None else bias,
        reduced.maxima,
        reduced.tops,
        reduced.sums,
        vocab,
        logits.stride(0),
        chunks,
        groups,
        biased=bias is not None,
        chunk=chunk,
        per_group=GROUP,
    )
    return _select(logits, bias, reduced, count, eos_id, chunk)


def _select(
    logits: Tensor, bias: Tensor | None, reduced: _Reduction, count: int, eos_id: int, chunk: int
) -> RowCandidates:
    rows, vocab = logits.shape
    chunks, groups = reduced.maxima.size(1), reduced.tops.size(1)
    count = min(count, vocab)
    picks = min(count, chunks)
    padded_chunks = triton.next_power_of_2(chunks)
    lse, ends = torch.empty(2, rows, dtype=torch.float32, device=logits.device)
    values = torch.empty(rows, count, dtype=torch.float32, device=logits.device)
    numbers = torch.empty(rows, count, dtype=torch.long, device=logits.device)
    _select_kernel[(rows,)](
        logits,
        logits if bias is None else bias,
        reduced.maxima,
        reduced.tops,
        reduced.sums,
        lse,
        values,
        numbers,
        ends,
        vocab,
        logits.stride(0),
        chunks,
        groups,
        eos_id,
        biased=bias is not None,
        count=count,
        picks=picks,
        padded_count=triton.next_power_of_2(count),
        padded_picks=triton.next_power_of_2(picks),
        padded_chunks=padded_chunks,
        padded_groups=triton.next_power_of_2(groups),
        chunk=chunk,
        num_warps=_warps(padded_chunks, picks, chunk),
    )
    return RowCandidates(lse=lse, values=values, ids=numbers, eos=ends)


def output(features: Tensor, weight: Tensor, bias: Tensor | None, vocab: int, count: int, eos_id: int) -> RowCandidates:
    """See `Operations.output`: the product by the vendor's library, then `candidates`, which adds the bias."""
    return candidates(project(features, weight, None)[:, :vocab], count, eos_id, bias)


def fused_output(
    features: Tensor, weight: Tensor, bias: Tensor | None, vocab: int, count: int, eos_id: int
) -> RowCandidates:
    """See `Operations.output`: the first pass is done where the product ends, so that logits are not read back."""
    (rows, dim), stride = features.shape, weight.size(0)
    chunk = _chunk(count)
    chunks = triton.cdiv(vocab, chunk)
    block_rows, block_ids = 128, 128
    groups = triton.cdiv(vocab, block_ids)
    logits = torch.empty(rows, stride, dtype=torch.float32, device=features.device)
    reduced = _Reduction.empty(rows, chunks, groups, features.device)
    # Programs that run side by side share their part of the weights, which is the larger matrix.
    _project_kernel[(triton.cdiv(rows, block_rows), groups)](
        features,
        weight,
        weight if bias is None else bias,
        logits,
        reduced.maxima,
        reduced.tops,
        reduced.sums,
        rows,
        vocab,
        stride,
        chunks,
        groups,
        dim,
        biased=bias is not None,
        chunk=chunk,
        block_rows=block_rows,
        block_ids=block_ids,
        block_dim=64,
        num_warps=8,
        num_stages=3,
    )
    return _select(logits[:, :vocab], None, reduced, count, eos_id, chunk)

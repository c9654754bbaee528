"""The packing of soft targets: the ids and probabilities of a position in a string of bits.

A position has m distinct ids of a vocabulary of V pieces, in ascending order, and a code of b bits for each. Its string
of bits, filled up to whole bytes, consists of

- the ids as Elias-Fano code (Elias 1974). Each id is split into its lower l = floor(log2(V / m)) bits and the rest. The
  first m + ((V - 1) >> l) bits have a one at place (id >> l) + i for the i-th id. Then come the lower bits. Together
  these are about 2 + log2(V / m) bits an id, while ids in any order take log2(V) bits each.
- the codes.

The lower bits, and the codes, are stored as the highest bits of all m numbers, then the next ones, and so on.

A code of `top_k` says how far a log-probability lies below the largest one of its position, in 31 steps that grow with
the distance: see `DISTANCES`. The largest log-probability itself follows from the sum of all probabilities. A code of
`samples` is the number of times that the id was drawn, less one, so that nothing is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqkd.corpus.schema import SOFT_SCHEMA

Integers = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

CODE_BITS = 5
_EVEN = np.arange(1 << CODE_BITS, dtype=np.float32) / np.float32((1 << CODE_BITS) - 1)
DISTANCES = _EVEN * np.sqrt(_EVEN)
"""The distance of each code from the largest log-probability, as a share of the position's span: the power 1.5.

Steps are finer where probabilities are large. The square root is rounded in the same way on every processor.
"""

WIDEST = 30.0  # nats; probabilities that are smaller by a factor of 1e13 are stored as if they were larger
LOWEST = -60_000.0  # the log-probability of the tail is stored in float16, which holds -65,504
_MOST = -6e-8  # the log-probability of the tail is kept off 0, so that the other ids have some probability


@dataclass(frozen=True, slots=True)
class SoftRow:
    """The soft targets of a row.

    Attributes:
        ids: `[entries]` ids, distinct within a position.
        logprobs: `[entries]` their log-probabilities; for `samples` the logarithms of their shares of the draws.
        sizes: `[positions]` numbers of entries, at least 1 each.
        tail: `[positions]` log-probabilities of all other ids together.
    """

    ids: Integers
    logprobs: Floats
    sizes: Integers
    tail: Floats


class Packed(NamedTuple):
    """Packed positions.

    Attributes:
        data: The strings of all positions, one after the other.
        widths: Number of bytes of each position `[positions]`.
        spans: Distance between the largest and the smallest log-probability `[positions]` float16; 0 for `samples`.
    """

    data: Bytes
    widths: Integers
    spans: npt.NDArray[np.float16]


class Unpacked(NamedTuple):
    """Positions with the entries of each in a row, padded with id 0 and log-probability -inf.

    Attributes:
        ids: `[positions, most]` int64.
        logprobs: `[positions, most]` float32.
        tail: `[positions]` float32.
    """

    ids: npt.NDArray[np.int64]
    logprobs: Floats
    tail: Floats


def soft_table(
    ids: pa.ChunkedArray, target_ids: pa.ChunkedArray, rows: Sequence[SoftRow], *, pieces: int, samples: int | None
) -> pa.Table:
    """Make the table of a shard.

    Args:
        ids: Row ids `[rows]`.
        target_ids: Lists of int32 `[rows]`.
        rows: The soft targets, in the same order.
        pieces: Number of pieces in the vocabulary.
        samples: Number of draws, of which the probabilities are shares; None for likeliest ids.
    """
    entry_ids, sizes = (_joined([getattr(row, name) for row in rows], np.int64) for name in ("ids", "sizes"))
    logprobs, tail = (_joined([getattr(row, name) for row in rows], np.float32) for name in ("logprobs", "tail"))
    packed = pack(entry_ids, logprobs, sizes, pieces=pieces, samples=samples)
    ends = np.concatenate([[0], np.cumsum([len(row.sizes) for row in rows], dtype=np.int64)])
    offsets = np.concatenate([[0], np.cumsum(packed.widths)])[ends]
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(packed.data)]

    def by_row(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values, kind))

    columns = {
        "id": ids,
        "target_ids": target_ids,
        "sizes": by_row(sizes, pa.int32()),
        "entries": pa.Array.from_buffers(pa.large_binary(), len(rows), buffers),
        "spans": by_row(packed.spans, pa.float16()),
        "tail_logprob": by_row(np.where(np.isinf(tail), tail, tail.clip(min=LOWEST)).astype(np.float16), pa.float16()),
    }
    return pa.table(columns, schema=SOFT_SCHEMA)


def read_positions(table: pa.Table, *, pieces: int, samples: int | None) -> Unpacked:
    """Read the positions of all rows of a table of kind "soft", row after row.

    Args:
        table: The columns `sizes`, `entries`, `spans` and `tail_logprob`.
        pieces: See `soft_table`.
        samples: See `soft_table`.

    Raises:
        ValueError: The entries of a row are damaged.
    """
    names = ("sizes", "entries", "spans", "tail_logprob")
    sizes, entries, spans, tail = (pa.concat_arrays(table.column(name).chunks) for name in names)
    _, offsets, data = entries.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[entries.offset : entries.offset + len(entries) + 1]
    return unpack(
        np.frombuffer(data, dtype=np.uint8)[ends[0] : ends[-1]],
        sizes.flatten().to_numpy().astype(np.int64),
        to_floats(spans.flatten()),
        to_floats(tail.flatten()),
        pieces=pieces,
        samples=samples,
    )


def to_floats(array: pa.Array) -> Floats:
    """Return the numbers of a float16 array as float32."""
    values: Floats = array.to_numpy(zero_copy_only=False).astype(np.float32)
    return values


def pack(ids: Integers, logprobs: Floats, sizes: Integers, *, pieces: int, samples: int | None) -> Packed:
    """Pack the entries of positions.

    Args:
        ids: `[entries]` ids, distinct within a position.
        logprobs: `[entries]` their log-probabilities.
        sizes: `[positions]` numbers of entries, at least 1 each.
        pieces: Number of pieces in the vocabulary.
        samples: Number of draws, of which the probabilities are shares; None for likeliest ids.
    """
    starts = np.cumsum(sizes) - sizes
    if samples is not None:
        codes = np.rint(np.exp(logprobs.astype(np.float64)) * samples).astype(np.int64) - 1
        spans = np.zeros(len(sizes), dtype=np.float16)
    else:
        below = _largest(logprobs, starts, sizes) - logprobs
        np.minimum(below, WIDEST, out=below)
        spans = np.maximum.reduceat(below, starts).astype(np.float16) if len(starts) else np.zeros(0, np.float16)
        shares = below / np.maximum(np.repeat(spans.astype(np.float32), sizes), np.finfo(np.float32).tiny)
        between = (DISTANCES[1:] + DISTANCES[:-1]) / 2
        codes = np.searchsorted(between, shares)
    order = np.lexsort((ids, np.repeat(np.arange(len(sizes)), sizes)))
    ids, codes = ids[order].astype(np.int64), codes[order]
    bits = _code_bits(samples)
    widths = position_bytes(sizes, pieces=pieces, samples=samples)
    data = np.zeros(int(widths.sum()), dtype=np.uint8)
    for size, entries, places in _by_size(sizes, widths):
        low, upper = _low_bits(size, pieces), _upper_bits(size, pieces)
        found = ids[entries]
        ones = np.zeros((len(found), upper), dtype=np.uint8)
        np.put_along_axis(ones, (found >> low) + np.arange(size), 1, axis=1)
        parts = [ones, _spread(found, low), _spread(codes[entries], bits)]
        data[places] = np.packbits(np.concatenate(parts, axis=1), axis=1)
    return Packed(data, widths, spans)


def unpack(data: Bytes, sizes: Integers, spans: Floats, tails: Floats, *, pieces: int, samples: int | None) -> Unpacked:
    """Unpack positions.

    Args:
        data: The strings of the positions, one after the other.
        sizes: `[positions]` numbers of entries.
        spans: `[positions]`; see `Packed`.
        tails: `[positions]` log-probabilities of all ids that are not stored; not used with `samples`.
        pieces: Number of pieces in the vocabulary.
        samples: Number of draws; None for likeliest ids.

    Raises:
        ValueError: The bytes are not those of such positions.
    """
    if not len(sizes) == len(spans) == len(tails):
        raise ValueError(f"{len(sizes)} sizes, {len(spans)} spans and {len(tails)} tails")
    if len(sizes) and not 1 <= sizes.min() <= sizes.max() <= pieces:
        raise ValueError(f"positions of {sizes.min()} to {sizes.max()} ids, expected 1 to {pieces}")
    widths, bits = position_bytes(sizes, pieces=pieces, samples=samples), _code_bits(samples)
    if widths.sum() != len(data):
        raise ValueError(f"{len(data)} bytes, expected {widths.sum()}")
    most = int(sizes.max(initial=1))
    ids = np.zeros((len(sizes), most), dtype=np.int64)
    logprobs = np.full((len(sizes), most), -np.inf, dtype=np.float32)
    for size, _, places in _by_size(sizes, widths):
        low, upper = _low_bits(size, pieces), _upper_bits(size, pieces)
        string = np.unpackbits(data[places], axis=1)
        ones = string[:, :upper]
        if (ones.sum(axis=1, dtype=np.int32) != size).any():
            raise ValueError(f"a position does not have {size} ids")
        ends = np.cumsum([upper, size * low, size * bits])
        found = np.flatnonzero(ones).reshape(-1, size) - np.arange(len(places))[:, None] * upper
        found = (found - np.arange(size)) << low
        found |= _gather(string[:, ends[0] : ends[1]], size, low)
        if found.max() >= pieces:
            raise ValueError(f"id {found.max()}, expected 0 to {pieces - 1}")
        codes = _gather(string[:, ends[1] : ends[2]], size, bits)
        here = np.flatnonzero(sizes == size)
        ids[here, :size] = found
        if samples is not None:
            logprobs[here, :size] = np.log((codes + 1) / samples)
            continue
        below = DISTANCES[codes] * spans[here, None]
        stored = np.log(-np.expm1(np.minimum(tails[here], _MOST))) - np.log(np.exp(-below).sum(axis=1))
        logprobs[here, :size] = stored[:, None] - below
    return Unpacked(ids, logprobs, tails)


def position_bytes(sizes: Integers, *, pieces: int, samples: int | None) -> npt.NDArray[np.int64]:
    """Return the number of bytes of positions with these numbers of entries, `[positions]`."""
    widths = np.zeros(len(sizes), dtype=np.int64)
    for size in np.unique(sizes).tolist():
        bits = _upper_bits(size, pieces) + size * (_low_bits(size, pieces) + _code_bits(samples))
        widths[sizes == size] = -(-bits // 8)
    return widths


def _joined(parts: Sequence[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, dtype=dtype), *parts]).astype(dtype)


def _largest(logprobs: Floats, starts: Integers, sizes: Integers) -> Floats:
    """Return the largest log-probability of the position of each entry."""
    return np.repeat(np.maximum.reduceat(logprobs, starts), sizes) if len(starts) else logprobs


def _by_size(sizes: Integers, widths: Integers) -> Iterator[tuple[int, Integers, Integers]]:
    """Yield each number of entries, with the places of the entries `[n, size]` and of the bytes `[n, width]`."""
    entries, places = np.cumsum(sizes) - sizes, np.cumsum(widths) - widths
    for size in np.unique(sizes).tolist():
        here = np.flatnonzero(sizes == size)
        width = int(widths[here[0]])
        yield size, entries[here, None] + np.arange(size), places[here, None] + np.arange(width)


def _code_bits(samples: int | None) -> int:
    return CODE_BITS if samples is None else (samples - 1).bit_length()


def _low_bits(size: int, pieces: int) -> int:
    return max((pieces // size).bit_length() - 1, 0)


def _upper_bits(size: int, pieces: int) -> int:
    return size + ((pieces - 1) >> _low_bits(size, pieces))


def _spread(numbers: Integers, bits: int) -> Bytes:
    """Turn `[n, size]` numbers into `[n, bits * size]` bits: the highest bit of each number, then the next ones."""
    planes = (numbers[:, None, :] >> np.arange(bits - 1, -1, -1)[:, None]) & 1
    return planes.astype(np.uint8).reshape(len(numbers), -1)


def _gather(string: Bytes, size: int, bits: int) -> npt.NDArray[np.int32]:
    """Turn `[n, bits * size]` bits into `[n, size]` numbers; the reverse of `_spread`."""
    numbers = np.zeros((len(string), size), dtype=np.int32)
    for place in range(bits):
        numbers <<= 1
        numbers |= string[:, place * size : (place + 1) * size]
    return numbers

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.corpus.soft import Packed, Unpacked, pack, position_bytes, unpack
from tests.properties import examples

SMALLEST = float(np.finfo(np.float16).smallest_subnormal)


def unpacked(packed: Packed, sizes: list[int], tails: list[float], pieces: int, samples: int | None) -> Unpacked:
    numbers, tail = np.array(sizes), np.array(tails, dtype=np.float32)
    return unpack(packed.data, numbers, packed.spans.astype(np.float32), tail, pieces=pieces, samples=samples)


@given(st.data())
@examples(60)
def test_ids_and_draws_come_back(data: st.DataObject) -> None:
    """With any number of ids at a position, down to one and up to the whole vocabulary."""
    pieces = data.draw(st.sampled_from([1, 2, 3, 40, 255, 256, 257, 1000, 70_000]))
    samples = data.draw(st.sampled_from([1, 2, 50, 256]))
    sizes = data.draw(st.lists(st.integers(1, min(pieces, samples)), max_size=6))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    ids = [random.permutation(pieces)[:size] for size in sizes]
    counts = [1 + random.multinomial(samples - size, np.full(size, 1 / size)) for size in sizes]
    flat = [np.concatenate([[], *parts]) for parts in (ids, counts)]
    packed = pack(
        flat[0].astype(np.int64),
        np.log(flat[1] / samples).astype(np.float32),
        np.array(sizes, dtype=np.int64),
        pieces=pieces,
        samples=samples,
    )
    found = unpacked(packed, sizes, [-np.inf] * len(sizes), pieces, samples)
    for place, size in enumerate(sizes):
        order = np.argsort(ids[place])
        assert found.ids[place, :size].tolist() == ids[place][order].tolist()
        drawn = np.exp(found.logprobs[place].astype(np.float64)) * samples
        np.testing.assert_allclose(drawn[:size], counts[place][order], atol=1e-3)
        assert (drawn[size:] == 0).all()


@pytest.mark.parametrize(("pieces", "kept"), [(8000, 64), (8000, 16), (40, 40), (5, 1)])
@pytest.mark.parametrize("sharpness", [0.3, 3.0])
def test_probabilities_are_close(pieces: int, kept: int, sharpness: float) -> None:
    """The divergence of the packed distribution from the one that was packed."""
    logits = np.random.default_rng(1).normal(size=(50, pieces)) * sharpness
    logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    ids = np.argsort(-logprobs, axis=1)[:, :kept]
    top = np.take_along_axis(logprobs, ids, axis=1)
    with np.errstate(divide="ignore"):
        tail = np.log(np.maximum(1 - np.exp(top).sum(axis=1), 0 if kept == pieces else SMALLEST))
    sizes = np.full(50, kept)
    packed = pack(ids.ravel(), top.ravel().astype(np.float32), sizes, pieces=pieces, samples=None)
    found = unpacked(packed, sizes.tolist(), tail.astype(np.float16).tolist(), pieces, None)
    order = np.argsort(ids, axis=1)
    assert (found.ids == np.take_along_axis(ids, order, axis=1)).all()
    wanted = np.take_along_axis(top, order, axis=1)
    total = np.exp(found.logprobs.astype(np.float64)).sum(axis=1) + np.exp(found.tail.astype(np.float64))
    np.testing.assert_allclose(total, 1.0, atol=1e-5)
    divergence = (np.exp(wanted) * (wanted - found.logprobs)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        divergence += np.nan_to_num(np.exp(tail) * (tail - found.tail))
    assert divergence.mean() < 2e-3
    assert divergence.max() < 8e-3


def test_a_probability_of_zero_does_not_flatten_the_others() -> None:
    logprobs = np.log(np.array([0.7, 0.2, 0.1, 1e-300])).astype(np.float32)
    packed = pack(np.arange(4), logprobs, np.array([4]), pieces=4, samples=None)
    found = unpacked(packed, [4], [-np.inf], 4, None)
    np.testing.assert_allclose(np.exp(found.logprobs[0]), [0.7, 0.2, 0.1, 0.0], atol=0.03)


def test_the_size_of_a_position() -> None:
    """64 ids of 8,000 pieces take 72 bytes, which is 9 bits each; in any order they would take 13 bits each."""
    assert position_bytes(np.array([64]), pieces=8000, samples=None).tolist() == [112]
    assert position_bytes(np.array([1, 50]), pieces=8000, samples=50).tolist() == [3, 96]


def test_damaged_entries_are_refused() -> None:
    packed = pack(np.array([3, 9]), np.log(np.array([0.5, 0.5], dtype=np.float32)), np.array([2]), pieces=10, samples=2)
    none = packed._replace(data=np.zeros_like(packed.data))
    with pytest.raises(ValueError, match="does not have 2 ids"):
        unpacked(none, [2], [0.0], 10, 2)
    for sizes in ([0], [11]):
        with pytest.raises(ValueError, match="expected 1 to 10"):
            unpacked(packed, sizes, [0.0], 10, 2)
    with pytest.raises(ValueError, match="3 bytes, expected"):
        unpack(
            np.zeros(3, np.uint8), np.array([2]), np.zeros(1, np.float32), np.zeros(1, np.float32), pieces=10, samples=2
        )
    with pytest.raises(ValueError, match="1 sizes, 2 spans"):
        unpack(packed.data, np.array([2]), np.zeros(2, np.float32), np.zeros(1, np.float32), pieces=10, samples=2)

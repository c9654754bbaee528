from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.corpus.batches import plan_epoch

Lengths = npt.NDArray[np.int32]


@st.composite
def corpora(draw: st.DrawFn) -> tuple[Lengths, Lengths]:
    pairs = draw(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=60))
    sides = np.array(pairs, dtype=np.int32).reshape(-1, 2)
    return sides[:, 0], sides[:, 1]


settings_of_a_plan = st.fixed_dictionaries(
    {
        "batch_tokens": st.integers(1, 200),
        "seed": st.integers(0, 3),
        "epoch": st.integers(0, 3),
        "window": st.integers(1, 80),
    }
)


def plans(corpus: tuple[Lengths, Lengths], plan: dict[str, int], world: int) -> list[list[npt.NDArray[np.int64]]]:
    return [plan_epoch(corpus[0], corpus[1], **plan, rank=rank, world=world) for rank in range(world)]


def same(one: list[Any], two: list[Any]) -> bool:
    return len(one) == len(two) and all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


@given(corpora(), settings_of_a_plan, st.integers(1, 5))
def test_every_row_is_in_one_batch_of_one_rank(
    corpus: tuple[Lengths, Lengths], plan: dict[str, int], world: int
) -> None:
    ranks = plans(corpus, plan, world)
    rows = np.concatenate([np.empty(0, np.int64), *(batch for batches in ranks for batch in batches)])
    assert sorted(rows.tolist()) == list(range(len(corpus[0])))


@given(corpora(), settings_of_a_plan, st.integers(1, 5))
def test_ranks_have_equally_many_batches_and_empty_ones_only_when_rows_are_too_few(
    corpus: tuple[Lengths, Lengths], plan: dict[str, int], world: int
) -> None:
    ranks = plans(corpus, plan, world)
    assert len({len(batches) for batches in ranks}) == 1
    empty = [len(batch) == 0 for batches in ranks for batch in batches]
    assert sum(empty) < world
    if any(empty):
        assert all(len(batch) <= 1 for batches in ranks for batch in batches)
        assert not any(len(batch) == 0 for batches in ranks for batch in batches[:-1])


@given(corpora(), settings_of_a_plan, st.integers(1, 5))
def test_the_budget_holds(corpus: tuple[Lengths, Lengths], plan: dict[str, int], world: int) -> None:
    widths = np.maximum(*corpus) + 1
    for batches in plans(corpus, plan, world):
        for batch in batches:
            if len(batch) > 1:
                assert int(widths[batch].max()) * len(batch) <= plan["batch_tokens"]


@given(corpora(), settings_of_a_plan, st.integers(1, 5))
def test_a_plan_follows_from_its_settings(corpus: tuple[Lengths, Lengths], plan: dict[str, int], world: int) -> None:
    for one, two in zip(plans(corpus, plan, world), plans(corpus, plan, world), strict=True):
        assert same(one, two)


@pytest.fixture(scope="module")
def natural() -> tuple[Lengths, Lengths]:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 60, 5000)
    return lengths.astype(np.int32), np.clip(lengths + random.integers(-5, 6, 5000), 1, None).astype(np.int32)


@pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 1}])
def test_another_seed_or_epoch_is_another_plan(natural: tuple[Lengths, Lengths], change: dict[str, int]) -> None:
    plan = {"batch_tokens": 1000, "seed": 1, "epoch": 0, "window": 2000}
    before, after = plan_epoch(natural[0], natural[1], **plan), plan_epoch(natural[0], natural[1], **{**plan, **change})
    assert not same(before, after)
    assert {frozenset(batch.tolist()) for batch in before} != {frozenset(batch.tolist()) for batch in after}


def test_batches_are_dense_and_well_filled(natural: tuple[Lengths, Lengths]) -> None:
    """Sorting by length pays: little padding, few batches; and the order of batches does not follow length."""
    _, targets = natural
    batches = plan_epoch(*natural, batch_tokens=1000, seed=1, epoch=0, window=5000)
    padded = sum((int(targets[batch].max()) + 1) * len(batch) for batch in batches)
    assert (targets + 1).sum() / padded > 0.95
    assert len(batches) < 1.25 * (targets + 1).sum() / 1000
    longest = np.array([targets[batch].max() for batch in batches])
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.3


def test_a_long_source_with_a_short_target_stays_within_the_budget() -> None:
    sources, targets = np.full(64, 99, np.int32), np.full(64, 1, np.int32)
    assert {len(batch) for batch in plan_epoch(sources, targets, batch_tokens=800, seed=1, epoch=0, window=64)} == {8}


def test_a_row_longer_than_the_budget_is_a_batch_of_its_own() -> None:
    lengths = np.array([3, 500, 3], np.int32)
    batches = plan_epoch(lengths, lengths, batch_tokens=16, seed=1, epoch=0, window=10)
    assert sorted(batch.tolist() == [1] for batch in batches) == [False, True]


def test_memory_is_a_few_numbers_a_row() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 200_000).astype(np.int32)
    tracemalloc.start()
    plan_epoch(lengths, lengths, batch_tokens=4096, seed=1, epoch=0, window=100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * len(lengths)


@pytest.mark.parametrize(
    "wrong", [{"batch_tokens": 0}, {"window": 0}, {"rank": 2, "world": 2}, {"world": 0}, {"rank": -1}]
)
def test_settings_out_of_range(wrong: dict[str, int]) -> None:
    lengths = np.ones(3, np.int32)
    with pytest.raises(ValueError, match="must be"):
        plan_epoch(lengths, lengths, **{"batch_tokens": 9, "seed": 1, "epoch": 0, "window": 9, **wrong})


def test_lengths_that_do_not_belong_together() -> None:
    with pytest.raises(ValueError, match=r"\(3,\) and \(4,\)"):
        plan_epoch(np.ones(3, np.int32), np.ones(4, np.int32), batch_tokens=9, seed=1, epoch=0, window=9)

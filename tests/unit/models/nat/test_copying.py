from __future__ import annotations

import math
from fractions import Fraction

import torch
from hypothesis import given
from hypothesis import strategies as st

from seqkd.models.nat.copying import copy_states, fertile_places, uniform_places

LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 60)), min_size=1, max_size=5)


@given(LENGTHS)
def test_uniform_places_are_the_nearest(lengths: list[tuple[int, int]]) -> None:
    sources, targets = (torch.tensor(side) for side in zip(*lengths, strict=True))
    found = uniform_places(sources, targets, 60).tolist()
    for row, (source, target) in zip(found, lengths, strict=True):
        gaps = max(target - 1, 1)
        exact = [math.floor(Fraction((source - 1) * step, gaps) + Fraction(1, 2)) for step in range(target)]
        assert row[:target] == exact
        assert row[0] == 0
        assert target == 1 or row[target - 1] == source - 1
        assert max(row) <= source - 1


@given(st.lists(st.lists(st.integers(0, 4), min_size=5, max_size=5), min_size=1, max_size=4))
def test_fertile_places_repeat_each_token(fertilities: list[list[int]]) -> None:
    found = fertile_places(torch.tensor(fertilities), 22).tolist()
    for row, counts in zip(found, fertilities, strict=True):
        expected = [place for place, count in enumerate(counts) for _ in range(count)]
        assert row[: len(expected)] == expected
        assert set(row[len(expected) :]) <= {4}


def test_copies() -> None:
    embedded = torch.randn(2, 3, 4)
    found = copy_states(embedded, torch.tensor([[0, 0, 2], [1, 2, 2]]))
    assert torch.equal(found[0], embedded[0, [0, 0, 2]])
    assert torch.equal(found[1], embedded[1, [1, 2, 2]])

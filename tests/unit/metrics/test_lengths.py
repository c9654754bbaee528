from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.metrics.lengths import bin_width, length_histogram


def test_bins_hold_their_rows_and_the_last_one_all_longer_ones() -> None:
    histogram = length_histogram(np.array([0, 4, 5, 9, 10, 99], dtype=np.int32), width=5, bins=3)
    assert histogram.edges == (0, 5, 10, 15)
    assert histogram.shares == pytest.approx((2 / 6, 2 / 6, 2 / 6))
    assert histogram.mean == pytest.approx(127 / 6)


def test_no_rows() -> None:
    histogram = length_histogram(np.zeros(0, dtype=np.int32), width=1, bins=2)
    assert histogram.shares == (0.0, 0.0)
    assert histogram.mean == 0.0


@given(longest=st.integers(0, 10**6), bins=st.integers(1, 50))
def test_bins_reach_the_longest_row(longest: int, bins: int) -> None:
    width = bin_width(longest, bins=bins)
    assert width * bins > longest
    assert int(str(width)[0]) in (1, 2, 5)
    assert set(str(width)[1:]) <= {"0"}


@given(st.lists(st.integers(0, 300), min_size=1), st.integers(1, 20), st.integers(1, 30))
def test_shares_add_up_to_one(lengths: list[int], width: int, bins: int) -> None:
    histogram = length_histogram(np.array(lengths, dtype=np.int32), width=width, bins=bins)
    assert len(histogram.shares) == bins
    assert sum(histogram.shares) == pytest.approx(1.0)

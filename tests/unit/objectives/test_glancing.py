from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from seqkd.objectives.glancing import draw_shown

ROWS = st.lists(
    st.lists(st.booleans(), min_size=7, max_size=7).flatmap(
        lambda real: st.tuples(st.just(real), st.integers(0, sum(real)))
    ),
    min_size=1,
    max_size=5,
)


@given(ROWS, st.floats(0.0, 1.0))
def test_as_many_as_the_ratio_says_and_only_real_ones(rows: list[tuple[list[bool], int]], ratio: float) -> None:
    real = torch.tensor([row for row, _ in rows])
    distance = torch.tensor([count for _, count in rows])
    found = draw_shown(real, distance, ratio)
    assert found.dtype == torch.bool
    assert not (found & ~real).any()
    assert found.sum(1).tolist() == [round(ratio * count) for _, count in rows]


def test_every_real_position_is_as_likely() -> None:
    torch.manual_seed(0)
    real = torch.tensor([[True, True, False, True, True, True]]).expand(20_000, -1)
    shares = draw_shown(real, torch.full((20_000,), 4), 0.5).double().mean(0)
    assert shares[2] == 0.0
    torch.testing.assert_close(shares[[0, 1, 3, 4, 5]], torch.full((5,), 0.4).double(), rtol=0, atol=0.02)

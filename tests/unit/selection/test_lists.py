from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.selection.support import hypothesis, kbest, lists_of, rows

Rows = list[tuple[list[dict[str, Any]], str]]


@given(rows=rows(6), size=st.integers(1, 4))
def test_pieces_are_the_whole(rows: Rows, size: int) -> None:
    lists = lists_of(rows)
    pieces = list(lists.pieces(size))
    assert [len(piece.ids) for piece in pieces[:-1]] == [size] * (len(pieces) - 1)
    for name in ("ids", "counts", "ranks", "scores", "lengths", "posterior"):
        parts = [getattr(piece, name) for piece in pieces]
        assert (np.concatenate(parts) if parts else np.zeros(0)).tolist() == getattr(lists, name).tolist()
    for name in ("sources", "references", "reference_ids", "source_ids", "texts", "token_ids"):
        assert [value for piece in pieces for value in getattr(piece, name).to_pylist()] == (
            getattr(lists, name).to_pylist()
        )


def test_where_hypotheses_belong() -> None:
    lists = lists_of([(kbest("a", "b"), "x"), ([], "y"), (kbest("c d"), "z")])
    assert lists.owners.tolist() == [0, 0, 2]
    assert lists.ranks.tolist() == [0, 1, 0]
    assert lists.firsts.tolist() == [0, 2, 2]
    assert lists.lengths.tolist() == [1, 1, 2]


def test_the_posterior_sums_to_one_and_does_not_underflow() -> None:
    found = [hypothesis("a", logprob=-1000.0), hypothesis("b", logprob=-1000.0 - np.log(3.0))]
    lists = lists_of([(found, "x"), ([], "y"), (found[:1], "z")])
    assert lists.posterior == pytest.approx([0.75, 0.25, 1.0], rel=1e-4)

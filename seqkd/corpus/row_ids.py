"""Ids for the hypotheses of one row that become rows of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]

RANK_STEP = 1_000_000_000_000
"""The distance between the ids of one row's hypotheses. It is larger than every id of a row."""


def ranked_ids(rows: Ids, ranks: npt.NDArray[np.integer[Any]]) -> Ids:
    """Return ids of hypotheses: the best one keeps the id of its row, and each further rank adds `RANK_STEP`.

    Args:
        rows: Ids of the rows, 0 to `RANK_STEP` - 1.
        ranks: Ranks in the lists of the rows, from 0.
    """
    return rows + RANK_STEP * ranks.astype(np.int64)


def row_ids(ids: Ids) -> Ids:
    """Return the ids of the rows in the gold corpus and the k-best lists to which these ids belong."""
    return ids % RANK_STEP

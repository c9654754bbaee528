"""Ids of rows that share a source: several hypotheses of one row, each a row of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]

RANK_STEP = 1_000_000_000_000
"""Between the ids of one row's hypotheses, and above every row's own id."""


def ranked_ids(rows: Ids, ranks: npt.NDArray[np.integer[Any]]) -> Ids:
    """Ids of hypotheses: that of the row, which the best hypothesis keeps, and one step more for each further rank.

    Args:
        rows: Ids of the rows, 0 to `RANK_STEP` - 1.
        ranks: Places in the rows' lists, from 0.
    """
    return rows + RANK_STEP * ranks.astype(np.int64)


def row_ids(ids: Ids) -> Ids:
    """The rows' own ids: what gold and k-best lists know them by."""
    return ids % RANK_STEP

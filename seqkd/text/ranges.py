"""Ranges of places in flat arrays, which hold one sentence or list after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.integer[Any]]


def list_ranges(firsts: Integers, counts: Integers) -> npt.NDArray[np.int64]:
    """Return all numbers of ranges, one range after the other.

    Args:
        firsts: `[ranges]`, the first number of each range.
        counts: `[ranges]`, the size of each range.
    """
    before = np.cumsum(counts) - counts
    places: npt.NDArray[np.int64] = np.arange(int(counts.sum()), dtype=np.int64) + np.repeat(firsts - before, counts)
    return places

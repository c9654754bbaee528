"""Histograms of the lengths of a corpus, for the report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthHistogram:
    """The distribution of the lengths of a corpus.

    Attributes:
        edges: Bin edges in tokens, `[bins + 1]`; the last bin also holds every longer row.
        shares: Share of the rows in each bin, `[bins]`, adding up to 1 (all 0 without rows).
        mean: Mean length in tokens.
    """

    edges: tuple[int, ...]
    shares: tuple[float, ...]
    mean: float


def length_histogram(lengths: NDArray[np.int32], *, width: int, bins: int) -> LengthHistogram:
    """Count `lengths` (tokens, `[rows]`) in `bins` bins of `width` tokens, the first of which starts at 0."""
    edges = tuple(range(0, width * bins + 1, width))
    counts = np.bincount(np.minimum(lengths // width, bins - 1), minlength=bins)
    rows = max(len(lengths), 1)
    return LengthHistogram(
        edges=edges,
        shares=tuple(float(count) / rows for count in counts),
        mean=float(lengths.mean()) if len(lengths) else 0.0,
    )


def bin_width(longest: int, *, bins: int) -> int:
    """Return the narrowest of 1, 2, 5, 10, 20, 50, ... tokens with which `bins` bins reach `longest`."""
    width = 1
    for step in (1, 2, 5) * 9:
        candidate = step * width
        if candidate * bins > longest:
            return candidate
        if step == 5:
            width *= 10
    return width

"""Glancing: a model that writes all positions at once is shown some target tokens in training (Qian et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeAlias

from pydantic import Field
from torch import Tensor

from seqkd.objectives.masked import draw_positions

Glancing = Annotated[
    tuple[Annotated[float, Field(ge=0.0, le=1.0)], Annotated[float, Field(ge=0.0, le=1.0)]] | None,
    Field(description="GLAT (Qian et al. 2021): share of wrong positions shown, at the start and the end of training"),
]

Show: TypeAlias = Callable[[Tensor, Tensor, float], Tensor]
"""A function that draws the positions to show, such as `draw_shown`."""


def draw_shown(real: Tensor, distance: Tensor, ratio: float) -> Tensor:
    """Draw the positions at which the decoder is shown the gold tokens (Qian et al. 2021, section 3).

    Args:
        real: `[batch, length]` bool, True at target tokens.
        distance: `[batch]` int64, number of wrong tokens in the first pass (Hamming distance).
        ratio: Share of that number to show, from 0 to 1.

    Returns:
        `[batch, length]` bool: in each row `round(ratio * distance)` of the real positions, drawn uniformly. Halves are
        rounded to even. (The authors' code rounds down.)
    """
    return draw_positions(real, (ratio * distance.double()).round().long())

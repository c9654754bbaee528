"""Glancing: showing some of the answer to a model that writes all positions at once (Qian et al. 2021)."""

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
"""What draws the positions that are shown, as `draw_shown` does."""


def draw_shown(real: Tensor, distance: Tensor, ratio: float) -> Tensor:
    """Positions whose gold tokens the decoder is shown (Qian et al. 2021, section 3).

    Args:
        real: `[batch, length]` bool, True at target tokens.
        distance: `[batch]` int64, how many tokens of the first pass are wrong (Hamming distance).
        ratio: Share of that number that is shown, 0 to 1.

    Returns:
        `[batch, length]` bool: `round(ratio * distance)` of each row's real positions, half rounded to even, drawn
        uniformly. (The authors' code rounds down.)
    """
    return draw_positions(real, (ratio * distance.double()).round().long())

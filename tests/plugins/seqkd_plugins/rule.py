"""A selection rule: the hypothesis whose length is nearest to the source's, times a ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from seqkd.selection.lists import Floats, Lists, sizes
from seqkd.selection.registry import Rule
from seqkd.selection.rules import Means


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthSettings:
    """Settings of the rule "length"."""

    ratio: Annotated[float, Field(gt=0.0, description="target subwords for each source subword")] = 1.0


def by_length(lists: Lists, means: Means) -> Floats:
    """How near each hypothesis is to the wanted length `[hypotheses]`."""
    wanted = means.settings.ratio * sizes(lists.source_ids)[lists.owners]
    distance: Floats = np.abs(lists.lengths - wanted).astype(np.float64)
    return -distance


RECORD = Rule(
    name="length",
    help="The hypothesis whose length is nearest to the source's, times a ratio",
    settings="seqkd_plugins.rule:LengthSettings",
    values="seqkd_plugins.rule:by_length",
)

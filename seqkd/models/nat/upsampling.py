"""Several decoder positions for each source token, whatever the target's length."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from seqkd.models.functional import linear
from seqkd.models.protocol import Lengths


def count_positions(source: Lengths, times: int) -> npt.NDArray[np.int64]:
    """Decoder positions of sources, `[rows]` tokens with end of sentence not counted."""
    return times * (source.astype(np.int64) + 1)


def upsample_mask(real: Tensor, times: int) -> Tensor:
    """`[batch, source]`, True at tokens, to `[batch, times * source]`, True at their positions."""
    return real.repeat_interleave(times, dim=1)


def split_states(memory: Tensor, layer: nn.Linear) -> Tensor:
    """Encoder states to decoder inputs (Libovický and Helcl 2018, section 3).

    Args:
        memory: `[batch, source, dim]`.
        layer: From `dim` to as many times `dim` as a token has positions.

    Returns:
        `[batch, times * source, dim]`.
    """
    batch, _, dim = memory.shape
    return linear(memory, layer).view(batch, -1, dim)

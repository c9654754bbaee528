"""A fixed number of decoder positions for each source token, independent of the target length."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from seqkd.models.functional import linear
from seqkd.models.protocol import Lengths


def count_positions(source: Lengths, times: int) -> npt.NDArray[np.int64]:
    """Return the numbers of decoder positions `[rows]` of sources, whose lengths do not include end of sentence."""
    return times * (source.astype(np.int64) + 1)


def upsample_mask(real: Tensor, times: int) -> Tensor:
    """Map `[batch, source]`, True at tokens, to `[batch, times * source]`, True at the positions of these tokens."""
    return real.repeat_interleave(times, dim=1)


def split_states(memory: Tensor, layer: nn.Linear) -> Tensor:
    """Map encoder states to decoder inputs (Libovický and Helcl 2018, section 3).

    Args:
        memory: `[batch, source, dim]`.
        layer: A layer from `dim` to `times * dim` features, for `times` positions of each token.

    Returns:
        `[batch, times * source, dim]`.
    """
    batch, _, dim = memory.shape
    return linear(memory, layer).view(batch, -1, dim)

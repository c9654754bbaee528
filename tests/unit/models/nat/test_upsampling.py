"""Several positions for each source token."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from seqkd.models.nat.upsampling import count_positions, split_states, upsample_mask


def test_tokens_and_their_end_have_room() -> None:
    assert count_positions(np.array([0, 4], dtype=np.int32), 3).tolist() == [3, 15]


def test_positions_of_a_token_lie_together() -> None:
    assert upsample_mask(torch.tensor([[True, False]]), 2).tolist() == [[True, True, False, False]]
    layer = nn.Linear(2, 6, bias=False)
    memory = torch.randn(1, 2, 2)
    inputs = split_states(memory, layer)
    assert inputs.shape == (1, 6, 2)
    for token in range(2):
        expected = (layer.weight @ memory[0, token]).view(3, 2)
        torch.testing.assert_close(inputs[0, 3 * token : 3 * token + 3], expected)

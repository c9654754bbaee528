from __future__ import annotations

import pytest
import torch
from torch import nn

from seqkd.objectives.base import Batch, LossOutput
from seqkd.training.runtime import make_fabric
from seqkd.training.validation import held_out_nll
from tests.unit.training.support import TableData, copy_rows, tiny_model


def test_is_over_the_tokens_that_the_objective_counts() -> None:
    data = TableData(copy_rows(20))

    def half(model: nn.Module, batch: Batch) -> LossOutput:  # noqa: ARG001
        tokens = batch.tokens // 2
        return LossOutput(torch.zeros(()), torch.tensor(3.0 * tokens), tokens)

    fabric = make_fabric(torch.device("cpu"), "float32")
    assert held_out_nll(fabric, tiny_model(), half, data) == pytest.approx(3.0)

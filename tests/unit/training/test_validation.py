from __future__ import annotations

import pytest
import torch

from seqkd.objectives.base import Batch
from seqkd.objectives.terms import NOTHING, Forward, TermOutput
from seqkd.training.runtime import make_fabric
from seqkd.training.validation import held_out_nll
from tests.unit.training.support import TableData, copy_rows, loss_of, tiny_model


class Half:
    """Three nats for every second token."""

    reads = NOTHING

    def count(self, batch: Batch) -> float:
        return batch.tokens // 2

    def __call__(self, forward: Forward) -> TermOutput:
        return TermOutput(torch.zeros(()), torch.tensor(3.0 * self.count(forward.batch)))


def test_is_over_the_tokens_that_the_objective_counts() -> None:
    fabric, data = make_fabric(torch.device("cpu"), "float32"), TableData(copy_rows(20))
    assert held_out_nll(fabric, tiny_model(), loss_of(Half()), data) == pytest.approx(3.0)


def test_a_term_without_a_likelihood_cannot_measure() -> None:
    class Silent(Half):
        def __call__(self, forward: Forward) -> TermOutput:
            return super().__call__(forward)._replace(nll=None)

    fabric, data = make_fabric(torch.device("cpu"), "float32"), TableData(copy_rows(20))
    with pytest.raises(ValueError, match="Silent gives no negative log-likelihood"):
        held_out_nll(fabric, tiny_model(), loss_of(Silent()), data)

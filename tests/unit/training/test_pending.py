from __future__ import annotations

import math

import pytest
import torch

from seqkd.errors import WorkError
from seqkd.objectives.base import Batch
from seqkd.training.pending import Counts, PendingUpdates, UpdateNumbers
from tests.unit.training.support import TableData, copy_rows


@pytest.fixture
def batch() -> Batch:
    data = TableData(copy_rows(4), batch_tokens=1000)
    return data.load(data.plan(0)[0])


ONE = [("loss", 1.0)]


def add(pending: PendingUpdates, update: int, batch: Batch, loss: float, norm: float | None = None) -> None:
    size, counts = None if norm is None else torch.tensor(norm), [batch.total]
    pending.add(update, [(batch, [torch.tensor(loss)])], tokens=batch.tokens, counts=Counts(counts, counts), norm=size)


def test_the_last_updates_are_left_unread_until_they_are_asked_for(batch: Batch) -> None:
    pending = PendingUpdates(ONE, scaled=False)
    for update in (1, 2, 3):
        add(pending, update, batch, float(update))
    assert [entry.update for entry in pending.read(1)] == [1, 2]
    assert list(pending.read(1)) == []
    assert list(pending.read(0)) == [
        UpdateNumbers(3, 3.0, batch.tokens, [3.0 / batch.tokens], 3.0 / batch.tokens, None)
    ]


def test_a_weighted_loss_counts_as_of_whole_tokens(batch: Batch) -> None:
    pending = PendingUpdates(ONE, scaled=False)
    tokens, total = 3 * batch.tokens, 1.5 * batch.tokens
    losses = [(batch, [torch.tensor(2.0)]), (batch, [torch.tensor(4.0)])]
    counts = Counts([2.0 * batch.total], [total])
    pending.add(1, losses, tokens=tokens, counts=counts, norm=torch.tensor(0.5))
    (entry,) = pending.read(0)
    assert (entry.loss, entry.tokens, entry.norm) == (12.0, tokens, 0.5)
    assert entry.mean == pytest.approx(3.0 / batch.tokens)


def test_what_comes_before_a_loss_that_is_not_finite_is_read(batch: Batch) -> None:
    pending = PendingUpdates(ONE, scaled=False)
    add(pending, 1, batch, 1.0)
    add(pending, 2, batch, math.nan)
    entries = pending.read(0)
    assert next(entries).update == 1
    with pytest.raises(WorkError, match="the loss is nan") as error:
        next(entries)
    assert str(error.value).startswith("update 2, rows ")


def test_each_term_has_its_own_denominators(batch: Batch) -> None:
    pending = PendingUpdates([("words", 0.5), ("states", 2.0)], scaled=False)
    losses = [(batch, [torch.tensor(3.0), torch.tensor(10.0)]), (batch, [torch.tensor(5.0), torch.tensor(20.0)])]
    pending.add(1, losses, tokens=32, counts=Counts([16, 5.0], [32, 15.0]), norm=None)
    (entry,) = pending.read(0)
    assert entry.means == [8.0 / 16, 30.0 / 5]
    assert entry.mean == 0.5 * 0.5 + 2.0 * 6.0
    assert entry.loss == pytest.approx(0.5 * 8.0 * 32 / 32 + 2.0 * 30.0 * 32 / 15)
    pending.add(2, [(batch, [torch.tensor(1.0), torch.tensor(math.inf)])], tokens=8, counts=Counts([1], [1]), norm=None)
    with pytest.raises(WorkError, match="the loss of states is inf"):
        list(pending.read(0))


@pytest.mark.parametrize("scaled", [False, True])
def test_a_norm_that_overflows_is_an_error_unless_a_scaler_answers_it(batch: Batch, scaled: bool) -> None:
    pending = PendingUpdates(ONE, scaled=scaled)
    add(pending, 1, batch, 1.0, norm=math.inf)
    if scaled:
        assert [entry.norm for entry in pending.read(0)] == [math.inf]
    else:
        with pytest.raises(WorkError, match="the gradient's norm is inf"):
            list(pending.read(0))

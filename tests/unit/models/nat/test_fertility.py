from __future__ import annotations

import itertools
import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from seqkd.models.nat.fertility import CLASSES, Alignment, FertilityPredictor
from tests.unit.models.nat.support import EOS, PAD, padded

DIM = 8


def align(model: FertilityPredictor, table: Tensor, source: Tensor, target: Tensor) -> Alignment:
    return model.align(functional.embedding(source, table), source.ne(PAD), target, target.ne(PAD), table)


def predictor(classes: int = CLASSES) -> tuple[FertilityPredictor, Tensor]:
    torch.manual_seed(0)
    return FertilityPredictor(DIM, classes), torch.randn(20, DIM)


def test_every_target_token_has_a_source_token_and_the_ends_meet() -> None:
    model, table = predictor()
    source, target = padded([[5, 6, 7, EOS], [8, EOS]]), padded([[9, EOS], [10, 11, 12, 13, EOS]])
    found = align(model, table, source, target)
    assert found.fertilities.sum(1).tolist() == [2, 5]
    assert found.fertilities[1, 2:].tolist() == [0, 0]
    assert found.fertilities[0, 3] >= 1
    assert found.fertilities[1, 1] >= 1
    wide = align(model, table, padded([[5, 6, 7, EOS]], 9), padded([[9, EOS]], 9))
    assert wide.fertilities[0, :4].tolist() == found.fertilities[0].tolist()
    one = align(model, table, source[:1], target[:1, :2])
    torch.testing.assert_close(wide.loss, one.loss)


def test_a_lexicon_that_knows_nothing_spreads_the_target_evenly() -> None:
    model, table = predictor()
    with torch.no_grad():
        model.lexicon.weight.zero_()
    for size, length in ((4, 4), (3, 9), (6, 3)):
        source = padded([[*range(4, 3 + size), EOS]])
        target = padded([[*range(4, 3 + length), EOS]])
        counts = align(model, table, source, target).fertilities[0].tolist()
        assert sum(counts) == length
        assert all(abs(count - length / size) < 1.0 for count in counts)


def test_the_lexicon_learns_who_translates_whom() -> None:
    model, _ = predictor()
    table = nn.Parameter(torch.randn(20, DIM))
    draw = random.Random(0)
    # Some words give one token, others two, and their order is anything: the prior alone is often wrong.
    sources = [draw.sample(range(4, 14), draw.randint(2, 5)) for _ in range(100)]
    orders = [draw.sample(words, len(words)) for words in sources]
    targets = [[part for word in words for part in [word] * (1 + (word > 9))] for words in orders]
    source, target = (padded([[*row, EOS] for row in rows]) for rows in (sources, targets))
    expected = [[*(1 + (word > 9) for word in words), 1] for words in sources]

    def right() -> float:
        found = align(model, table, source, target).fertilities.tolist()
        same: list[bool] = [row[: len(want)] == want for row, want in zip(found, expected, strict=True)]
        return sum(same) / len(same)

    assert right() < 0.3
    optimizer = torch.optim.Adam([*model.parameters(), table], lr=0.05)
    for _ in range(80):
        optimizer.zero_grad()
        align(model, table, source, target).loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert right() > 0.9


def test_the_loss_counts_real_tokens_and_no_class_beyond_the_last() -> None:
    model, _ = predictor()
    memory, real = torch.randn(2, 3, DIM), torch.tensor([[True, True, True], [True, True, False]])
    wanted = torch.tensor([[1, 0, 70], [3, 1, 0]])
    logits = model.classes(memory)[real]
    expected = functional.cross_entropy(logits, torch.tensor([1, 0, CLASSES - 1, 3, 1]))
    torch.testing.assert_close(model.loss(memory, real, wanted), expected)


@pytest.mark.parametrize("count", [1, 3, 500])
def test_candidates_equal_a_search_by_exhaustion(count: int) -> None:
    model, _ = predictor(classes=4)
    with torch.no_grad():
        model.classes.bias[0] += 2.0  # all zeros would be the best
    memory, real = torch.randn(2, 4, DIM), torch.tensor([[True, True, True, True], [True, True, False, False]])
    found = model.candidates(memory, real, count)
    logprobs = model.classes(memory).log_softmax(-1).detach()
    for row, length in enumerate((4, 2)):
        every = {
            counts: sum(float(logprobs[row, place, each]) for place, each in enumerate(counts))
            for counts in itertools.product(range(4), repeat=length)
            if counts[-1] >= 1 and sum(counts) >= 2
        }
        best = sorted(every, key=lambda counts: -every[counts])[:count]
        possible = found.logprobs[row].isfinite()
        assert [tuple(each) for each in found.fertilities[row, possible, :length].tolist()] == best
        assert not found.fertilities[row, possible, length:].any()
        assert found.logprobs[row][possible].tolist() == pytest.approx([every[counts] for counts in best], abs=1e-5)

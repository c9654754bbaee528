from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from seqkd.models.nat.lengths import OUT_OF_REACH, REACH, LengthPredictor, out_of_reach
from tests.unit.models.nat.support import pair_lengths


def predictor() -> LengthPredictor:
    torch.manual_seed(0)
    return LengthPredictor(8)


def states(lengths: list[int], room: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    memory = torch.stack([torch.randn(room, 8, generator=generator) for _ in lengths])
    return memory, torch.arange(room) < torch.tensor(lengths)[:, None]


def test_the_loss_is_that_of_the_difference_to_the_source() -> None:
    model = predictor()
    memory, real = states([3, 5], 6)
    logits = torch.stack([model.classes(memory[0, :3].mean(0)), model.classes(memory[1, :5].mean(0))])
    expected = functional.cross_entropy(logits, torch.tensor([7 - 3 + REACH, 2 - 5 + REACH]))
    torch.testing.assert_close(model.loss(memory, real, torch.tensor([7, 2])), expected)
    # Out of reach is as far as the predictor goes.
    far, last = torch.tensor([3 + 1000, 2]), torch.tensor([3 + REACH - 1, 2])
    torch.testing.assert_close(model.loss(memory, real, far), model.loss(memory, real, last))


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(1, 300), st.integers(12, 400))
def test_candidates_are_the_likeliest_lengths_that_fit(lengths: list[int], count: int, longest: int) -> None:
    model = predictor()
    memory, real = states(lengths, 12)
    found = model.candidates(memory, real, count, longest)
    logprobs = model.logits(memory, real).log_softmax(-1).detach()
    for row, length in enumerate(lengths):
        fitting = {
            length + change: change + REACH for change in range(-REACH, REACH) if 2 <= length + change <= longest
        }
        expected = sorted(fitting, key=lambda each: -float(logprobs[row, fitting[each]]))[:count]
        possible = found.logprobs[row].isfinite()
        assert found.lengths[row][possible].tolist() == expected
        assert found.logprobs[row][possible].tolist() == [float(logprobs[row, fitting[each]]) for each in expected]
    assert int(found.lengths.min()) >= 2
    assert int(found.lengths.max()) <= longest


def test_padding_changes_nothing() -> None:
    model = predictor()
    memory, real = states([3], 9)
    torch.testing.assert_close(model.logits(memory, real), model.logits(memory[:, :3], real[:, :3]))


def test_what_the_predictor_cannot_say() -> None:
    lengths = pair_lengths(source=[200, 200, 200, 200], target=[71, 72, 327, 328])
    assert out_of_reach(lengths)[OUT_OF_REACH].tolist() == [True, False, False, True]

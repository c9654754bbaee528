"""What all recurrent models must do: one step at a time equals teacher forcing, and padding does not leak."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from seqkd.models.lstm import Lstm
from seqkd.search.plain.lstm import IncrementalLstm
from seqkd.search.plain.sru import IncrementalSru
from tests.properties import examples
from tests.unit.models.support import PAD, follow_parents, padded, small_lstm, small_sru

Make = Callable[[], Any]
EACH: list[Make] = [small_lstm, small_sru, lambda: small_sru(cell="sru", norm="post")]
each = pytest.mark.parametrize("make", EACH, ids=["lstm", "ssru", "sru"])


def engine(model: Any) -> Any:
    return IncrementalLstm(model) if isinstance(model, Lstm) else IncrementalSru(model)


@pytest.mark.parametrize(
    "make",
    [
        *EACH,
        lambda: small_lstm(encoder=1, decoder=3, embeddings="decoder"),
        lambda: small_lstm(encoder=2, decoder=1, embeddings="separate"),
        lambda: small_sru(norm="post", positions="learned", embeddings="separate"),
        lambda: small_sru(cell="sru", positions="learned", embeddings="decoder"),
        lambda: small_sru(compatible_with="marian"),
    ],
)
def test_one_step_at_a_time_equals_teacher_forcing(make: Make) -> None:
    model = make()
    source, target = padded([5, 7, 2], 1), padded([6, 6, 6], 2)
    with torch.no_grad():
        expected = model(source, target)
    driven = engine(model)
    state = driven.new_state(3, 1, 9, 6)
    driven.admit(state, torch.arange(3), source)
    for position in range(6):
        logits = driven.step(state, target[:, position : position + 1])
        torch.testing.assert_close(logits[:, 0], expected[:, position], atol=1e-4, rtol=1e-5)


@each
def test_beams_follow_their_parents(make: Make) -> None:
    model = make()
    follow_parents(engine(model), model, atol=1e-4)


@each
def test_a_slot_that_is_filled_again_forgets_its_past(make: Make) -> None:
    model = make()
    driven = engine(model)
    state = driven.new_state(3, 2, 7, 6)
    driven.admit(state, torch.arange(3), padded([7, 6, 5], 1))
    for _ in range(3):
        driven.step(state, torch.full((3, 2), 9))
    driven.release(state, torch.tensor([2]))
    driven.step(state, torch.full((3, 2), 9))
    source, target = padded([3], 5), padded([4], 6)
    driven.admit(state, torch.tensor([2]), source)
    with torch.no_grad():
        expected = model(source, target)[0]
    for position in range(2):
        logits = driven.step(state, target[0, position].expand(3, 2))
        torch.testing.assert_close(logits[2], expected[position].expand(2, -1), atol=1e-4, rtol=1e-5)
    driven.shrink(state, torch.tensor([2, 0]))
    for position in range(2, 4):
        logits = driven.step(state, target[0, position].expand(2, 2))
        torch.testing.assert_close(logits[0], expected[position].expand(2, -1), atol=1e-4, rtol=1e-5)


@each
def test_an_idle_slot_goes_on_without_end(make: Make) -> None:
    driven = engine(make())
    state = driven.new_state(2, 1, 3, 25)  # more steps than the models have positions, one slot never filled
    driven.admit(state, torch.arange(1), padded([3], 1))
    for _ in range(25):
        assert driven.step(state, torch.full((2, 1), 9)).isfinite().all()


@pytest.mark.parametrize("make", EACH, ids=["lstm", "ssru", "sru"])
@examples(15)
@given(lengths=st.lists(st.integers(1, 8), min_size=1, max_size=5), more=st.integers(0, 4), seed=st.integers(0, 99))
def test_rows_do_not_depend_on_padding_or_other_rows(make: Make, lengths: list[int], more: int, seed: int) -> None:
    model = make()
    source = functional.pad(padded(lengths, seed), (0, more), value=PAD)
    target = padded([4] * len(lengths), seed)
    with torch.no_grad():
        together = model(source, target)
        for row, length in enumerate(lengths):
            alone = model(source[row : row + 1, :length], target[row : row + 1])
            torch.testing.assert_close(together[row], alone[0], atol=1e-4, rtol=1e-5)


@each
def test_the_decoder_remembers_its_past_and_does_not_see_the_future(make: Make) -> None:
    model = make()
    source, target = padded([4], 1), padded([6], 2)
    changed = target.clone()
    changed[0, 3] = 7 if target[0, 3] != 7 else 8
    with torch.no_grad():
        one, other = model(source, target), model(source, changed)
    torch.testing.assert_close(one[:, :3], other[:, :3])
    assert not torch.isclose(one[:, 5], other[:, 5]).all()


@each
def test_gradients_under_autocast_are_nearly_the_same(make: Make) -> None:
    model = make()
    source, target = padded([5, 7, 2, 6], 1), padded([6, 6, 3, 5], 2)
    weights = torch.randn(30, generator=torch.Generator().manual_seed(0))

    def gradients() -> list[Tensor]:
        model.zero_grad()
        (model(source, target).float() @ weights).sum().backward()
        return [parameter.grad.flatten() for parameter in model.parameters()]

    expected = gradients()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients()
    for one, other in zip(expected, found, strict=True):
        assert (one - other).norm() < 0.3 * one.norm()


@each
def test_weights_of_lower_types_decode(make: Make) -> None:
    exact, low = make(), make().to(torch.bfloat16)
    source, target = padded([5, 7], 1), padded([4, 4], 2)
    driven = engine(low)
    state = driven.new_state(2, 1, 7, 4)
    driven.admit(state, torch.arange(2), source)
    with torch.no_grad():
        expected = exact(source, target)
        forced = low(source, target)
    for position in range(4):
        logits = driven.step(state, target[:, position : position + 1])
        assert logits.dtype == forced.dtype == torch.bfloat16
        for one in (logits[:, 0], forced[:, position]):
            off = one.float() - expected[:, position]
            assert off.norm() < 0.1 * expected[:, position].norm()

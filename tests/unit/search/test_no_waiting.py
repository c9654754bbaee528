"""No step, admission or release of a search makes the host wait for the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from seqkd.search import BeamSettings, SearchModel
from seqkd.search.candidates import top_candidates
from seqkd.search.constraints import Shaper
from seqkd.search.ensemble import Ensemble
from seqkd.search.frontier import Frontier
from seqkd.search.frontier_state import FrontierState
from seqkd.search.plain.lstm import IncrementalLstm
from seqkd.search.plain.sru import IncrementalSru
from seqkd.search.plain.transformer import IncrementalTransformer
from seqkd.search.sampling import Sampler
from tests.device_stub import DEVICE, Device, values
from tests.unit.search.support import EOS, PAD, UNK, padded, tiny_lstm, tiny_model, tiny_sru

Place = Callable[[Any], Any]


def lstm(place: Place, put: Place) -> SearchModel:
    model, on_host = place(tiny_lstm()), tiny_lstm()
    # torch has no autocast for this device, which the encoder turns off.
    model.encode = lambda source: put(on_host.encode(values(source)))
    return IncrementalLstm(model)


def sru(place: Place, put: Place) -> SearchModel:  # noqa: ARG001
    return IncrementalSru(place(tiny_sru(cell="sru")))


def transformer(place: Place, put: Place) -> SearchModel:  # noqa: ARG001
    return IncrementalTransformer(place(tiny_model()))


def ensemble(place: Place, put: Place) -> SearchModel:
    return Ensemble([lstm(place, put), sru(place, put), transformer(place, put)])


def through_a_decode(make: Callable[[Place, Place], SearchModel], place: Place, put: Place) -> list[torch.Tensor]:
    """Return the logits of some steps, with every other call between them."""
    model, draw = make(place, put), torch.Generator().manual_seed(1)
    state = model.new_state(4, 2, 9, 6)
    model.admit(state, torch.arange(4), put(padded([7, 9, 3, 5], 2, vocab=40)))
    logits, slots = [], 4
    for step in range(4):
        logits.append(model.step(state, put(torch.randint(4, 40, (slots, 2), generator=draw))))
        model.reorder(state, put(torch.randint(0, 2, (slots, 2), generator=draw)))
        if step == 0:
            model.release(state, torch.tensor([1, 3]))
            model.admit(state, torch.tensor([3, 1]), put(padded([4, 8], 5, vocab=40)))
        if step == 2:
            model.shrink(state, torch.tensor([3, 0, 1]))
            slots = 3
    return logits


@pytest.mark.parametrize("make", [lstm, sru, transformer, ensemble])
def test_a_model_never_waits_and_computes_the_same(make: Callable[[Place, Place], SearchModel]) -> None:
    with torch.inference_mode():
        expected = through_a_decode(make, lambda model: model, lambda tensor: tensor)
        with Device() as device:
            found = through_a_decode(make, device.move, device.put)
        assert device.waits == []
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(values(one), other)


@pytest.mark.parametrize("options", [{}, {"sampling": True}, {"no_repeat_ngram_size": 2, "temperature": 0.7}], ids=str)
def test_the_step_of_the_search_never_waits(options: dict[str, Any]) -> None:
    settings = BeamSettings(beam=2, **options)
    logits = torch.randn(3, 2, 40, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode(), Device() as device:
        frontier: Frontier | Sampler
        if settings.sampling:
            frontier = Sampler(settings, slots=3, max_target=6, start_id=EOS, eos_id=EOS, device=DEVICE)
        else:
            held = FrontierState.idle(3, 2, 6, DEVICE)
            frontier = Frontier(settings, held, start_id=EOS, eos_id=EOS, pad_id=PAD)
        shaper = Shaper(
            settings, slots=3, max_target=6, longest_prefix=1, eos_id=EOS, pad_id=PAD, unk_id=UNK, device=DEVICE
        )
        slots = device.put(torch.tensor([0, 2]))
        limits = device.put(torch.tensor([4, 5]))
        frontier.admit(slots, minimums=limits - 3, limits=limits, rows=[7, 9])
        shaper.admit(slots, [[5], []])
        for _ in range(3):
            positions = frontier.clock.positions.clone()
            parents = frontier.choose(shaper(device.put(logits), frontier.clock))
            shaper.follow(parents, frontier.last, positions)
        if isinstance(frontier, Frontier):
            frontier.advance(top_candidates(device.put(logits), frontier.count_needed, EOS))
        frontier.collect(slots, 4)
        frontier.shrink(slots)
        assert device.waits == []


def test_the_device_notices_what_makes_a_host_wait() -> None:
    with torch.inference_mode(), Device() as device:
        there = torch.zeros(4, device=DEVICE)
        places = device.put(torch.tensor([1, 2]))
        reasons: list[Callable[[], object]] = [
            lambda: there.sum().item(),
            lambda: bool(there.any()),
            lambda: int(there.max()),
            lambda: there.tolist(),
            lambda: there.cpu(),
            lambda: there[there > 0],
            lambda: there.nonzero(),
            lambda: there.__setitem__(places, 1.0),
            lambda: there.__setitem__([0, 1], 1.0),
            lambda: there.__setitem__(0, 1.0),
            lambda: there[torch.tensor([0])],
            lambda: torch.tensor([1], device=DEVICE),
            lambda: there + torch.ones(4),
        ]
        for number, reason in enumerate(reasons, start=1):
            reason()
            assert len(device.waits) == number, device.waits
        there[1:2] = 2.0
        there.index_fill_(0, places, 3.0)
        there[places] = there[:2] + 1
    assert len(device.waits) == len(reasons)
    assert values(there).tolist() == [1.0, 2.0, 4.0, 0.0]

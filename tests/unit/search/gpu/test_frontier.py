"""The Triton kernel of the search's step against torch's: the same hypotheses live and finish, ties and all."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from seqkd.kernels.decoding import kernels
from seqkd.search.candidates import RowCandidates, top_candidates
from seqkd.search.constraints import NEVER
from seqkd.search.frontier import Frontier
from seqkd.search.frontier_state import FrontierState
from seqkd.search.settings import BeamSettings
from tests.unit.search.gpu.support import DEVICE
from tests.unit.search.support import EOS, PAD

pytest.importorskip("triton")

from seqkd.search.gpu.frontier import advance
from seqkd.search.gpu.kernels import TRITON
from seqkd.search.gpu.operations import PLAIN

# NumPy says of NaN and infinity what a GPU does not.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

SLOTS, LIMIT = 5, 6


def frontier(options: BeamSettings, *, eos: int = EOS) -> Frontier:
    state = FrontierState.idle(SLOTS, options.beam, LIMIT + 1, DEVICE)
    made = Frontier(options, state, start_id=eos, eos_id=eos, pad_id=PAD)
    # The last slot stays idle.
    made.admit(
        torch.arange(SLOTS - 1, device=DEVICE),
        minimums=torch.tensor([0, 1, 2, 3], device=DEVICE),
        limits=torch.tensor([LIMIT, 4, LIMIT, 3], device=DEVICE),
        rows=range(SLOTS - 1),
    )
    return made


def draw(generator: torch.Generator, beam: int, vocab: int, count: int, *, coarse: bool, eos: int) -> RowCandidates:
    logits = torch.randn(SLOTS, beam, vocab, generator=generator) * 2
    if coarse:  # few different values: ties everywhere
        logits = logits.round()
    logits[..., eos] += generator.initial_seed() % 3
    logits[torch.rand(logits.shape, generator=generator) < 0.05] = -math.inf
    candidates = top_candidates(logits.to(DEVICE), count, eos)
    # Sums tie as well, from one step to the next.
    return dataclasses.replace(candidates, lse=candidates.lse.round()) if coarse else candidates


def stepped(one: Frontier, candidates: RowCandidates) -> Tensor:
    parents = torch.full((SLOTS, one.settings.beam), -1, device=DEVICE)
    advance(one, candidates, parents)
    return parents


def same(found: Frontier, expected: Frontier, running: Tensor, parents: Tensor, others: Tensor) -> None:
    for name in ("done", "bad"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert torch.equal(found.count[running], expected.count[running])
    assert torch.equal(found.clock.positions[running], expected.clock.positions[running])
    assert torch.equal(found.live[running], expected.live[running])
    alive = expected.live.gt(NEVER) & running[:, None]
    assert torch.equal(found.last[alive], expected.last[alive])
    assert torch.equal(parents[alive], others[alive])
    # Every token and parent can be read by the next step, whether or not somebody lives there.
    assert parents.ge(0).all()
    assert parents.lt(found.settings.beam).all()
    itself = torch.arange(found.settings.beam, device=DEVICE)
    assert parents[~running].eq(itself).all()


# Each beam with each rule; length penalties and ties take turns.
CASES = [
    (beam, stopping, [0.6, 1.0, -0.5, 0.0][number % 4], number % 3 > 0)
    for number, (beam, stopping) in enumerate(itertools.product([1, 2, 3, 5, 8], ["first", "exact"]))
]


@pytest.mark.parametrize(("beam", "stopping", "penalty", "coarse"), CASES)
def test_steps_equal_torchs(beam: int, stopping: Any, penalty: float, coarse: bool) -> None:
    seed = CASES.index((beam, stopping, penalty, coarse))
    normalization: Any = "gnmt" if seed % 2 else "power"
    options = BeamSettings(
        beam=beam, nbest=beam, length_penalty=penalty, stopping=stopping, normalization=normalization
    )
    generator = torch.Generator().manual_seed(seed)
    vocab, eos = [5, 9, 30][seed % 3], [EOS, 0, 4][seed % 3]
    plain, kernel = frontier(options, eos=eos), frontier(options, eos=eos)
    for step in range(LIMIT + 1):
        count = min(plain.count_needed, vocab)
        candidates = draw(generator, beam, vocab, count, coarse=coarse, eos=eos)
        running = ~plain.done.clone()
        same(kernel, plain, running, stepped(kernel, candidates), plain.advance_in_torch(candidates))
        if step == 2:
            keep = torch.tensor([3, 1, 4, 0, 2], device=DEVICE)
            plain.shrink(keep)
            kernel.shrink(keep)
    assert plain.done.all()
    slots = torch.arange(SLOTS, device=DEVICE)
    slots = slots[slots != 2]
    results = [one.hypotheses([f.cpu() for f in one.collect(slots, LIMIT + 1)]) for one in (kernel, plain)]
    assert results[0] == results[1]


@pytest.mark.parametrize(("beam", "stopping"), [(32, "first"), (64, "exact")])
def test_wide_beams(beam: int, stopping: Any) -> None:
    options = BeamSettings(beam=beam, nbest=beam, stopping=stopping)
    generator = torch.Generator().manual_seed(beam + 1)
    plain, kernel = frontier(options), frontier(options)
    for _ in range(3):
        candidates = draw(generator, beam, 200, plain.count_needed, coarse=True, eos=EOS)
        running = ~plain.done.clone()
        same(kernel, plain, running, stepped(kernel, candidates), plain.advance_in_torch(candidates))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_are_marked_where_somebody_lives(value: float) -> None:
    one = frontier(BeamSettings(beam=2))
    candidates = draw(torch.Generator().manual_seed(0), 2, 9, 6, coarse=False, eos=EOS)
    candidates.lse[1, 0] = value
    candidates.lse[2, 1] = value  # at the first step only the first hypothesis lives
    candidates.lse[4, 0] = value  # nobody is there
    stepped(one, candidates)
    assert one.bad.tolist() == [False, True, False, False, False]


@pytest.mark.skipif(kernels() is None, reason="no C++ compiler here")
def test_steps_equal_those_of_the_cpus_kernel_with_logits_that_are_no_numbers() -> None:
    options = BeamSettings(beam=3, stopping="exact")
    state = FrontierState.of([field.cpu() for field in frontier(options).state.fields()])
    native = Frontier(options, state, start_id=EOS, eos_id=EOS, pad_id=PAD)
    kernel = frontier(options)
    generator = torch.Generator().manual_seed(11)
    for step in range(4):
        candidates = draw(generator, 3, 12, 8, coarse=True, eos=EOS)
        candidates.lse[step, step % 3] = math.nan
        candidates.values[3, :, 4:] = -math.inf
        parents = stepped(kernel, candidates)
        on_host = RowCandidates(
            candidates.lse.cpu(), candidates.values.cpu(), candidates.ids.cpu(), candidates.eos.cpu()
        )
        assert torch.equal(parents.cpu(), native.advance(on_host))
        for field, other in zip(kernel.state.fields(), native.state.fields(), strict=True):
            assert torch.equal(field.cpu(), other)
    assert kernel.bad[:4].any()


def test_a_slot_that_is_done_stays_as_it_is() -> None:
    one = frontier(BeamSettings(beam=3, stopping="exact"))
    generator = torch.Generator().manual_seed(4)
    stepped(one, draw(generator, 3, 9, 8, coarse=False, eos=EOS))
    one.done.fill_(True)
    before = [field.clone() for field in one.state.fields()]
    parents = stepped(one, draw(generator, 3, 9, 8, coarse=False, eos=EOS))
    assert parents.tolist() == [[0, 1, 2]] * SLOTS
    for field, old in zip(one.state.fields(), before, strict=True):
        assert torch.equal(field, old)


def test_both_operations_write_the_parents() -> None:
    options = BeamSettings(beam=4)
    found = []
    for operations in (TRITON, PLAIN):
        one, generator = frontier(options), torch.Generator().manual_seed(9)
        for _ in range(2):
            parents = torch.zeros(SLOTS, 4, dtype=torch.long, device=DEVICE)
            operations.advance(one, draw(generator, 4, 30, 10, coarse=False, eos=EOS), parents)
        found.append(parents[: SLOTS - 1])
    assert torch.equal(*found)

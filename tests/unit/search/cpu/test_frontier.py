"""The kernel's step against torch's: the same hypotheses live and finish, ties and all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqkd.kernels.decoding import kernels
from seqkd.search.candidates import RowCandidates, top_candidates
from seqkd.search.constraints import NEVER
from seqkd.search.frontier import Frontier
from seqkd.search.frontier_state import FrontierState
from seqkd.search.settings import BeamSettings
from tests.properties import examples
from tests.unit.search.support import EOS, PAD

pytestmark = pytest.mark.skipif(kernels() is None, reason="no C++ compiler here: torch takes the steps")

SLOTS, LIMIT = 4, 6


def frontier(options: BeamSettings, *, native: bool) -> Frontier:
    state = FrontierState.idle(SLOTS, options.beam, LIMIT + 1, torch.device("cpu"))
    made = Frontier(options, state, start_id=EOS, eos_id=EOS, pad_id=PAD)
    if not native:
        made._kernels = None
    made.admit(
        torch.arange(SLOTS),
        minimums=torch.tensor([0, 1, 2, 3]),
        limits=torch.tensor([LIMIT, 4, LIMIT, 3]),
        rows=range(SLOTS),
    )
    return made


def candidates(generator: torch.Generator, beam: int, vocab: int, count: int, *, coarse: bool) -> RowCandidates:
    logits = torch.randn(SLOTS, beam, vocab, generator=generator) * 2
    if coarse:  # few different values: ties everywhere
        logits = logits.round()
    return top_candidates(logits, count, EOS)


@examples(60)
@given(
    st.integers(1, 6),
    st.integers(5, 30),
    st.sampled_from(["first", "exact"]),
    st.sampled_from([0.0, 0.6, 1.0, -0.5]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_steps_equal_torchs(beam: int, vocab: int, stopping: str, penalty: float, coarse: bool, seed: int) -> None:
    options = BeamSettings(
        beam=beam,
        nbest=beam,
        length_penalty=penalty,
        stopping="exact" if stopping == "exact" else "first",
        normalization="gnmt" if seed % 2 else "power",
    )
    plain, native = frontier(options, native=False), frontier(options, native=True)
    generator = torch.Generator().manual_seed(seed)
    for step in range(LIMIT + 1):
        found = candidates(generator, beam, vocab, min(plain.count_needed, vocab), coarse=coarse)
        running = ~plain.done.clone()
        parents, other = plain.advance(found), native.advance(found)
        torch.testing.assert_close(native.done, plain.done)
        torch.testing.assert_close(native.count[running], plain.count[running])
        alive = plain.live.gt(NEVER) & running[:, None]
        torch.testing.assert_close(native.live[running], plain.live[running])
        assert torch.equal(native.last[alive], plain.last[alive])
        assert torch.equal(other[alive], parents[alive])
        if step == 2:
            keep = torch.tensor([3, 1, 0, 2])
            plain.shrink(keep)
            native.shrink(keep)
    slots = torch.arange(SLOTS)
    found_by = [frontier.hypotheses(frontier.collect(slots, LIMIT + 1)) for frontier in (native, plain)]
    assert found_by[0] == found_by[1]
    assert plain.done.all()


def test_logits_that_are_no_numbers_are_marked_where_somebody_lives() -> None:
    native = frontier(BeamSettings(beam=2), native=True)
    found = candidates(torch.Generator().manual_seed(0), 2, 9, 6, coarse=False)
    found.lse[1, 0] = float("nan")
    found.lse[2, 1] = float("nan")  # at the first step only the first hypothesis lives
    native.advance(found)
    assert native.bad.tolist() == [False, True, False, False]

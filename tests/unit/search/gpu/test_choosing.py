"""The Triton kernels that choose continuations of any model's logits, against torch: search, and sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from seqkd.search import BeamSearch, BeamSettings, Hypothesis, SearchModel
from seqkd.search.choosing import TORCH, Choosing, choosing_on
from seqkd.search.plain.lstm import IncrementalLstm
from seqkd.search.plain.sru import IncrementalSru
from seqkd.search.plain.transformer import IncrementalTransformer
from seqkd.search.sampling import draw
from tests.unit.search.gpu.support import DEVICE
from tests.unit.search.support import sentences, tiny_lstm, tiny_model, tiny_sru

pytest.importorskip("triton")

from seqkd.search.gpu import sampling
from seqkd.search.gpu.choosing import TRITON

# NumPy says of NaN and infinity what a GPU does not.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def lstm() -> SearchModel:
    return IncrementalLstm(tiny_lstm(end_bias=0.1).to(DEVICE))


def sru() -> SearchModel:
    return IncrementalSru(tiny_sru(end_bias=0.1).to(DEVICE))


def transformer() -> SearchModel:
    return IncrementalTransformer(tiny_model(end_bias=0.1).to(DEVICE))


def decoded(
    models: Sequence[SearchModel], chosen: BeamSettings, choosing: Choosing, *, count: int
) -> dict[int, list[Hypothesis]]:
    return dict(BeamSearch(models, chosen, choosing=choosing).decode(sentences(count, longest=5), batch_tokens=12))


def test_the_kernels_are_used_where_they_run() -> None:
    assert choosing_on(torch.device("cpu")) is TORCH
    assert choosing_on(torch.device("cuda"), runs_on=lambda _: False) is TORCH
    assert choosing_on(torch.device("cuda"), runs_on=lambda _: True) is TRITON


@pytest.mark.parametrize(
    ("models", "settings"),
    [
        ([lstm], {"unk_penalty": 0.5}),
        ([sru, transformer], {"stopping": "exact"}),
    ],
    ids=["lstm", "ensemble"],
)
def test_k_best_lists_of_other_models_equal_those_of_torch(models: list, settings: dict) -> None:  # type: ignore[type-arg]
    chosen = BeamSettings(beam=2, nbest=2, max_length_ratio=1.0, max_length_extra=1, **settings)
    members = [make() for make in models]
    expected, found = (decoded(members, chosen, choosing, count=4) for choosing in (TORCH, TRITON))
    assert found.keys() == expected.keys()
    assert len({len(hypothesis.ids) for hypotheses in expected.values() for hypothesis in hypotheses}) > 2
    for row, hypotheses in expected.items():
        assert [(h.ids, h.ended) for h in found[row]] == [(h.ids, h.ended) for h in hypotheses]
        for one, other in zip(found[row], hypotheses, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-5)


def test_samples_equal_those_of_torch() -> None:
    chosen = BeamSettings(
        beam=2, nbest=2, sampling=True, top_k=8, top_p=0.9, max_length_ratio=0.0, max_length_extra=3, min_length=2
    )
    expected, found = (
        {row: [h.ids for h in hypotheses] for row, hypotheses in decoded([lstm()], chosen, choosing, count=3).items()}
        for choosing in (TORCH, TRITON)
    )
    assert len({tuple(ids) for lists in expected.values() for ids in lists}) > 3
    assert found == expected


def rows_to_draw_from(vocab: int) -> Tensor:
    """Return rows of several shapes: some continuations are equally likely, some ruled out."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(8, vocab, generator=generator) * torch.linspace(0, 4, 8)[:, None]
    logits[1] = (logits[1] * 8).round() / 8
    logits[2, ::3] = -math.inf
    logits[3] = -math.inf
    logits[3, vocab // 2] = -300.0
    logits[4, 0] = 30.0
    logits[5, : vocab // 2] = -math.inf
    return logits


@pytest.mark.parametrize(("count", "mass"), [(0, 1.0), (6, 1.0), (0, 0.71), (12, 0.83), (90, 1e-9)])
def test_draws_equal_those_of_the_reference(count: int, mass: float) -> None:
    logprobs = rows_to_draw_from(30).log_softmax(-1)
    numbers = torch.tensor([0.31, 0.998], dtype=torch.double)[None].expand(len(logprobs), -1)
    every = logprobs[:, None].expand(-1, numbers.size(1), -1)
    expected = draw(every, numbers, count=count, mass=mass)
    assert len(set(expected.flatten().tolist())) > 3
    found = sampling.draw(every.to(DEVICE), numbers.to(DEVICE), count=count, mass=mass, chunk=16)
    assert found.cpu().equal(expected)


def test_draws_cover_the_ends_of_the_unit_interval() -> None:
    logprobs = torch.tensor([-math.inf, 0.0, 0.0, -math.inf]).expand(2, -1).to(DEVICE)
    numbers = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.double, device=DEVICE)
    assert sampling.draw(logprobs, numbers, count=0, mass=1.0).tolist() == [1, 2]
    assert sampling.draw(logprobs, numbers, count=1, mass=0.5).tolist() == [1, 1]


def test_rows_that_are_not_finite_draw_some_id() -> None:
    logprobs = torch.stack((torch.full((20,), math.nan), torch.full((20,), -math.inf)))[:, None].to(DEVICE)
    numbers = torch.full((2, 1), 0.5, dtype=torch.double, device=DEVICE)
    for count, mass in ((0, 1.0), (5, 0.5)):
        found = sampling.draw(logprobs, numbers, count=count, mass=mass)
        assert found.ge(0).all()
        assert found.lt(20).all()

"""Sampling: right frequencies, right support, and the same draw wherever a row is decoded."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from seqkd.search import BeamSettings, score_pairs
from seqkd.search.sampling import draw, drop_unlikely, mix_bits, stream_keys, uniform
from tests.unit.search.support import EOS, PAD, decode, engine, lists, sentences, tiny_model


def chi_square(counts: Tensor, shares: Tensor) -> tuple[float, float]:
    """The statistic, and a bound that it passes by chance once in a million times (Wilson and Hilferty 1931)."""
    assert int(counts[shares.eq(0)].sum()) == 0
    counts, shares = counts[shares.gt(0)].double(), shares[shares.gt(0)].double()
    expected = shares * counts.sum()
    rare = expected.lt(5)
    if bool(rare.any()):
        counts = torch.cat((counts[~rare], counts[rare].sum()[None]))
        expected = torch.cat((expected[~rare], expected[rare].sum()[None]))
    freedom = len(counts) - 1
    spread = 2 / (9 * freedom)
    return float(((counts - expected) ** 2 / expected).sum()), freedom * (1 - spread + 4.75 * math.sqrt(spread)) ** 3


def numbers(count: int, seed: int = 1) -> Tensor:
    return uniform(stream_keys(seed, range(count), 1, torch.device("cpu")), torch.zeros(count, dtype=torch.long))[:, 0]


def test_the_mixer_is_splitmix64() -> None:
    golden = 0x9E3779B97F4A7C15 - 2**64
    found = mix_bits(torch.tensor([1, 2, 3]) * golden)  # its first outputs for the state 0
    assert [value % 2**64 for value in found.tolist()] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


def test_numbers_are_uniform_over_rows_samples_and_positions() -> None:
    keys = stream_keys(7, range(100), 8, torch.device("cpu"))
    assert len(set(keys.flatten().tolist())) == 800
    found = torch.stack([uniform(keys, torch.full((100,), position)) for position in range(25)])
    assert float(found.min()) >= 0.0
    assert float(found.max()) < 1.0
    assert len(set(found.flatten().tolist())) == found.numel()
    statistic, bound = chi_square(torch.histc(found.float(), 64, 0, 1), torch.full((64,), 1 / 64))
    assert statistic < bound
    # Neighbours in any direction are independent: pairs fill the square evenly.
    for one, other in ((found[:-1], found[1:]), (found[:, :-1], found[:, 1:]), (found[..., :-1], found[..., 1:])):
        cells = (one * 8).long() * 8 + (other * 8).long()
        statistic, bound = chi_square(torch.bincount(cells.flatten(), minlength=64), torch.full((64,), 1 / 64))
        assert statistic < bound


@pytest.mark.parametrize(("count", "mass"), [(0, 1.0), (6, 1.0), (0, 0.7), (12, 0.8), (1, 1.0), (0, 1e-9)])
def test_draws_follow_the_truncated_distribution(count: int, mass: float) -> None:
    torch.manual_seed(2)
    logits = torch.randn(30) * 1.5
    logits[[4, 9]] = -math.inf
    found = draw(logits.expand(20_000, -1), numbers(20_000), count=count, mass=mass)
    shares = logits.double().softmax(0)
    ranked = shares.argsort(descending=True)
    if count:
        shares[ranked[count:]] = 0.0
    shares /= shares.sum()
    if mass < 1.0:
        kept = int((shares[ranked].cumsum(0) < mass).sum()) + 1
        shares[ranked[kept:]] = 0.0
    shares /= shares.sum()
    counts = torch.bincount(found, minlength=30)
    assert counts.gt(0).equal(shares.gt(0))
    if int(shares.gt(0).sum()) > 1:
        statistic, bound = chi_square(counts, shares)
        assert statistic < bound


@pytest.mark.parametrize("count", [0, 300])
def test_flat_and_peaked_rows_are_cut_at_the_same_mass(count: int) -> None:
    logits = torch.zeros(2, 1000)
    logits[1, 700] = 20.0
    found = draw(logits[:, None].expand(-1, 5000, -1), numbers(5000).expand(2, -1), count=count, mass=0.5)
    assert set(found[0].tolist()) == set(range(150 if count else 500))  # equally likely: the lower ids come first
    assert set(found[1].tolist()) == {700}


def test_draws_cover_the_ends_of_the_unit_interval() -> None:
    logits = torch.tensor([-math.inf, 0.0, 0.0, -math.inf]).expand(2, -1)
    assert draw(logits, torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.double), count=0, mass=1.0).tolist() == [1, 2]


def test_rounding_that_swaps_two_pieces_changes_no_draw() -> None:
    torch.manual_seed(1)
    one = torch.zeros(500, 8) + 1e-7 * torch.randn(500, 8)
    other = torch.zeros(500, 8) + 1e-7 * torch.randn(500, 8)
    for mass in (1.0, 0.999_999):
        assert draw(one, numbers(500), count=0, mass=mass).equal(draw(other, numbers(500), count=0, mass=mass))


def test_sampled_tokens_have_the_models_probabilities() -> None:
    plain = tiny_model(seed=4)
    source: list[int] = [5, 9, 11]
    chosen = BeamSettings(
        beam=50, nbest=50, sampling=True, max_length_ratio=0.0, max_length_extra=2, min_length=2, temperature=1.5
    )
    found = decode(engine(plain), chosen, [(row, source) for row in range(60)], budget=240)
    texts = [tuple(h.ids) for hypotheses in found.values() for h in hypotheses]
    assert {len(text) for text in texts} == {2}

    def shares(*before: int) -> Tensor:
        logits: Tensor = plain(torch.tensor([[*source, EOS]]), torch.tensor([[EOS, *before]]))[0, -1].detach() / 1.5
        logits[[PAD, EOS]] = -math.inf
        return logits.softmax(0)

    statistic, bound = chi_square(torch.bincount(torch.tensor([text[0] for text in texts]), minlength=40), shares())
    assert statistic < bound
    first = Counter(text[0] for text in texts).most_common(1)[0][0]
    second = torch.tensor([text[1] for text in texts if text[0] == first])
    statistic, bound = chi_square(torch.bincount(second, minlength=40), shares(first))
    assert statistic < bound


def test_unlikely_continuations_are_excluded_but_never_the_likeliest() -> None:
    shares = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.25, 0.25, 0.26, 0.24], [0.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    logprobs = shares.log()
    kept = {0.0: [4, 4, 4], 0.04: [4, 4, 1], 0.1: [3, 4, 1], 0.255: [2, 1, 1], 0.9: [1, 1, 1]}
    for epsilon, counts in kept.items():
        found = drop_unlikely(logprobs, epsilon)
        if epsilon:
            assert found.isfinite().sum(dim=-1).tolist() == counts
        assert torch.equal(found[found.isfinite()], logprobs[found.isfinite()])
        assert torch.equal(found.argmax(dim=-1), logprobs.argmax(dim=-1))


def test_the_score_is_that_of_the_model_whatever_is_cut_off() -> None:
    plain = tiny_model(end_bias=0.1)
    rows = dict(sentences(6))
    chosen = BeamSettings(beam=6, nbest=3, sampling=True, top_k=8, top_p=0.9, epsilon=0.01)
    found = decode(engine(plain), chosen, list(rows.items()))
    for row, hypotheses in found.items():
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        pairs = [(rows[row], h.ids) for h in hypotheses]
        for hypothesis, score in zip(hypotheses, score_pairs([plain], pairs, batch_tokens=400), strict=True):
            assert hypothesis.logprob == pytest.approx(score.logprob, abs=1e-4)
            assert hypothesis.score == pytest.approx(score.logprob / score.tokens, abs=1e-4)


@pytest.mark.parametrize(
    "narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-3}, {"epsilon": 0.999999}], ids=str
)
def test_the_narrowest_sampling_is_greedy(narrow: dict[str, float]) -> None:
    model = engine(tiny_model(end_bias=0.1))
    rows = sentences(6)
    greedy = lists(decode(model, BeamSettings(beam=1), rows))
    chosen = BeamSettings(beam=2, nbest=2, sampling=True, **narrow)  # type: ignore[arg-type]
    assert lists(decode(model, chosen, rows)) == {row: [best, best] for row, [best] in greedy.items()}


def test_a_sample_is_decided_by_seed_row_and_its_number() -> None:
    model = engine(tiny_model(end_bias=0.1))
    source = [8, 4, 30, 12]

    def texts(seed: int, row: int, beam: int = 4) -> list[list[int]]:
        chosen = BeamSettings(beam=beam, nbest=beam, sampling=True, seed=seed)
        return sorted(lists(decode(model, chosen, [(row, source)]))[row])

    assert texts(1, 5) == texts(1, 5)
    assert texts(1, 5) != texts(2, 5)
    assert texts(1, 5) != texts(1, 6)
    assert len({tuple(text) for text in texts(1, 5)}) > 1
    fewer, more = texts(1, 5, beam=2), texts(1, 5, beam=4)
    assert all(text in more for text in fewer)


def test_lengths_and_endings_of_samples() -> None:
    chosen = BeamSettings(beam=4, nbest=4, sampling=True, max_length_ratio=1.0, max_length_extra=2, min_length=2)
    rows = dict(sentences(20))
    found = decode(engine(tiny_model(end_bias=0.1)), chosen, list(rows.items()))
    endings = set()
    for row, hypotheses in found.items():
        for hypothesis in hypotheses:
            assert 2 <= len(hypothesis.ids) <= len(rows[row]) + 2
            assert PAD not in hypothesis.ids
            assert EOS not in hypothesis.ids
            assert (hypothesis.ended == "max_length") == (len(hypothesis.ids) == len(rows[row]) + 2)
            endings.add(hypothesis.ended)
    assert endings == {"eos", "max_length"}

"""Behaviour of the search: what it returns, whatever its batches."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqkd.errors import ModelError, WorkError
from seqkd.search import BeamSearch, BeamSettings, Hypothesis, score_pairs
from seqkd.search.choosing import TORCH
from tests.properties import examples
from tests.unit.search.support import EOS, PAD, Broken, Small, decode, engine, exhaustive, lists, sentences, tiny_model


@pytest.mark.parametrize("normalization", ["power", "gnmt"])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, -0.5])
def test_exact_search_with_a_wide_beam_finds_what_exhaustion_finds(normalization: Any, alpha: float) -> None:
    model = tiny_model(vocab=7, seed=3, end_bias=0.3)
    chosen = BeamSettings(
        beam=64,
        nbest=5,
        length_penalty=alpha,
        normalization=normalization,
        stopping="exact",
        max_length_ratio=0.0,
        max_length_extra=3,
    )
    # 4 continuing pieces (3 unusable ones aside) and 3 positions: 4 + 16 + 64 prefixes, which the beam holds
    for row, source in sentences(6, vocab=7, longest=4):
        found = decode(engine(model), chosen, [(row, source)])[row]
        best = exhaustive(model, source, chosen)[:5]
        assert [tuple(h.ids) for h in found] == [target for _, _, target in best]
        for hypothesis, (score, logprob, _) in zip(found, best, strict=True):
            assert hypothesis.score == pytest.approx(score, abs=1e-5)
            assert hypothesis.logprob == pytest.approx(logprob, abs=1e-5)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_batched_equals_single(norm: str) -> None:
    model = engine(tiny_model(norm=norm, end_bias=0.1))
    rows = sentences(40)
    chosen = BeamSettings(beam=4, nbest=4)
    together = decode(model, chosen, rows)
    assert set(together) == {row for row, _ in rows}
    for row, source in rows:
        alone = decode(model, chosen, [(row, source)])[row]
        assert [h.ids for h in together[row]] == [h.ids for h in alone]
        for one, other in zip(together[row], alone, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-5)
            assert one.ended == other.ended


@examples(25)
@given(budget=st.integers(1, 300), order=st.randoms(use_true_random=False), beam=st.integers(1, 6))
def test_order_and_token_budget_do_not_matter(budget: int, order: random.Random, beam: int) -> None:
    model = engine(tiny_model(end_bias=0.1))
    rows = sentences(17)
    chosen = BeamSettings(beam=beam, nbest=beam)
    expected = lists(decode(model, chosen, rows, budget=100))
    order.shuffle(rows)
    assert lists(decode(model, chosen, rows, budget=budget)) == expected


def test_beam_one_is_greedy() -> None:
    plain = tiny_model(end_bias=0.1)
    chosen = BeamSettings(beam=1, min_length=0)
    for row, source in sentences(20):
        found = decode(engine(plain), chosen, [(row, source)])[row][0]
        greedy: list[int] = []
        limit = chosen.max_length(len(source), plain.max_positions)
        while len(greedy) < limit:
            logits = plain(torch.tensor([[*source, EOS]]), torch.tensor([[EOS, *greedy]]))[0, -1]
            logits[PAD] = -math.inf
            best = int(logits.argmax())
            if best == EOS:
                break
            greedy.append(best)
        assert found.ids == greedy
        assert found.ended == ("max_length" if len(greedy) == limit else "eos")


def test_the_scorer_agrees_with_the_search() -> None:
    plain = tiny_model(end_bias=0.1)
    rows = dict(sentences(30))
    found = decode(engine(plain), BeamSettings(beam=5, nbest=5, length_penalty=0.7), list(rows.items()))
    pairs = [(rows[row], h.ids) for row, hypotheses in found.items() for h in hypotheses]
    searched = [h for hypotheses in found.values() for h in hypotheses]
    for hypothesis, score in zip(searched, score_pairs([plain], pairs, batch_tokens=200), strict=True):
        assert hypothesis.logprob == pytest.approx(score.logprob, abs=1e-4)
        assert hypothesis.score == pytest.approx(score.logprob / score.tokens**0.7, abs=1e-4)


def test_hypotheses_are_distinct_and_sorted() -> None:
    found = decode(engine(tiny_model(end_bias=0.1)), BeamSettings(beam=6, nbest=6), sentences(30))
    for hypotheses in found.values():
        assert len({tuple(h.ids) for h in hypotheses}) == len(hypotheses) == 6
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)


def test_lengths_stay_within_their_limits() -> None:
    chosen = BeamSettings(beam=3, nbest=3, max_length_ratio=1.5, max_length_extra=1, min_length=3)
    rows = sentences(30)
    for model in (tiny_model(), tiny_model(end_bias=0.5)):
        found = decode(engine(model), chosen, rows)
        for row, source in rows:
            limit = int(1.5 * len(source)) + 1
            for hypothesis in found[row]:
                assert min(3, limit) <= len(hypothesis.ids) <= limit
                assert hypothesis.ended == "eos" or len(hypothesis.ids) == limit


def test_ensemble_of_one_model_twice_is_that_model_and_two_models_average() -> None:
    one, two = tiny_model(seed=1, end_bias=0.1), tiny_model(seed=2, end_bias=0.1)
    rows = sentences(10)
    chosen = BeamSettings(beam=4, nbest=4)
    alone = decode(engine(one), chosen, rows)
    twice = dict(BeamSearch([engine(one), engine(one)], chosen).decode(rows, batch_tokens=60))
    assert lists(alone) == lists(twice)
    both = dict(BeamSearch([engine(one), engine(two)], chosen).decode(rows, batch_tokens=60))
    for row, source in rows:
        for hypothesis in both[row]:
            target_in, target_out = torch.tensor([[EOS, *hypothesis.ids]]), [*hypothesis.ids, EOS]
            members = [m(torch.tensor([[*source, EOS]]), target_in)[0].softmax(-1) for m in (one, two)]
            mean = (members[0] + members[1]) / 2
            logprob = sum(math.log(float(mean[position, piece])) for position, piece in enumerate(target_out))
            assert hypothesis.logprob == pytest.approx(logprob, abs=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"sampling": True}, {"diverse_groups": 2}, {"no_repeat_ngram_size": 2}], ids=str
)
def test_temperature_is_applied_to_each_member_before_the_mean(options: dict[str, Any]) -> None:
    one, two = tiny_model(seed=0, end_bias=0.1), tiny_model(seed=1, end_bias=0.1)
    rows, temperature = sentences(8), 1.7
    chosen = BeamSettings(beam=4, nbest=4, temperature=temperature, diverse_strength=0.0, **options)
    found = dict(BeamSearch([engine(one), engine(two)], chosen).decode(rows, batch_tokens=60))
    for row, source in rows:
        for hypothesis in found[row]:
            target_in, target_out = torch.tensor([[EOS, *hypothesis.ids]]), [*hypothesis.ids, EOS]
            logits = [model(torch.tensor([[*source, EOS]]), target_in)[0] for model in (one, two)]
            mean = torch.stack([(member / temperature).softmax(-1) for member in logits]).mean(0)
            logprob = sum(math.log(float(mean[position, piece])) for position, piece in enumerate(target_out))
            assert hypothesis.logprob == pytest.approx(logprob, abs=1e-4)


def test_a_tempered_ensemble_stays_tempered_when_it_is_retried_in_float32() -> None:
    chosen = BeamSettings(beam=3, nbest=3, temperature=2.0)
    sound = [engine(tiny_model(seed=seed, end_bias=0.1)) for seed in (0, 1)]
    rows = [(1001, [5, 39]), (1002, [39, 6, 7])]
    search = BeamSearch([Broken(math.nan), sound[1]], chosen, fallback=lambda: sound)
    found = dict(search.decode(rows, batch_tokens=60))
    assert search.retried == [1001, 1002]
    assert lists(found) == lists(dict(BeamSearch(sound, chosen).decode(rows, batch_tokens=60)))


def test_an_ensemble_of_other_vocabularies_is_refused() -> None:
    with pytest.raises(ModelError, match="other target ids"):
        BeamSearch([engine(tiny_model(vocab=40)), engine(tiny_model(vocab=41))], BeamSettings())


def test_odd_sources_lose_no_row() -> None:
    search = BeamSearch([engine(tiny_model(end_bias=0.1))], BeamSettings(beam=2, nbest=2))
    rows = [(5, []), (1, [3, 3, 3]), (9, [4]), (2, list(range(4, 40)) * 3)]
    found = dict(search.decode(rows, batch_tokens=50))
    assert set(found) == {5, 1, 9, 2}
    assert found[5] == [Hypothesis([], 0.0, 0.0, "eos")]
    assert search.too_long == [2]
    assert found[2] == []
    assert len(found[1]) == len(found[9]) == 2


@pytest.mark.parametrize("room", [63, 64, 65])
def test_a_source_is_decoded_whole_or_not_at_all(room: int) -> None:
    search = BeamSearch([engine(tiny_model(end_bias=0.1))], BeamSettings(beam=2, nbest=2))
    assert search.model.max_positions == 64  # end of sentence counted
    ((row, found),) = search.decode([(7, [5] * (room - 1))], batch_tokens=50)
    assert (row, bool(found), search.too_long) == (7, room <= 64, [7] if room > 64 else [])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_bad_logits_name_their_rows_or_are_retried_in_float32(value: float) -> None:
    rows = [(row, source) for row, source in sentences(20) if 39 not in source]
    rows += [(1001, [5, 39]), (1002, [39, 6, 7])]
    chosen = BeamSettings(beam=3, nbest=3)
    with pytest.raises(WorkError, match="1001, 1002"):
        list(BeamSearch([Broken(value)], chosen).decode(rows, batch_tokens=60))
    sound = engine(tiny_model(end_bias=0.1))
    search = BeamSearch([Broken(value)], chosen, fallback=lambda: [sound])
    found = dict(search.decode(rows, batch_tokens=60))
    assert search.retried == [1001, 1002]
    assert lists(found) == lists(decode(sound, chosen, rows))


@pytest.mark.parametrize("late", [True, False])
def test_a_batch_that_does_not_fit_is_split_and_nothing_is_lost(late: bool, capsys: pytest.CaptureFixture[str]) -> None:
    rows = sentences(40)
    chosen = BeamSettings(beam=3, nbest=3)
    small = Small(4, late=late)
    found = dict(BeamSearch([small], chosen).decode(rows, batch_tokens=100))
    assert small.refused >= 1
    assert "out of memory" in capsys.readouterr().err
    assert lists(found) == lists(decode(engine(tiny_model(end_bias=0.1)), chosen, rows))


@pytest.mark.parametrize(("device", "slots"), [("cpu", 1000), ("cuda", 32)])
def test_on_cuda_a_batch_is_bounded_by_its_logits(device: str, slots: int) -> None:
    class Seen(Exception):  # noqa: N818
        pass

    class Wide(Small):
        def new_state(self, slots: int, beam: int, max_source: int, max_target: int) -> Any:  # noqa: ARG002
            raise Seen(slots)

    model = Wide(0, late=False)
    model.device, model.target_vocab = torch.device(device), 2_000_000
    search = BeamSearch([model], BeamSettings(), choosing=TORCH)  # there need be no CUDA device
    with pytest.raises(Seen, match=f"^{slots}$"):
        list(search.decode([(row, [4]) for row in range(1000)], batch_tokens=65_536))


def test_one_sentence_that_does_not_fit_is_an_error_naming_it() -> None:
    with pytest.raises(WorkError, match="row 35"):
        list(BeamSearch([Small(0, late=False)], BeamSettings()).decode([(35, [4, 5])], batch_tokens=100))


@pytest.mark.parametrize(
    "wrong", [{"beam": 0}, {"beam": 65}, {"beam": 3, "nbest": 4}, {"max_length_extra": 0}, {"min_length": -1}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(reversed(wrong))):
        BeamSettings(**wrong)  # type: ignore[arg-type]

"""Search with recurrent models: the same behaviour as with a Transformer."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seqkd.models.lstm import Lstm
from seqkd.search import BeamSearch, BeamSettings, SearchModel, score_pairs
from seqkd.search.plain.lstm import IncrementalLstm
from seqkd.search.plain.sru import IncrementalSru
from tests.properties import examples
from tests.unit.search.support import decode, engine, exhaustive, lists, sentences, tiny_lstm, tiny_model, tiny_sru

Make = Callable[..., Any]
each = pytest.mark.parametrize(
    "make", [tiny_lstm, tiny_sru, lambda **more: tiny_sru(cell="sru", **more)], ids=["lstm", "ssru", "sru"]
)


def drive(model: Any) -> SearchModel:
    return IncrementalLstm(model) if isinstance(model, Lstm) else IncrementalSru(model)


@each
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_exact_search_with_a_wide_beam_finds_what_exhaustion_finds(make: Make, alpha: float) -> None:
    model = make(vocab=7, seed=3, end_bias=0.3)
    chosen = BeamSettings(
        beam=64, nbest=5, length_penalty=alpha, stopping="exact", max_length_ratio=0.0, max_length_extra=3
    )
    for row, source in sentences(4, vocab=7, longest=4):
        found = decode(drive(model), chosen, [(row, source)])[row]
        best = exhaustive(model, source, chosen)[:5]
        assert [tuple(h.ids) for h in found] == [target for _, _, target in best]
        for hypothesis, (score, logprob, _) in zip(found, best, strict=True):
            assert hypothesis.score == pytest.approx(score, abs=1e-5)
            assert hypothesis.logprob == pytest.approx(logprob, abs=1e-5)


@each
def test_batched_equals_single_and_the_scorer_agrees(make: Make) -> None:
    model = make(end_bias=0.1)
    rows = dict(sentences(30))
    chosen = BeamSettings(beam=4, nbest=4, length_penalty=0.7)
    together = decode(drive(model), chosen, list(rows.items()))
    lengths = {len(hypothesis.ids) for hypotheses in together.values() for hypothesis in hypotheses}
    assert len(lengths) > 3  # sentences end at their own times, so that slots are released and filled again
    for row, source in rows.items():
        alone = decode(drive(model), chosen, [(row, source)])[row]
        assert [h.ids for h in together[row]] == [h.ids for h in alone]
        for one, other in zip(together[row], alone, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-5)
            assert one.ended == other.ended
    pairs = [(rows[row], h.ids) for row, hypotheses in together.items() for h in hypotheses]
    searched = [h for hypotheses in together.values() for h in hypotheses]
    for hypothesis, score in zip(searched, score_pairs([model], pairs, batch_tokens=200), strict=True):
        assert hypothesis.logprob == pytest.approx(score.logprob, abs=1e-4)
        assert hypothesis.score == pytest.approx(score.logprob / score.tokens**0.7, abs=1e-4)


@each
@examples(12)
@given(budget=st.integers(1, 300), order=st.randoms(use_true_random=False), beam=st.integers(1, 5))
def test_order_and_token_budget_do_not_matter(make: Make, budget: int, order: random.Random, beam: int) -> None:
    model = drive(make(end_bias=0.1))
    rows = sentences(17)
    chosen = BeamSettings(beam=beam, nbest=beam)
    expected = lists(decode(model, chosen, rows, budget=100))
    order.shuffle(rows)
    assert lists(decode(model, chosen, rows, budget=budget)) == expected


def test_an_ensemble_of_architectures() -> None:
    lstm, transformer, sru = tiny_lstm(end_bias=0.1), tiny_model(end_bias=0.1), tiny_sru(end_bias=0.1)
    rows = dict(sentences(8))
    engines = [drive(lstm), engine(transformer), drive(sru)]
    found = dict(BeamSearch(engines, BeamSettings(beam=3, nbest=3)).decode(rows.items(), batch_tokens=60))
    pairs = [(rows[row], h.ids) for row, hypotheses in found.items() for h in hypotheses]
    scores = score_pairs([lstm, transformer, sru], pairs, batch_tokens=200)
    searched = [h for hypotheses in found.values() for h in hypotheses]
    for hypothesis, score in zip(searched, scores, strict=True):
        assert hypothesis.logprob == pytest.approx(score.logprob, abs=1e-4)


class Recorded:
    """Drives a model, and keeps the logits of each step and the types of the state's tensors."""

    def __init__(self, model: Any) -> None:
        self.inner: Any = drive(model)
        self.target_vocab, self.max_positions = self.inner.target_vocab, self.inner.max_positions
        self.pad_id, self.eos_id, self.unk_id = self.inner.pad_id, self.inner.eos_id, self.inner.unk_id
        self.start_id, self.device = self.inner.start_id, self.inner.device
        self.new_state, self.admit, self.reorder = self.inner.new_state, self.inner.admit, self.inner.reorder
        self.release, self.shrink = self.inner.release, self.inner.shrink
        self.logits: list[Tensor] = []
        self.carried: set[torch.dtype] = set()

    def step(self, state: Any, tokens: Tensor) -> Tensor:
        logits: Tensor = self.inner.step(state, tokens)
        self.logits.append(logits.clone())
        self.carried.add((state.carried if hasattr(state, "carried") else state.cells).dtype)
        return logits


@each
def test_lower_types_keep_their_sums_in_float32(make: Make) -> None:
    model = make(end_bias=0.1).to(torch.bfloat16)
    for row, source in sentences(10):
        recorded = Recorded(model)
        (found,) = decode(recorded, BeamSettings(beam=1, nbest=1), [(row, source)])[row]
        assert recorded.carried == {torch.float32}
        assert {logits.dtype for logits in recorded.logits} == {torch.bfloat16}
        # The exact sum over the logits that the search was given; summed in bfloat16 it is off by a hundredth and more.
        steps = [logits[0, 0].double().log_softmax(-1) for logits in recorded.logits]
        expected = sum(float(step[token]) for step, token in zip(steps, [*found.ids, model.eos_id], strict=True))
        assert found.logprob == pytest.approx(expected, abs=1e-4)

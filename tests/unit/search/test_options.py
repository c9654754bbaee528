"""The options of beam search: what each does to the result, and that batches never do anything."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seqkd.errors import InputError, WorkError
from seqkd.search import BeamSearch, BeamSettings, Hypothesis, score_pairs
from seqkd.search.cpu.engine import NativeModel
from seqkd.search.cpu.weights import usable
from tests.properties import examples
from tests.unit.search.support import (
    EOS,
    PAD,
    UNK,
    Broken,
    Small,
    decode,
    engine,
    exhaustive,
    lists,
    sentences,
    tiny_model,
)


def holds_twice(ids: list[int], size: int) -> bool:
    grams = [tuple(ids[start : start + size]) for start in range(len(ids) - size + 1)]
    return len(grams) > len(set(grams))


# A beam of 64 holds all prefixes of the three positions that are left, so that the search has to find the best.
WIDE: dict[str, Any] = {"beam": 64, "nbest": 5, "stopping": "exact", "max_length_ratio": 0.0, "max_length_extra": 3}


@pytest.mark.parametrize(
    "options",
    [
        {"unk_penalty": 0.7},
        {"unk_penalty": 100.0},
        {"min_length_ratio": 0.6},
        {"min_length_ratio": 0.5, "min_length": 2, "unk_penalty": 0.3},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2, "unk_penalty": 0.2},
    ],
    ids=str,
)
def test_options_keep_the_search_exact(options: dict[str, Any]) -> None:
    model = tiny_model(vocab=7, seed=3, end_bias=0.3)
    chosen = BeamSettings(**WIDE, **options)
    size = chosen.no_repeat_ngram_size
    for row, source in [(1, [4]), (2, [5, 3, 6]), (3, [6, 6, 4, 5, 3])]:
        found = decode(engine(model), chosen, [(row, source)])[row]
        allowed = [h for h in exhaustive(model, source, chosen) if not (size and holds_twice(list(h[2]), size))]
        assert [tuple(h.ids) for h in found] == [target for _, _, target in allowed[:5]]
        for hypothesis, (score, logprob, _) in zip(found, allowed[:5], strict=True):
            assert hypothesis.score == pytest.approx(score, abs=1e-5)
            assert hypothesis.logprob == pytest.approx(logprob, abs=1e-5)


def test_the_unknown_piece_gives_way_to_its_penalty() -> None:
    plain = tiny_model(end_bias=0.1)
    with torch.no_grad():
        plain.output_weight[UNK] = plain.output_weight[EOS] + 0.2  # likelier than the end of sentence
    model = engine(plain)
    rows = sentences(10)

    def unknown(penalty: float) -> int:
        found = decode(model, BeamSettings(beam=4, nbest=4, unk_penalty=penalty), rows)
        return sum(h.ids.count(UNK) for hypotheses in found.values() for h in hypotheses)

    assert unknown(0.0) > unknown(1.0) > unknown(100.0) == 0


def test_temperature_divides_the_logits() -> None:
    plain = tiny_model(end_bias=0.1)
    rows = dict(sentences(8))
    found = decode(engine(plain), BeamSettings(beam=3, nbest=3, temperature=1.7), list(rows.items()))
    greedy = BeamSettings(temperature=0.3, beam=1)
    assert lists(decode(engine(plain), greedy, list(rows.items()))) == lists(
        decode(engine(plain), BeamSettings(beam=1), list(rows.items()))
    )
    for row, hypotheses in found.items():
        for hypothesis in hypotheses:
            logits = plain(torch.tensor([[*rows[row], EOS]]), torch.tensor([[EOS, *hypothesis.ids]]))[0].detach()
            steps = (logits / 1.7).log_softmax(dim=-1)
            logprob = sum(float(steps[place, token]) for place, token in enumerate([*hypothesis.ids, EOS]))
            assert hypothesis.logprob == pytest.approx(logprob, abs=1e-4)


def test_a_forced_prefix_is_kept_and_counted() -> None:
    plain = tiny_model(end_bias=0.1)
    rows = dict(sentences(12))
    prefixes = {row: [5, UNK, 30][: index % 4] for index, row in enumerate(rows)}
    chosen = BeamSettings(beam=4, nbest=4)
    found = decode(engine(plain), chosen, list(rows.items()), prefix=prefixes)
    free = decode(engine(plain), chosen, list(rows.items()))
    for row, hypotheses in found.items():
        prefix = prefixes[row]
        assert [h.ids[: len(prefix)] for h in hypotheses] == [prefix] * 4
        assert len({tuple(h.ids) for h in hypotheses}) == 4
        pairs = [(rows[row], h.ids) for h in hypotheses]
        for hypothesis, score in zip(hypotheses, score_pairs([plain], pairs, batch_tokens=400), strict=True):
            assert hypothesis.logprob == pytest.approx(score.logprob, abs=1e-4)
            assert hypothesis.score == pytest.approx(score.logprob / score.tokens, abs=1e-4)
        if not prefix:
            assert [h.ids for h in hypotheses] == [h.ids for h in free[row]]
    everywhere = decode(engine(plain), chosen, list(rows.items()), prefix=[5, UNK])
    for row in rows:
        if len(prefixes[row]) == 2:
            assert [h.ids for h in everywhere[row]] == [h.ids for h in found[row]]


def test_search_behind_a_prefix_is_exact() -> None:
    model = tiny_model(vocab=7, seed=3, end_bias=0.3)
    chosen = BeamSettings(**WIDE)
    found = decode(engine(model), chosen, [(1, [4, 5])], prefix=[6])[1]
    allowed = [target for _, _, target in exhaustive(model, [4, 5], chosen) if target[:1] == (6,)]
    assert [tuple(h.ids) for h in found] == allowed[:5]


def test_a_prefix_goes_before_lengths_and_repetitions() -> None:
    rows = [(1, [4, 5]), (2, [6])]
    prefix = [8, 9, 8, 9, 8, 9]
    chosen = BeamSettings(beam=3, max_length_ratio=0.0, max_length_extra=2, no_repeat_ngram_size=2)
    for hypotheses in decode(engine(tiny_model()), chosen, rows, prefix=prefix).values():
        assert [(h.ids, h.ended) for h in hypotheses] == [(prefix, "max_length")]


@pytest.mark.parametrize("prefix", [[5, PAD], [EOS], [40], [-1], [5] * 64])
def test_a_prefix_that_cannot_be_is_refused(prefix: list[int]) -> None:
    with pytest.raises(InputError, match="row 7: the prefix"):
        decode(engine(tiny_model()), BeamSettings(), [(3, [4]), (7, [5, 6])], prefix={7: prefix})


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_comes_twice(size: int) -> None:
    model = engine(tiny_model(seed=1))
    chosen = BeamSettings(beam=4, nbest=4, max_length_ratio=1.0, max_length_extra=20)
    rows = sentences(12)
    plain = decode(model, chosen, rows)
    assert any(holds_twice(h.ids, size) for hypotheses in plain.values() for h in hypotheses)
    limited = BeamSettings(beam=4, nbest=4, max_length_ratio=1.0, max_length_extra=20, no_repeat_ngram_size=size)
    found = decode(model, limited, rows)
    assert found.keys() == plain.keys()
    assert not any(holds_twice(h.ids, size) for hypotheses in found.values() for h in hypotheses)
    # An n-gram rule that nothing can break changes nothing.
    loose = BeamSettings(beam=4, nbest=4, max_length_ratio=1.0, max_length_extra=20, no_repeat_ngram_size=60)
    assert lists(decode(model, loose, rows)) == lists(plain)


@pytest.mark.parametrize("sampling", [False, True])
def test_a_hypothesis_without_a_way_on_ends(sampling: bool) -> None:
    model = engine(tiny_model(vocab=7))
    chosen = BeamSettings(
        beam=3, nbest=3, min_length=20, max_length_extra=30, no_repeat_ngram_size=1, sampling=sampling
    )
    for hypotheses in decode(model, chosen, sentences(5, vocab=7)).values():
        for hypothesis in hypotheses:
            assert sorted(hypothesis.ids) == [0, 3, 4, 5, 6]  # every piece there is, each once
            assert hypothesis.ended == "eos"


@pytest.mark.parametrize("sampling", [False, True])
def test_the_shortest_output_follows_the_source(sampling: bool) -> None:
    model = engine(tiny_model(end_bias=0.5))
    chosen = BeamSettings(beam=3, nbest=3, min_length_ratio=1.5, min_length=2, max_length_extra=5, sampling=sampling)
    rows = dict(sentences(20))
    for row, hypotheses in decode(model, chosen, list(rows.items())).items():
        for hypothesis in hypotheses:
            assert len(hypothesis.ids) >= max(2, 1.5 * len(rows[row]))


def test_shortest_outputs_are_not_rounded_up_by_accident() -> None:
    chosen = BeamSettings(min_length_ratio=0.1, min_length=0)
    assert [chosen.shortest(tokens) for tokens in (0, 1, 10, 30, 31)] == [0, 1, 1, 3, 4]


OPTIONS: list[dict[str, Any]] = [
    {"unk_penalty": 1.0, "min_length_ratio": 0.8},
    {"no_repeat_ngram_size": 2, "temperature": 1.3},
    {"diverse_groups": 2, "diverse_strength": 0.7, "no_repeat_ngram_size": 1},
    {"sampling": True, "seed": 3},
    {"sampling": True, "top_k": 5, "top_p": 0.8, "unk_penalty": 0.5, "no_repeat_ngram_size": 2},
]
TAGGED = {0: [9], 14: [9, 8], 28: [7, 7, 7]}


@examples(12)
@given(
    budget=st.integers(1, 200),
    order=st.randoms(use_true_random=False),
    options=st.sampled_from(OPTIONS),
    tags=st.booleans(),
)
def test_order_and_token_budget_do_not_matter_to_options(
    budget: int, order: random.Random, options: dict[str, Any], tags: bool
) -> None:
    model = engine(tiny_model(end_bias=0.1))
    rows = sentences(9)
    chosen = BeamSettings(beam=4, nbest=4, max_length_ratio=1.0, max_length_extra=5, **options)
    prefix = TAGGED if tags else {}
    expected = decode(model, chosen, rows, budget=70, prefix=prefix)
    order.shuffle(rows)
    found = decode(model, chosen, rows, budget=budget, prefix=prefix)
    assert lists(found) == lists(expected)
    for row, hypotheses in expected.items():
        assert [h.score for h in found[row]] == pytest.approx([h.score for h in hypotheses], abs=1e-5)
        assert [h.ended for h in found[row]] == [h.ended for h in hypotheses]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_odd_sources_lose_no_row_whatever_the_options(options: dict[str, Any]) -> None:
    chosen = BeamSettings(beam=4, nbest=4, max_length_ratio=0.2, max_length_extra=4, **options)
    search = BeamSearch([engine(tiny_model(end_bias=0.1))], chosen)
    rows = [(5, []), (1, [UNK, UNK, UNK]), (9, [4]), (2, list(range(4, 40)) * 3), (8, [UNK])]
    found = dict(search.decode(rows, batch_tokens=90, prefix=[11]))
    assert set(found) == {5, 1, 9, 2, 8}
    assert found[5] == [Hypothesis([], 0.0, 0.0, "eos")]
    assert search.too_long == [2]
    assert found[2] == []
    for row in (1, 9, 8):
        assert len(found[row]) == 4
        assert all(h.ids[0] == 11 and math.isfinite(h.score) for h in found[row])


@pytest.mark.parametrize("options", OPTIONS[1:], ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_bad_logits_are_found_behind_options(value: float, options: dict[str, Any]) -> None:
    rows = [(row, source) for row, source in sentences(6) if 39 not in source] + [(1001, [5, 39]), (1002, [39, 6, 7])]
    chosen = BeamSettings(beam=4, nbest=4, max_length_extra=4, **options)
    with pytest.raises(WorkError, match="1001, 1002"):
        decode(Broken(value), chosen, rows)
    sound = engine(tiny_model(end_bias=0.1))
    search = BeamSearch([Broken(value)], chosen, fallback=lambda: [sound])
    found = dict(search.decode(rows, batch_tokens=60, prefix={1002: [6, 9]}))
    assert search.retried == [1001, 1002]
    assert lists(found) == lists(decode(sound, chosen, rows, prefix={1002: [6, 9]}))


class Silent:
    """An engine that rules out every continuation after the second token."""

    def __init__(self) -> None:
        self.inner = engine(tiny_model())
        self.target_vocab, self.max_positions = self.inner.target_vocab, self.inner.max_positions
        self.pad_id, self.eos_id, self.unk_id = self.inner.pad_id, self.inner.eos_id, self.inner.unk_id
        self.start_id, self.device = self.inner.start_id, self.inner.device
        self.new_state, self.admit, self.reorder = self.inner.new_state, self.inner.admit, self.inner.reorder
        self.release, self.shrink = self.inner.release, self.inner.shrink

    def step(self, state: Any, tokens: Tensor) -> Tensor:
        logits = self.inner.step(state, tokens)
        return logits.masked_fill(state.positions.ge(3)[:, None, None], -math.inf)


@pytest.mark.parametrize("sampling", [False, True])
def test_a_model_without_continuations_is_an_error_and_no_empty_list(sampling: bool) -> None:
    chosen = BeamSettings(beam=2, min_length=5, sampling=sampling)
    with pytest.raises(WorkError, match="row 4, 5"):
        decode(Silent(), chosen, [(4, [5, 6]), (5, [7])])


def test_samples_survive_a_batch_that_is_split() -> None:
    rows = sentences(12)
    chosen = BeamSettings(beam=3, nbest=3, sampling=True)
    small = Small(4, late=True)
    found = decode(small, chosen, rows, budget=100, prefix={7: [9]})
    assert small.refused
    assert lists(found) == lists(decode(engine(tiny_model(end_bias=0.1)), chosen, rows, prefix={7: [9]}))


class Counted(NativeModel):
    """Counts which way each step went."""

    whole = fused = 0

    def step(self, state: Any, tokens: Tensor) -> Tensor:
        self.whole += 1
        return super().step(state, tokens)

    def step_candidates(
        self, state: Any, tokens: Tensor, count: int, live: Tensor | None = None, closing: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self.fused += 1
        return super().step_candidates(state, tokens, count, live, closing)


@pytest.mark.parametrize(
    ("options", "prefix", "way"),
    [
        ({}, [], "fused"),
        ({"unk_penalty": 0.4, "min_length_ratio": 0.9}, [], "fused"),
        ({}, [9, 8], "both"),
        ({"unk_penalty": 0.4}, [9], "both"),
        ({"no_repeat_ngram_size": 2}, [9], "whole"),
        ({"diverse_groups": 2}, [], "whole"),
        ({"sampling": True, "top_k": 7}, [], "whole"),
        ({"temperature": 0.7}, [], "whole"),
    ],
    ids=str,
)
def test_fused_engines_find_the_same_and_stay_fused_where_they_can(
    options: dict[str, Any], prefix: list[int], way: str
) -> None:
    plain = tiny_model(end_bias=0.1, heads=1)
    if not usable(plain):
        pytest.skip("no compiler here")
    native = Counted(plain, "float32")
    rows = sentences(12)
    chosen = BeamSettings(beam=4, nbest=4, **options)
    found = decode(native, chosen, rows, prefix=prefix)
    expected = decode(engine(plain), chosen, rows, prefix=prefix)
    assert lists(found) == lists(expected)
    for row, hypotheses in expected.items():
        assert [h.score for h in found[row]] == pytest.approx([h.score for h in hypotheses], abs=1e-4)
    assert (native.fused > 0) == (way != "whole")
    assert (native.whole > 0) == (way != "fused")


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_length_ratio": -0.1},
        {"unk_penalty": -1.0},
        {"unk_penalty": math.inf},
        {"no_repeat_ngram_size": -1},
        {"temperature": 0.0},
        {"temperature": math.nan},
        {"sampling": True, "top_k": -1},
        {"sampling": True, "top_p": 0.0},
        {"sampling": True, "top_p": 1.1},
        {"sampling": False, "top_p": 0.9},
        {"sampling": False, "epsilon": 0.1},
        {"sampling": True, "epsilon": 1.0},
        {"top_k": 3},
        {"beam": 5, "diverse_groups": 2},
        {"diverse_groups": 0},
        {"diverse_strength": -0.5},
        {"sampling": True, "beam": 4, "diverse_groups": 2},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(reversed(wrong))):
        BeamSettings(**wrong)


def test_repetitions_are_looked_for_in_every_window() -> None:
    from seqkd.search.constraints import repeated_tokens

    draw = random.Random(1)
    texts = [[[draw.randrange(3) for _ in range(9)] for _ in range(2)] for _ in range(20)]
    positions = [draw.randrange(10) for _ in texts]
    for size in (1, 2, 3, 4):
        found = repeated_tokens(torch.tensor(texts), torch.tensor(positions), size, none=-1).tolist()
        for slot, beam in itertools.product(range(20), range(2)):
            text = texts[slot][beam][: positions[slot]]
            barred = {token for token in range(3) if holds_newest_twice([*text, token], size)}
            assert set(found[slot][beam]) - {-1} == barred


def holds_newest_twice(ids: list[int], size: int) -> bool:
    newest = ids[-size:]
    return len(newest) == size and any(ids[start : start + size] == newest for start in range(len(ids) - size))

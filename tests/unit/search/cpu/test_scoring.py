"""Given translations scored by the C++ kernels: torch's log-probabilities, and the search's own."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from seqkd.kernels.decoding import kernels
from seqkd.models.transformer import Transformer
from seqkd.search import BeamSearch, BeamSettings, score_pairs
from seqkd.search.cpu.engine import NativeModel
from seqkd.search.cpu.scoring import NativeScorer
from seqkd.search.cpu.weights import ARITHMETIC, Arithmetic, available
from tests.unit.search.support import BART, MARIAN, engine_model, sentences

pytestmark = pytest.mark.skipif(kernels() is None, reason="no C++ compiler here: torch scores")

ARITHMETICS: list[Arithmetic] = [name for name in ARITHMETIC if available(name)]
# Sources of one, two and more targets; blocks of eight queries, vectors of sixteen keys, and what is left of them.
LENGTHS = [(5, [0, 1, 7, 8]), (0, [3]), (39, [9, 15, 16, 17, 33, 48]), (17, [63]), (17, [63])]
# The largest error of a log-probability, in nats for a token; `test_rounded` has bf16 and int8.
NATS: dict[Arithmetic, float] = {"float32": 5e-6, "bf16x3": 1e-4}
EXACT = [name for name in ARITHMETICS if name in NATS]


def model(**options: Any) -> Transformer:
    return engine_model(dim=64, ffn_dim=96, encoder_layers=2, **options)


def drawn(vocab: int, lengths: list[tuple[int, list[int]]] = LENGTHS) -> list[tuple[list[int], list[int]]]:
    """Pairs of random ids: neighbours have one source."""
    draw = random.Random(3)
    pairs = []
    for length, targets in lengths:
        source = [draw.randrange(4, vocab) for _ in range(length)]
        pairs += [(source, [draw.randrange(4, vocab) for _ in range(target)]) for target in targets]
    return pairs


@pytest.mark.parametrize("arithmetic", EXACT)
@pytest.mark.parametrize(
    ("vocab", "options"),
    [
        (77, {}),
        (256, {"norm": "post", "activation": "gelu"}),
        (257, {"activation": "swiglu"}),
        (700, {"norm": "post"}),
        (77, MARIAN),
        (77, BART),
    ],
)
def test_given_targets_have_the_log_probabilities_of_torch(
    arithmetic: Arithmetic, vocab: int, options: dict[str, Any]
) -> None:
    plain = model(vocab=vocab, **options)
    pairs = drawn(vocab)
    found = score_pairs([NativeScorer(NativeModel(plain, arithmetic))], pairs, batch_tokens=100)
    expected = score_pairs([plain.double()], pairs, batch_tokens=100)
    for (_, target), one, other in zip(pairs, found, expected, strict=True):
        assert one.tokens == other.tokens == len(target) + 1
        assert one.logprob == pytest.approx(other.logprob, abs=NATS[arithmetic] * one.tokens)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_score_is_the_same_in_every_bit_whatever_else_is_scored(arithmetic: Arithmetic) -> None:
    """Also where the targets of one source are more than go through the layers together, and on several threads."""
    plain = model()
    pairs = drawn(77, [*LENGTHS, (20, [17] * 60), (9, [4, 12])])
    native = NativeScorer(NativeModel(plain, arithmetic))
    alone = [score_pairs([native], [pair], batch_tokens=1)[0] for pair in pairs]
    order = list(range(len(pairs)))
    random.Random(1).shuffle(order)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        several = NativeScorer(NativeModel(plain, arithmetic))
    finally:
        torch.set_num_threads(threads)
    for engine in (native, several):
        for budget in (1, 100, 10_000):
            assert score_pairs([engine], pairs, batch_tokens=budget) == alone
        shuffled = score_pairs([engine], [pairs[index] for index in order], batch_tokens=500)
        assert shuffled == [alone[index] for index in order]


@pytest.mark.parametrize("arithmetic", EXACT)
def test_hypotheses_have_the_score_that_the_search_gave_them(arithmetic: Arithmetic) -> None:
    native = NativeModel(model(), arithmetic)
    rows = sentences(12, vocab=77)
    found = dict(BeamSearch([native], BeamSettings(beam=4, nbest=4, max_length_extra=4)).decode(rows, batch_tokens=60))
    pairs = [(source, hypothesis.ids) for row, source in rows for hypothesis in found[row]]
    scores = score_pairs([NativeScorer(native)], pairs, batch_tokens=300)
    logprobs = [hypothesis.logprob for row, _ in rows for hypothesis in found[row]]
    assert [score.logprob for score in scores] == pytest.approx(logprobs, abs=1e-4)


def test_an_ensemble_of_the_kernels_and_torch_averages_probabilities() -> None:
    plain, other = model(), model(norm="post")
    pairs = drawn(77)
    expected = score_pairs([plain, other], pairs, batch_tokens=100)
    found = score_pairs([NativeScorer(NativeModel(plain, "float32")), other], pairs, batch_tokens=100)
    assert [one.logprob for one in found] == pytest.approx([one.logprob for one in expected], abs=1e-4)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (([5] * 64, [6]), "65 tokens do not fit the 64 positions"),
        (([5], [6] * 64), "65 tokens do not fit the 64 positions"),
        (([77], [6]), "ids are from 2 to 77; the model has 77 pieces"),
        (([5], [-1]), "ids are from -1 to 6; the model has 77 pieces"),
    ],
)
def test_pairs_that_do_not_fit_the_model_are_refused(pair: tuple[list[int], list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_pairs([NativeScorer(NativeModel(model(), "float32"))], [([5], [6]), pair], batch_tokens=100)

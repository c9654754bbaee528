"""The C++ kernels against plain torch: the same logits, candidates and k-best lists."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from seqkd.errors import WorkError
from seqkd.kernels.decoding import kernels
from seqkd.models.lstm import Lstm, LstmSettings
from seqkd.models.settings import Activation, Norm, StackSettings
from seqkd.models.sru import Cell, Sru, SruSettings
from seqkd.models.transformer import Transformer
from seqkd.search import BeamSearch, BeamSettings, SearchModel
from seqkd.search.candidates import top_candidates
from seqkd.search.constraints import NEVER
from seqkd.search.cpu.engine import NativeModel
from seqkd.search.cpu.weights import ARITHMETIC, Arithmetic, Steppable, available, usable
from seqkd.search.plain.lstm import IncrementalLstm
from seqkd.search.plain.sru import IncrementalSru
from seqkd.search.plain.transformer import IncrementalTransformer
from tests.unit.kernels.support import NEAR_TIES, differing
from tests.unit.search.support import BART, EOS, MARIAN, PAD, engine_model, padded, sentences

pytestmark = pytest.mark.skipif(kernels() is None, reason="no C++ compiler here: the torch engine is used")

ARITHMETICS: list[Arithmetic] = [name for name in ARITHMETIC if available(name)]
EXACT = [name for name in ARITHMETICS if name in ("float32", "bf16x3")]  # `test_rounded` has the others
# The largest error of a logit, for logits of size 1 to 10: some hundred times float32's unit, and bf16x3's of 2**-17.
TOLERANCE: dict[Arithmetic, float] = {"float32": 2e-5, "bf16x3": 5e-4}


def model(*, norm: Norm = "pre", activation: Activation = "relu", vocab: int = 77, **more: Any) -> Transformer:
    return engine_model(dim=64, ffn_dim=96, encoder_layers=2, norm=norm, activation=activation, vocab=vocab, **more)


def recurrent(arch: str, norm: Norm = "pre", activation: Activation = "relu", **more: Any) -> Sru | Lstm:
    sizes: dict[str, Any] = {"dim": 64, "max_positions": 64, "dropout": 0.0}
    torch.manual_seed(1)
    found: Sru | Lstm
    if arch == "lstm":
        found = Lstm(LstmSettings(**sizes, encoder_layers=2, decoder_layers=2), source_vocab=77, target_vocab=77)
    else:
        cell: Cell = "sru" if arch == "sru" else "ssru"
        blocks: dict[str, Any] = {"heads": 2, "ffn_dim": 96, "encoder_layers": 2, "decoder_layers": 2}
        found = Sru(
            SruSettings(**sizes, **blocks, norm=norm, activation=activation, cell=cell, **more),
            source_vocab=77,
            target_vocab=77,
        )
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.mul_(1.2).add_(0.05 * torch.randn_like(parameter))  # biases and peepholes begin as zeros
        found.output_weight[EOS] += 0.1
    return found.eval()


CASES: dict[str, Callable[[], Steppable]] = {
    "pre relu": model,
    "post relu": lambda: model(norm="post"),
    "pre gelu": lambda: model(activation="gelu"),
    "post swiglu": lambda: model(norm="post", activation="swiglu"),
    "of Marian": lambda: model(**MARIAN),
    "of BART": lambda: model(**BART),
    "lstm": lambda: recurrent("lstm"),
    "ssru": lambda: recurrent("ssru"),
    "ssru of Marian": lambda: recurrent("ssru", compatible_with="marian"),
    "sru": lambda: recurrent("sru", activation="gelu"),
    "ssru post": lambda: recurrent("ssru", norm="post", activation="swiglu"),
    "sru post": lambda: recurrent("sru", norm="post"),
}
each_kind = pytest.mark.parametrize("kind", ["post relu", "lstm", "ssru", "sru"])


def in_torch(plain: Steppable) -> SearchModel:
    """In float64, so that errors are the kernels' alone."""
    plain = copy.deepcopy(plain).double()
    if isinstance(plain, Transformer):
        return IncrementalTransformer(plain)
    return IncrementalLstm(plain) if isinstance(plain, Lstm) else IncrementalSru(plain)


@pytest.mark.parametrize("arithmetic", EXACT)
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_torch_through_reorder_refill_and_shrink(arithmetic: Arithmetic, case: str) -> None:
    plain = CASES[case]()
    engines = (in_torch(plain), NativeModel(plain, arithmetic))
    slots, beam = 5, 3
    states = [engine.new_state(slots, beam, 40, 12) for engine in engines]
    draw = torch.Generator().manual_seed(1)

    def both(name: str, *arguments: Tensor) -> list[Any]:
        return [getattr(e, name)(s, *arguments) for e, s in zip(engines, states, strict=True)]

    def close(found: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(found.double(), expected, atol=TOLERANCE[arithmetic], rtol=0)

    both("admit", torch.arange(slots), padded([3, 40, 17, 1, 33], 2))
    for step in range(8):
        tokens = torch.randint(4, 77, (slots, beam), generator=draw)
        if step == 0:
            tokens[:] = plain.start_id
        expected, found = both("step", tokens)
        first = 1 if step == 0 else beam  # at the first position only one beam is alive
        busy = [slot for slot in range(slots) if not (step == 4 and slot == 2)]
        close(found[busy][:, :first], expected[busy][:, :first])
        parents = torch.randint(0, beam if step else 1, (slots, beam), generator=draw)
        both("reorder", parents)
        if step == 3:
            both("release", torch.tensor([2]))
        if step == 4:
            both("admit", torch.tensor([2]), padded([9], 3))
            expected, found = both("step", torch.full((slots, beam), plain.start_id))
            close(found[2, :1], expected[2, :1])
            both("reorder", torch.zeros(slots, beam, dtype=torch.long))
        if step == 5:
            both("shrink", torch.tensor([4, 2, 0]))
            slots = 3


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("count", [1, 12, 77])
def test_candidates_are_those_of_the_logits(arithmetic: Arithmetic, count: int) -> None:
    native = NativeModel(model(), arithmetic)
    results = []
    for _ in range(2):
        state = native.new_state(2, 3, 9, 5)
        native.admit(state, torch.arange(2), padded([9, 4], 2))
        native.step(state, torch.full((2, 3), EOS))
        native.reorder(state, torch.zeros(2, 3, dtype=torch.long))
        results.append(state)
    tokens = torch.tensor([[5, 6, 7], [8, 9, 10]])
    expected = top_candidates(native.step(results[0], tokens), count, EOS)
    lse, values, ids, eos = native.step_candidates(results[1], tokens, count)
    torch.testing.assert_close(lse, expected.lse, atol=1e-5, rtol=0)
    assert torch.equal(values, expected.values)
    assert torch.equal(ids, expected.ids)
    assert torch.equal(eos, expected.eos)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_candidates_are_left_out_only_where_enough_others_of_the_sentence_are_better(
    arithmetic: Arithmetic, spread: float
) -> None:
    native = NativeModel(model(), arithmetic)
    slots, beam = 3, 20
    count = 2 * beam + 2
    draw = torch.Generator().manual_seed(5)
    live = -spread * torch.rand(slots, beam, generator=draw)
    live[1, 4:] = NEVER
    tokens = torch.randint(4, 77, (slots, beam), generator=draw)
    closing = torch.tensor([False, False, True])
    found = []
    for scores in (None, live):
        state = native.new_state(slots, beam, 9, 5)
        native.admit(state, torch.arange(slots), padded([9, 4, 7], 2))
        native.step_candidates(state, torch.full((slots, beam), EOS), count)
        native.reorder(state, torch.zeros(slots, beam, dtype=torch.long))
        found.append(native.step_candidates(state, tokens, count, scores, closing))
    (lse, values, ids, eos), (lse_too, fewer, fewer_ids, eos_too) = found
    out = fewer.eq(NEVER)
    behind = out.all(dim=-1)
    assert torch.equal(lse_too, lse.masked_fill(behind, 0.0))
    assert torch.equal(eos_too, eos.masked_fill(behind, NEVER))
    assert torch.equal(fewer, values.masked_fill(out, NEVER))
    assert torch.equal(fewer_ids, ids.masked_fill(out, PAD))
    assert out.any()
    assert not behind[2].any()  # of a sentence that must end now, each hypothesis has an end
    assert not out[1, :4].all()
    scores = values + (live - lse)[..., None]
    sure = scores.masked_fill(ids.eq(PAD) | ids.eq(EOS), NEVER).flatten(1)
    better = sure[:, None] > scores.flatten(1)[..., None]
    assert better.sum(dim=-1).ge(beam)[(out & scores.gt(NEVER)).flatten(1)].all()
    if spread == 30.0:  # one hypothesis far ahead has more than a vector of the best, and leaves others far behind
        assert (~out).sum(dim=-1).max() > 16
        assert (behind & live.gt(NEVER)).any()


@each_kind
@pytest.mark.parametrize("beam", [16, 24, 64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"unk_penalty": 0.7},
        {"min_length_ratio": 1.0},
        {"stopping": "exact"},
        {"max_length_ratio": 0.0, "max_length_extra": 3},
    ],
)
def test_large_beams_find_the_same_lists_where_nothing_is_left_out(
    kind: str, beam: int, options: dict[str, Any]
) -> None:
    class Whole(NativeModel):
        def step_candidates(
            self, state: Any, tokens: Tensor, count: int, live: Tensor | None = None, closing: Tensor | None = None
        ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            del live, closing
            return super().step_candidates(state, tokens, count)

    plain = CASES[kind]()
    rows = sentences(12, vocab=77, longest=8)
    chosen = BeamSettings(beam=beam, nbest=beam, **options)
    expected, found = (
        dict(BeamSearch([engine(plain, "float32")], chosen).decode(rows, batch_tokens=60))
        for engine in (Whole, NativeModel)
    )
    assert found == expected


def test_equal_logits_stand_in_the_order_of_their_ids() -> None:
    plain = model()
    with torch.no_grad():
        plain.output_weight[40:77] = plain.output_weight[10]
    native = NativeModel(plain, "float32")
    state = native.new_state(1, 1, 9, 5)
    native.admit(state, torch.arange(1), padded([9], 2))
    _, _, ids, _ = native.step_candidates(state, torch.tensor([[EOS]]), 77)
    alike = [piece for piece in ids.flatten().tolist() if piece == 10 or piece >= 40]
    assert alike == [10, *range(40, 77)]


@pytest.mark.parametrize("case", ["pre relu", "post relu", "lstm", "ssru", "sru post"])
@pytest.mark.parametrize("arithmetic", EXACT)
def test_k_best_lists_equal_those_of_torch(arithmetic: Arithmetic, case: str) -> None:
    plain = CASES[case]()
    rows = sentences(60, vocab=77, longest=12)
    chosen = BeamSettings(beam=5, nbest=5, length_penalty=0.8)
    expected = dict(BeamSearch([in_torch(plain)], chosen).decode(rows, batch_tokens=120))
    found = dict(BeamSearch([NativeModel(plain, arithmetic)], chosen).decode(rows, batch_tokens=90))
    assert found.keys() == expected.keys()
    assert differing(found, expected, 1e-4) <= NEAR_TIES * len(rows)


def wide() -> Transformer:
    """One for which a step of some sentences is long enough that threads help each other."""
    return engine_model(dim=128, ffn_dim=1024, encoder_layers=1, vocab=12000)


@pytest.mark.parametrize("kind", ["post relu", "lstm", "ssru", "sru", "wide"])
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_sentence_alone_in_a_batch_or_among_threads_has_the_same_scores_in_every_bit(
    arithmetic: Arithmetic, kind: str
) -> None:
    plain = wide() if kind == "wide" else CASES[kind]()
    rows = sentences(6 if kind == "wide" else 40, vocab=77, longest=12)
    chosen = BeamSettings(beam=5, nbest=5)

    def decoded(batch_tokens: int, threads: int) -> dict[int, list[tuple[list[int], float]]]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            search = BeamSearch([NativeModel(plain, arithmetic)], chosen)
        finally:
            torch.set_num_threads(before)
        found = search.decode(rows, batch_tokens=batch_tokens)
        return {row: [(one.ids, one.score) for one in hypotheses] for row, hypotheses in found}

    assert decoded(1, 1) == decoded(400, 1) == decoded(400, 2) == decoded(400, 3) == decoded(1, 2)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_bad_weights_are_found(arithmetic: Arithmetic, value: float) -> None:
    plain = model()
    with torch.no_grad():
        plain.output_weight[50] = value
    with pytest.raises(WorkError, match="NaN or infinite for 3 sentences"):
        list(BeamSearch([NativeModel(plain, arithmetic)], BeamSettings()).decode(sentences(3), batch_tokens=90))


def test_models_that_do_not_fit_the_vector_unit_are_left_to_torch() -> None:
    assert usable(model())
    narrow = Transformer(
        StackSettings(dim=24, heads=3, ffn_dim=32, encoder_layers=1, decoder_layers=1), source_vocab=9, target_vocab=9
    )
    assert not usable(narrow)
    for dim, fitting in ((32, True), (48, False)):
        settings = LstmSettings(dim=dim, encoder_layers=1, decoder_layers=1)
        assert usable(Lstm(settings, source_vocab=9, target_vocab=9)) is fitting

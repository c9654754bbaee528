"""The C++ kernels in bf16 and int8 against models in float64 that round as they do: see `rounded`.

How far these arithmetics are from float32 is measured, not tested: docs/performance.md.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from seqkd.kernels.decoding import kernels
from seqkd.models.lstm import Lstm, LstmSettings
from seqkd.models.nat.stack import ParallelStack
from seqkd.models.settings import StackSettings
from seqkd.models.sru import Sru, SruSettings
from seqkd.models.transformer import Transformer
from seqkd.search.cpu.engine import NativeModel
from seqkd.search.cpu.scoring import NativeScorer
from seqkd.search.cpu.stack import NativeStack
from seqkd.search.cpu.weights import Arithmetic, Steppable, available
from tests.unit.kernels.support import rounding
from tests.unit.search.cpu.rounded import Reference, on_a_grid, rounded_layer, rounded_stack
from tests.unit.search.support import EOS, padded

pytestmark = pytest.mark.skipif(kernels() is None, reason="no C++ compiler here: torch is used")

VOCAB = 77
VOCABS = {"source_vocab": VOCAB, "target_vocab": VOCAB}
ARITHMETICS: list[Arithmetic] = [name for name in ("bf16", "int8") if available(name)]
# What float32 sums of some dozen numbers may be off, for logits and features of size 1 to 10: the same as in float32.
TOLERANCE = 2e-5
Model = TypeVar("Model", bound=nn.Module)


# Few roundings, so that many rows have none that is undecided.
BLOCKS: dict[str, Any] = {
    "dim": 32,
    "heads": 1,
    "ffn_dim": 48,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "dropout": 0.0,
    "max_positions": 64,
}


def transformer(**more: Any) -> Transformer:
    return Transformer(StackSettings(**{**BLOCKS, **more}), **VOCABS)


def sru(**more: Any) -> Sru:
    return Sru(SruSettings(**{**BLOCKS, **more}), **VOCABS)


def lstm() -> Lstm:
    return Lstm(LstmSettings(dim=32, encoder_layers=1, decoder_layers=2, dropout=0.0), **VOCABS)


CASES: dict[str, Callable[[], Steppable]] = {
    "pre relu": transformer,
    "post swiglu": lambda: transformer(norm="post", activation="swiglu"),
    "post gelu of two heads": lambda: transformer(norm="post", activation="gelu", heads=2),
    "lstm": lstm,
    "ssru": lambda: sru(cell="ssru"),
    "sru": lambda: sru(norm="post", heads=2, cell="sru"),
}


def drawn(build: Callable[[], Model], seed: int) -> Model:
    torch.manual_seed(seed)
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1 or parameter.size(0) == 2:  # biases, norms and peepholes, which begin alike
                parameter.add_(0.1 * torch.randn_like(parameter))
    on_a_grid(model)
    return model.eval()


def with_a_decided_start(
    build: Callable[[], Steppable], arithmetic: Arithmetic, *, searches: bool
) -> tuple[Steppable, Reference]:
    """A model whose start, which all hypotheses share, has no rounding that is undecided."""
    for seed in range(50):
        model = drawn(build, seed)
        reference = Reference(model, rounding(arithmetic), searches=searches)
        if reference.logits([EOS], [EOS]).isfinite().all():
            return model, reference
    raise AssertionError("no such model")


class Compared:
    """Counts what is decided, and finds it equal."""

    def __init__(self) -> None:
        self.decided = self.all = 0

    def __call__(self, found: Tensor, expected: Tensor) -> None:
        """`[..., width]`; of a row, all is decided or nothing."""
        found, expected = found.reshape(-1, found.size(-1)), expected.reshape(-1, expected.size(-1))
        known = ~expected.isnan().any(-1)
        torch.testing.assert_close(found[known].double(), expected[known], atol=TOLERANCE, rtol=0)
        self.decided += int(known.sum())
        self.all += len(known)

    def enough(self) -> bool:
        """Whether as many rows are decided as show that the reference is one."""
        return self.decided >= max(10, self.all / 40)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("case", CASES)
def test_logits_of_a_search_are_those_of_the_rounded_model(arithmetic: Arithmetic, case: str) -> None:
    plain, reference = with_a_decided_start(CASES[case], arithmetic, searches=True)
    native = NativeModel(plain, arithmetic)
    slots, beam, compare = 24, 3, Compared()
    state = native.new_state(slots, beam, 4, 8)
    draw = torch.Generator().manual_seed(1)
    sources = padded([1 + slot % 3 for slot in range(slots)], 2)
    native.admit(state, torch.arange(slots), sources)
    rows = [row[row.ne(native.pad_id)].tolist() for row in sources]
    read: list[list[list[int]]] = [[[]] * beam for _ in rows]
    for step in range(5):
        tokens = torch.randint(4, VOCAB, (slots, beam), generator=draw)
        if step == 0:
            tokens[:] = EOS
        if step == 3:  # others take the places of some, and some places are given up
            native.admit(state, torch.tensor([2]), padded([2], 3))
            rows[2], read[2], tokens[2] = padded([2], 3)[0].tolist(), [[]] * beam, EOS
        logits = native.step(state, tokens)
        for slot, row in enumerate(rows):
            read[slot] = [[*before, int(token)] for before, token in zip(read[slot], tokens[slot], strict=True)]
            for place in range(beam if len(read[slot][0]) > 1 else 1):  # at the first position only one is alive
                compare(logits[slot, place], reference.logits(row, read[slot][place]))
        parents = torch.randint(0, beam, (slots, beam), generator=draw)
        for slot in range(slots):
            if len(read[slot][0]) == 1:
                parents[slot] = 0
            read[slot] = [read[slot][parent] for parent in parents[slot].tolist()]
        native.reorder(state, parents)
        if step == 3:
            places = [slot for slot in reversed(range(slots)) if slot % 4]
            native.shrink(state, torch.tensor(places))
            rows, read, slots = [rows[slot] for slot in places], [read[slot] for slot in places], len(places)
    assert compare.enough()


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("case", ["pre relu", "post gelu of two heads"])
def test_scores_are_those_of_the_rounded_model(arithmetic: Arithmetic, case: str) -> None:
    plain, reference = with_a_decided_start(CASES[case], arithmetic, searches=False)
    draw = random.Random(3)
    lengths = itertools.product(range(3), range(4), range(6))
    pairs = [
        ([draw.randrange(4, VOCAB) for _ in range(source)], [draw.randrange(4, VOCAB) for _ in range(target)])
        for source, target, _ in lengths
    ]
    found = NativeScorer(NativeModel(plain, arithmetic)).token_logprobs(pairs, batch_tokens=50)
    expected = []
    for source, target in pairs:
        for place, piece in enumerate([*target, EOS]):
            logits = reference.logits([*source, EOS], [EOS, *target[:place]])
            expected.append(logits.log_softmax(-1)[piece])
    compare = Compared()
    compare(found[:, None], torch.stack(expected)[:, None])
    assert compare.enough()


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("settings", [{}, {"norm": "post", "activation": "swiglu"}, {"activation": "gelu", "heads": 2}])
@torch.inference_mode()
def test_a_stack_is_the_rounded_one(arithmetic: Arithmetic, settings: dict[str, Any]) -> None:
    plain = drawn(lambda: ParallelStack(StackSettings(**{**BLOCKS, **settings}), **VOCABS, decoder_positions=9), 3)
    split = drawn(lambda: nn.Linear(32, 64), 4)
    native, stack = NativeStack(plain, arithmetic), rounded_stack(plain, rounding(arithmetic), searches=False)
    rounded_split, output = (
        rounded_layer(split, rounding(arithmetic)),
        rounding(arithmetic).weight(plain.output_weight, 2),
    )
    compares = [Compared() for _ in range(4)]
    for number in range(60):
        source = torch.randint(4, VOCAB, (1, 1 + number % 2))
        states, inputs = torch.randn(1, source.size(1), 32), torch.randn(1, 1 + number % 2, 32)
        real = torch.ones(inputs.shape[:2], dtype=torch.bool)
        compares[0](native.encode(source), stack.encode(source))
        decoded = stack.decode(inputs.double(), real, states.double(), source)
        compares[1](native.decode(inputs, real, states, source), decoded)
        compares[2](native.decode_upsampled(source, split)[0], stack.decode_upsampled(source, rounded_split)[0])
        logits = rounding(arithmetic).rows(inputs[0].double()) @ output.T
        values, ids, sums = native.top_pieces(inputs[0], 5, [EOS])
        compares[3](sums[:, None], logits.logsumexp(-1, keepdim=True))
        compares[3](values, logits.gather(1, ids))
        logits[:, EOS] = -math.inf
        compares[3](values, logits.topk(5).values)
    assert all(compare.enough() for compare in compares)

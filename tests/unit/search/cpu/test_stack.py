"""The C++ kernels against the torch stack of models that write all positions at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqkd.kernels.decoding import kernels
from seqkd.models.nat.cmlm import Cmlm
from seqkd.models.nat.ctc import Ctc, CtcSettings
from seqkd.models.nat.dag import Dag, DagSettings
from seqkd.models.nat.stack import ParallelStack
from seqkd.models.nat.vanilla import Nat, NatSettings
from seqkd.models.protocol import Output, ParallelSettings
from seqkd.models.settings import StackSettings
from seqkd.search.cpu.stack import NativeParallel, NativeStack
from seqkd.search.cpu.weights import Arithmetic, available, usable
from seqkd.search.parallel import ParallelSearch
from tests.unit.kernels.support import NEAR_TIES, differing
from tests.unit.search.support import EOS, PAD

pytestmark = pytest.mark.skipif(kernels() is None, reason="no C++ compiler here: the torch stack is used")

EVERY: tuple[Arithmetic, ...] = ("float32", "bf16x3", "bf16", "int8")
ARITHMETICS = [arithmetic for arithmetic in EVERY if available(arithmetic)]
EXACT = [arithmetic for arithmetic in ARITHMETICS if arithmetic in ("float32", "bf16x3")]
# The largest error of a feature, for features of size 1; `test_rounded` has bf16 and int8.
TOLERANCE: dict[Arithmetic, float] = {"float32": 2e-5, "bf16x3": 1e-3}
VOCAB, ROOM = 77, 40
VOCABS = {"source_vocab": VOCAB, "target_vocab": VOCAB}
WIDTHS: dict[str, Any] = {"dim": 64, "heads": 2, "ffn_dim": 96, "encoder_layers": 2, "decoder_layers": 2}
BANNED = (PAD, EOS)


def widths(dim: int, heads: int, ffn_dim: int) -> dict[str, Any]:
    return {"dim": dim, "heads": heads, "ffn_dim": ffn_dim, "encoder_layers": 1, "decoder_layers": 2}


def stack_of(*, decoder_positions: int = 3 * ROOM, seed: int = 0, **more: Any) -> ParallelStack:
    torch.manual_seed(seed)
    settings = {
        **WIDTHS,
        "norm": "pre",
        "positions": "sinusoidal",
        "activation": "relu",
        "embeddings": "shared",
        **more,
    }
    model = ParallelStack(
        StackSettings(dropout=0.1, max_positions=ROOM, **settings),
        **VOCABS,
        decoder_positions=decoder_positions,
    )
    settled(model)
    return model


def settled(model: Any) -> Any:
    """Biases and norms that are not those of the start, so that none can be left out unseen."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def sources(lengths: Sequence[int], seed: int = 3, room: int = 0) -> Tensor:
    """`[batch, source]` ids; a length counts end of sentence."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, VOCAB, (len(lengths), max(room, *lengths)), generator=draw)
    for row, length in enumerate(lengths):
        ids[row, length - 1], ids[row, length:] = EOS, PAD
    return ids


def inside(lengths: Sequence[int]) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


LENGTHS = [3, 40, 17, 1, 33, 16]


@pytest.mark.parametrize("arithmetic", EXACT)
@pytest.mark.parametrize(
    "settings",
    [
        {"norm": "pre", "activation": "relu"},
        {"norm": "post", "activation": "relu", "positions": "learned"},
        {"norm": "pre", "activation": "gelu", "embeddings": "separate"},
        {"norm": "post", "activation": "swiglu"},
        {"norm": "post", **widths(16, 1, 16)},
        {"norm": "pre", **widths(144, 3, 80)},
        {"norm": "post", **widths(256, 2, 48)},
    ],
    ids=str,
)
@torch.inference_mode()
def test_it_equals_the_torch_stack(arithmetic: Arithmetic, settings: dict[str, Any]) -> None:
    plain = stack_of(**settings)
    native = NativeStack(plain, arithmetic)
    close = partial(torch.testing.assert_close, atol=TOLERANCE[arithmetic], rtol=0.0)
    source = sources(LENGTHS, room=ROOM)
    real = source.ne(PAD)
    memory, found = plain.encode(source), native.encode(source)
    close(found[real], memory[real])
    assert not found[~real].any()

    lengths = [50, 9, 64, 2, 120, 31]
    inputs, wanted = torch.randn(6, 120, plain.dim), inside(lengths)
    features = plain.decode(inputs, wanted, memory, source)
    decoded = native.decode(inputs, wanted, memory, source)
    close(decoded[wanted], features[wanted])

    split = nn.Linear(plain.dim, 3 * plain.dim)
    expected, where = plain.decode_upsampled(source, split)
    upsampled, same = native.decode_upsampled(source, split)
    assert torch.equal(same, where)
    close(upsampled[where], expected[where])

    ids, logprobs = native.best_upsampled_pieces(source, split, BANNED)
    best, scores = plain.best_upsampled_pieces(source, split, BANNED)
    assert (ids == best).double().mean() > 0.99  # of near ties either may be the best
    torch.testing.assert_close(logprobs, scores, atol=1e-3, rtol=0)


@pytest.mark.parametrize("arithmetic", EXACT)
@pytest.mark.parametrize("count", [1, 16, 40, 100])
@torch.inference_mode()
def test_top_pieces_are_those_of_torch(arithmetic: Arithmetic, count: int) -> None:
    plain = stack_of()
    features = torch.randn(300, plain.dim)
    logits, ids, sums = plain.top_pieces(features, count, (PAD, EOS, 70))
    found = NativeStack(plain, arithmetic).top_pieces(features, count, (PAD, EOS, 70))
    torch.testing.assert_close(found[0], logits, atol=TOLERANCE[arithmetic], rtol=0)
    torch.testing.assert_close(found[2], sums, atol=TOLERANCE[arithmetic], rtol=0)
    assert found[1].shape == ids.shape == (300, min(count, VOCAB - 3))
    assert (found[1] == ids).double().mean() > 0.99  # near ties may change places
    assert not torch.isin(found[1], torch.tensor([PAD, EOS, 70])).any()


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("wide", [False, True])
@torch.inference_mode()
def test_a_sentence_alone_is_the_same_in_every_bit(arithmetic: Arithmetic, threads: int, wide: bool) -> None:
    """Also where its products are long enough to be shared out among threads."""
    plain = stack_of(norm="post", **({"dim": 128, "ffn_dim": 1024} if wide else {}))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        native = NativeStack(plain, arithmetic)
    finally:
        torch.set_num_threads(before)
    split = nn.Linear(plain.dim, 3 * plain.dim)
    lengths = [1 + 7 * row % ROOM for row in range(50)]
    source = sources(lengths, room=ROOM)
    memory, (features, real) = native.encode(source), native.decode_upsampled(source, split)
    decoded = native.decode(features, real, memory, source)
    ids, logprobs = native.best_upsampled_pieces(source, split, BANNED)
    start = 0
    for row, length in enumerate(lengths):
        one, frames = source[row : row + 1, :length], 3 * length
        alone, inner = native.decode_upsampled(one, split)
        assert torch.equal(native.encode(one)[0], memory[row, :length])
        assert torch.equal(alone[0], features[row, :frames])
        assert torch.equal(native.decode(alone, inner, memory[row : row + 1], one)[0], decoded[row, :frames])
        best, scores = native.best_upsampled_pieces(one, split, BANNED)
        assert torch.equal(best, ids[start : start + frames])
        assert torch.equal(scores, logprobs[start : start + frames])
        start += frames
    assert start == len(ids) == len(logprobs)


@torch.inference_mode()
def test_what_stands_at_padding_is_not_read() -> None:
    plain = stack_of()
    native = NativeStack(plain, "float32")
    source, wanted = sources([4, 9], room=12), inside([5, 8])
    memory, inputs = native.encode(source), torch.randn(2, 8, plain.dim)
    expected = native.decode(inputs, wanted, memory, source)
    memory[~source.ne(PAD)], inputs[~wanted] = torch.nan, torch.nan
    assert torch.equal(native.decode(inputs, wanted, memory, source), expected)


def test_positions_that_are_not_there_are_refused() -> None:
    plain = stack_of(decoder_positions=60)
    native, split = NativeStack(plain, "float32"), nn.Linear(plain.dim, 3 * plain.dim)
    source = sources([5, ROOM + 1])
    with pytest.raises(ValueError, match="41 tokens do not fit the 40 positions"):
        native.encode(source)
    with pytest.raises(ValueError, match="21 tokens do not fit the 20 positions"):
        native.decode_upsampled(sources([21]), split)
    with pytest.raises(ValueError, match="21 tokens do not fit the 20 positions"):
        native.best_upsampled_pieces(sources([21]), split, BANNED)
    with pytest.raises(ValueError, match="61 tokens do not fit the 60 positions"):
        native.decode(torch.zeros(1, 61, plain.dim), inside([61]), torch.zeros(1, 3, plain.dim), sources([3]))
    assert native.encode(sources([ROOM], room=ROOM + 9)).shape == (1, ROOM + 9, plain.dim)


def ctc(upsample: int = 3) -> Ctc:
    return Ctc(CtcSettings(**WIDTHS, max_positions=ROOM, upsample=upsample), **VOCABS)


MODELS: dict[str, Any] = {
    "nat": lambda: Nat(NatSettings(**WIDTHS, max_positions=ROOM), **VOCABS),
    "fertility": lambda: Nat(NatSettings(**WIDTHS, max_positions=ROOM, copy_from="fertility"), **VOCABS),
    "cmlm": lambda: Cmlm(StackSettings(**WIDTHS, max_positions=ROOM), **VOCABS),
    "ctc": ctc,
    "dag": lambda: Dag(DagSettings(**WIDTHS, max_positions=ROOM, upsample=3), **VOCABS),
}
SETTINGS = {
    "one": ParallelSettings(iterations=3),
    "several": ParallelSettings(iterations=3, candidates=4, nbest=3),
    "greedy": ParallelSettings(strategy="greedy", iterations=3),  # ten would make more of rounding than models do
}


@pytest.mark.parametrize("arithmetic", EXACT)
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", MODELS)
def test_models_write_the_same_with_the_kernels(name: str, settings: str, arithmetic: Arithmetic) -> None:
    torch.manual_seed(2)
    model = settled(MODELS[name]())
    with torch.no_grad():
        model.stack.output_weight.mul_(2.0)  # peaked, as those of a trained model
    rows = [(row, [4 + (row * 11 + place * 7) % 70 for place in range(1 + row * 5 % 50)]) for row in range(30)]
    expected = ParallelSearch(model, SETTINGS[settings])
    native = ParallelSearch(NativeParallel(model, arithmetic), SETTINGS[settings])
    wanted = dict(expected.decode(rows, batch_tokens=200))
    found = dict(native.decode(rows, batch_tokens=150))
    assert sorted(native.too_long) == sorted(expected.too_long)
    assert expected.too_long  # some are longer than the positions
    assert found.keys() == wanted.keys()
    assert differing(found, wanted, 1e-3) <= NEAR_TIES * len(rows)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@torch.inference_mode()
def test_weights_that_are_no_numbers_give_scores_that_are_none(arithmetic: Arithmetic) -> None:
    model = settled(ctc())
    model.stack.output_weight[50] = torch.nan
    outputs: Sequence[Sequence[Output]] = NativeParallel(model, arithmetic).translate(sources([5]), ParallelSettings())
    assert outputs[0][0].score != outputs[0][0].score


def test_stacks_that_do_not_fit_the_vector_unit_are_left_to_torch() -> None:
    assert usable(stack_of())
    assert not usable(stack_of(**widths(24, 3, 32)))
    assert not usable(nn.Linear(2, 2))

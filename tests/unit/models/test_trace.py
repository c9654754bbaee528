"""Traced hidden states and attention equal a plain computation that is written out here."""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from seqkd.models.registry import ARCHITECTURES, Traces, build
from seqkd.models.trace import traced

VOCAB, DIM, HEADS = 16, 16, 4
SIZES = {"dim": DIM, "encoder_layers": 2, "decoder_layers": 3, "dropout": 0.0, "max_positions": 12}
STACKS = {**SIZES, "heads": HEADS, "ffn_dim": 32}
EVERYTHING = Traces(hidden=("encoder", "decoder"), attention=("encoder", "decoder", "cross"))
SOURCE = torch.tensor([[5, 6, 7, 2], [8, 2, 1, 1], [9, 9, 2, 1]])
TARGET = torch.tensor([[2, 4, 5, 6, 7], [2, 9, 8, 1, 1], [2, 3, 1, 1, 1]])


def model_of(arch: str, settings: dict[str, Any], **more: Any) -> Any:
    torch.manual_seed(0)
    return build(arch, {**settings, **more}, source_vocab=VOCAB, target_vocab=VOCAB)


def norm(layer: Any, x: Tensor) -> Tensor:
    if isinstance(layer, nn.Identity):
        return x
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return cast(Tensor, (x - mean) / (variance + 1e-5).sqrt() * layer.weight + layer.bias)


def product(layer: Any, x: Tensor) -> Tensor:
    return cast(Tensor, x @ layer.weight.t() + layer.bias)


def attention(queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Head by head: the mixed values, and the probabilities `[batch, heads, queries, keys]`; `seen` like the latter."""
    width = DIM // HEADS
    mixed, shares = [], []
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        scores = torch.einsum("bqd,bkd->bqk", queries[..., part], keys[..., part]) / math.sqrt(width)
        exp = torch.where(seen, scores.exp(), 0.0)
        shares.append(exp / exp.sum(-1, keepdim=True))
        mixed.append(torch.einsum("bqk,bkd->bqd", shares[-1], values[..., part]))
    return torch.cat(mixed, -1), torch.stack(shares, 1)


def self_attention(layer: Any, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    queries, keys, values = product(layer.qkv, x).chunk(3, -1)
    mixed, shares = attention(queries, keys, values, seen)
    return product(layer.out, mixed), shares


def cross_attention(layer: Any, x: Tensor, memory: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    keys, values = product(layer.key_value, memory).chunk(2, -1)
    mixed, shares = attention(product(layer.query, x), keys, values, seen)
    return product(layer.out, mixed), shares


def feed_forward(layer: Any, x: Tensor) -> Tensor:
    return product(layer.out, product(layer.inner, x).clamp(min=0))


def by_hand(model: Any) -> tuple[dict[str, list[Tensor]], dict[str, list[Tensor]], Tensor]:
    """Hidden states, attention and features of a Transformer with norms before or after the blocks."""
    pre = model.norm == "pre"
    hidden: dict[str, list[Tensor]] = {"encoder": [], "decoder": []}
    shares: dict[str, list[Tensor]] = {"encoder": [], "decoder": [], "cross": []}

    def block(x: Tensor, layer_norm: Any, change: Any) -> Tensor:
        return x + change(norm(layer_norm, x)) if pre else norm(layer_norm, x + change(x))

    def kept(name: str, found: tuple[Tensor, Tensor]) -> Tensor:
        shares[name].append(found[1])
        return found[0]

    real = SOURCE.ne(1)[:, None, :]
    x = model.source_embedding[SOURCE] * math.sqrt(DIM) + model.source_positions[: SOURCE.size(1)]
    hidden["encoder"].append(x)
    for layer in model.encoder:
        x = block(
            x, layer.attention_norm, lambda y, layer=layer: kept("encoder", self_attention(layer.attention, y, real))
        )
        x = block(x, layer.ffn_norm, lambda y, layer=layer: feed_forward(layer.ffn, y))
        hidden["encoder"].append(x)
    memory = norm(model.encoder_norm, x)
    steps = torch.arange(TARGET.size(1))
    before = (steps[None, :] <= steps[:, None])[None]
    x = model.target_embedding[TARGET] * math.sqrt(DIM) + model.target_positions[: TARGET.size(1)]
    hidden["decoder"].append(x)
    for layer in model.decoder:
        x = block(
            x, layer.attention_norm, lambda y, layer=layer: kept("decoder", self_attention(layer.attention, y, before))
        )
        x = block(
            x, layer.cross_norm, lambda y, layer=layer: kept("cross", cross_attention(layer.cross, y, memory, real))
        )
        x = block(x, layer.ffn_norm, lambda y, layer=layer: feed_forward(layer.ffn, y))
        hidden["decoder"].append(x)
    return hidden, shares, norm(model.decoder_norm, x)


@pytest.mark.parametrize("order", ["pre", "post"])
@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_a_transformers_trace_equals_a_plain_computation(order: Literal["pre", "post"], mode: str) -> None:
    model = model_of("transformer", STACKS, norm=order).train(mode == "training")
    with torch.set_grad_enabled(mode == "training"):
        plain = model.decode_features(TARGET, SOURCE, model.encode(SOURCE))
        with traced(model, EVERYTHING) as trace:
            features = model.decode_features(TARGET, SOURCE, model.encode(SOURCE))
        hidden, shares, expected = by_hand(model)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features, plain, rtol=1e-4, atol=1e-5)
    assert {name: len(states) for name, states in trace.hidden.items()} == {"encoder": 3, "decoder": 4}
    assert {name: len(found) for name, found in trace.attention.items()} == {"encoder": 2, "decoder": 3, "cross": 3}
    torch.testing.assert_close(cast(Any, trace.hidden), hidden, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cast(Any, trace.attention), shares, rtol=1e-4, atol=1e-5)


def test_a_trace_carries_gradients() -> None:
    model = model_of("transformer", STACKS)
    with traced(model, EVERYTHING) as trace:
        model.decode_features(TARGET, SOURCE, model.encode(SOURCE))
    weights = [model.encoder[0].attention.qkv.weight, model.encoder[1].ffn.out.weight]
    found = trace.attention["cross"][0].square().sum() + trace.hidden["encoder"][2].square().sum()
    hidden, shares, _ = by_hand(model)
    expected = shares["cross"][0].square().sum() + hidden["encoder"][2].square().sum()
    got, wanted = (torch.autograd.grad(value, weights) for value in (found, expected))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_the_last_pass_is_kept_and_nothing_afterwards() -> None:
    model = model_of("transformer", STACKS).eval()
    with traced(model, EVERYTHING) as trace:
        model.encode(SOURCE)
        model.encode(SOURCE[:1])
    assert [len(state) for state in trace.hidden["encoder"]] == [1, 1, 1]
    assert [len(found) for found in trace.attention["encoder"]] == [1, 1]
    model.encode(SOURCE)
    assert len(trace.hidden["encoder"][0]) == 1
    assert model.encoder[0].attention.watcher is None


def test_of_an_sru_hidden_states_and_cross_attention() -> None:
    model = model_of("sru", STACKS).eval()
    with traced(model, Traces(hidden=("encoder", "decoder"), attention=("encoder", "cross"))) as trace:
        memory = model.encode(SOURCE)
        features = model.decode_features(TARGET, SOURCE, memory)
    torch.testing.assert_close(norm(model.decoder_norm, trace.hidden["decoder"][3]), features, rtol=1e-4, atol=1e-5)
    read = norm(model.decoder[1].cross_norm, _after_the_unit(model.decoder[1], trace.hidden["decoder"][1]))
    _, expected = cross_attention(model.decoder[1].cross, read, memory, SOURCE.ne(1)[:, None, :])
    torch.testing.assert_close(trace.attention["cross"][1], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="has no decoder attention that can be traced"), traced(model, EVERYTHING):
        pass
    assert model.encoder[0].attention.watcher is None  # nothing is left of the attempt


def _after_the_unit(layer: Any, x: Tensor) -> Tensor:
    return x + cast(Tensor, layer.unit(norm(layer.unit_norm, x)))


def test_of_an_lstm_the_encoders_hidden_states_by_sentence() -> None:
    model = model_of("lstm", SIZES).eval()
    with traced(model, Traces(hidden=("encoder",))) as trace:
        memory = model.encode(SOURCE)
    embedded = functional.embedding(SOURCE, model.source_embedding) * math.sqrt(DIM)
    assert [state.shape for state in trace.hidden["encoder"]] == [(3, 4, DIM)] * 3
    torch.testing.assert_close(trace.hidden["encoder"][0], embedded)
    torch.testing.assert_close(trace.hidden["encoder"][2], memory)
    with pytest.raises(ValueError, match="has no decoder whose layers"), traced(model, Traces(hidden=("decoder",))):
        pass


@pytest.mark.parametrize("arch", ["nat", "cmlm", "ctc", "dag"])
def test_of_models_that_write_all_positions_at_once(arch: str) -> None:
    model = model_of(arch, STACKS).eval()
    stack = model.stack
    with traced(model, EVERYTHING) as trace:
        memory = stack.encode(SOURCE)
        inputs = stack.embed_target(TARGET)
        features = stack.decode(inputs, TARGET.ne(1), memory, SOURCE)
    torch.testing.assert_close(norm(stack.decoder_norm, trace.hidden["decoder"][3]), features, rtol=1e-4, atol=1e-5)
    layer = stack.decoder[1]
    x = norm(layer.attention_norm, trace.hidden["decoder"][1])
    mixed, expected = self_attention(layer.attention, x, TARGET.ne(1)[:, None, :])
    torch.testing.assert_close(trace.attention["decoder"][1], expected, rtol=1e-4, atol=1e-5)
    read = norm(layer.cross_norm, trace.hidden["decoder"][1] + mixed)
    _, expected = cross_attention(layer.cross, read, memory, SOURCE.ne(1)[:, None, :])
    torch.testing.assert_close(trace.attention["cross"][1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", [name for name in ARCHITECTURES.own if not name.endswith(":")])
def test_a_record_says_what_can_be_traced(arch: str) -> None:
    shown = ARCHITECTURES.own[arch].traces
    model = model_of(arch, SIZES if arch == "lstm" else STACKS)
    assert shown
    with traced(model, shown):
        pass
    for lacking in [Traces(hidden=(name,)) for name in EVERYTHING.hidden if name not in shown.hidden] + [
        Traces(attention=(name,)) for name in EVERYTHING.attention if name not in shown.attention
    ]:
        with pytest.raises(ValueError, match=r"can be traced"), traced(model, lacking):
            pass


def test_two_traces_of_attention_at_once_are_refused() -> None:
    model = model_of("transformer", STACKS)
    with traced(model, EVERYTHING), pytest.raises(ValueError, match="being traced already"), traced(model, EVERYTHING):
        pass


def test_what_an_architecture_lacks_has_words() -> None:
    assert Traces(hidden=("encoder",)).without(EVERYTHING) == []
    assert EVERYTHING.without(Traces(hidden=("encoder",), attention=("cross",))) == [
        "hidden states of the decoder",
        "attention (encoder)",
        "attention (decoder)",
    ]

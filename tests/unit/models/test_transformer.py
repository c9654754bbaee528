"""The Transformer: teacher forcing equals one step at a time, and padding does not leak."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from seqkd.models.settings import (
    Activation,
    Embeddings,
    Norm,
    Positions,
    StackSettings,
    TransformerSettings,
    stored_settings,
)
from seqkd.models.transformer import Transformer
from seqkd.search.plain.transformer import IncrementalTransformer
from tests.unit.models.support import PAD, follow_parents, padded


def small(
    *,
    norm: Norm = "pre",
    positions: Positions = "sinusoidal",
    activation: Activation = "relu",
    embeddings: Embeddings = "shared",
    **more: Any,
) -> Transformer:
    torch.manual_seed(4)
    return Transformer(
        TransformerSettings(
            dim=16,
            heads=4,
            ffn_dim=24,
            encoder_layers=2,
            decoder_layers=2,
            dropout=0.2,
            norm=norm,
            positions=positions,
            activation=activation,
            embeddings=embeddings,
            max_positions=20,
            **more,
        ),
        source_vocab=30,
        target_vocab=30,
    ).eval()


@pytest.mark.parametrize(
    ("norm", "positions", "activation", "embeddings"),
    [
        *itertools.product(["pre", "post"], ["sinusoidal", "learned"], ["relu"], ["shared"]),
        ("pre", "sinusoidal", "gelu", "decoder"),
        ("post", "learned", "swiglu", "separate"),
    ],
)
def test_one_step_at_a_time_equals_teacher_forcing(
    norm: Norm, positions: Positions, activation: Activation, embeddings: Embeddings
) -> None:
    model = small(norm=norm, positions=positions, activation=activation, embeddings=embeddings)
    source, target = padded([5, 7, 2], 1), padded([6, 6, 6], 2)
    with torch.no_grad():
        expected = model(source, target).log_softmax(-1)
    engine = IncrementalTransformer(model)
    state = engine.new_state(3, 1, 7, 6)
    engine.admit(state, torch.arange(3), source)
    for position in range(6):
        logits = engine.step(state, target[:, position : position + 1])
        torch.testing.assert_close(logits[:, 0].log_softmax(-1), expected[:, position], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"start": "zero", "position_offset": 0, "norm_epsilon": 1e-6, "activation": "swish", "output_bias": True},
        {"start": 9, "embedding_norm": True, "scale_embeddings": False, "positions": "learned"},
    ],
)
def test_a_step_equals_teacher_forcing_with_the_options_of_other_toolkits(options: dict[str, Any]) -> None:
    model = small(norm="post", **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # biases and norms that are not trivial
    source, target = padded([5, 7], 1), padded([6, 6], 2)
    target[:, 0] = model.start_id
    with torch.no_grad():
        expected = model(source, target)
    engine = IncrementalTransformer(model)
    state = engine.new_state(2, 1, 7, 6)
    engine.admit(state, torch.arange(2), source)
    for position in range(6):
        logits = engine.step(state, target[:, position : position + 1])
        torch.testing.assert_close(logits[:, 0], expected[:, position], atol=1e-5, rtol=1e-5)


def test_each_option_of_other_toolkits_changes_the_logits() -> None:
    source, target = padded([5], 1), padded([6], 2)
    changes: list[dict[str, Any]] = [
        {},
        {"start": "zero"},
        {"position_offset": 0},
        {"norm_epsilon": 1e-2},
        {"embedding_norm": True},
        {"scale_embeddings": False},
        {"activation": "swish"},
    ]
    plain, *others = (small(**change) for change in changes)
    with torch.no_grad():
        before = plain(source, target)
        for change, other in zip(changes[1:], others, strict=True):
            other.load_state_dict(plain.state_dict(), strict=False)
            assert float((other(source, target) - before).abs().max()) > 1e-3, change
        assert small(start=9).start_id == 9
        biased = small(output_bias=True)
        biased.load_state_dict(plain.state_dict(), strict=False)
        assert biased.output_bias is not None
        biased.output_bias[4] = 3.0
        torch.testing.assert_close((biased(source, target) - before)[0, 2, 3:6], torch.tensor([0.0, 3.0, 0.0]))


def test_a_start_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="start is 30, but there are 30 target pieces"):
        small(start=30)


def test_options_of_other_toolkits_leave_no_mark_in_a_configuration_unless_they_are_used() -> None:
    plain = StackSettings()
    assert stored_settings(TransformerSettings()) == stored_settings(plain)
    assert "norm_epsilon" not in stored_settings(plain)
    assert stored_settings(TransformerSettings(start="zero"))["start"] == "zero"


def test_beams_follow_their_parents_without_a_copy() -> None:
    model = small()
    follow_parents(IncrementalTransformer(model), model, atol=1e-5)


def test_a_slot_that_is_filled_again_forgets_its_past() -> None:
    model = small()
    engine = IncrementalTransformer(model)
    state = engine.new_state(2, 1, 7, 6)
    engine.admit(state, torch.arange(2), padded([7, 6], 1))
    for _ in range(3):
        engine.step(state, torch.full((2, 1), 9))
    source, target = padded([3], 5), padded([4], 6)
    engine.admit(state, torch.tensor([1]), source)
    with torch.no_grad():
        expected = model(source, target)[0]
    for position in range(4):
        logits = engine.step(state, torch.tensor([[9], [int(target[0, position])]]))
        torch.testing.assert_close(logits[1, 0], expected[position], atol=1e-5, rtol=1e-5)
    engine.shrink(state, torch.tensor([1]))
    assert engine.step(state, torch.tensor([[9]])).shape == (1, 1, 30)


def test_padding_changes_nothing() -> None:
    model = small()
    alone, wider = padded([4], 1), torch.cat((padded([4], 1), torch.full((1, 5), PAD)), dim=1)
    target = padded([6], 2)
    with torch.no_grad():
        torch.testing.assert_close(model(alone, target), model(wider, target), atol=1e-5, rtol=1e-5)


def test_the_decoder_does_not_see_the_future() -> None:
    model = small()
    source, target = padded([4], 1), padded([6], 2)
    changed = target.clone()
    changed[0, 4:] = 7
    with torch.no_grad():
        torch.testing.assert_close(model(source, target)[:, :4], model(source, changed)[:, :4])


def test_embeddings_are_tied_as_asked() -> None:
    first, second = small(), small()  # both alive, so that their tables cannot have one address
    assert first.source_embedding is not second.source_embedding
    shared, decoder, separate = (small(embeddings=e) for e in ("shared", "decoder", "separate"))
    assert shared.source_embedding is shared.target_embedding is shared.output_weight
    assert decoder.source_embedding is not decoder.target_embedding is decoder.output_weight
    assert separate.output_weight is not separate.target_embedding
    with pytest.raises(ValueError, match="one vocabulary"):
        Transformer(
            StackSettings(dim=16, heads=4, ffn_dim=24, encoder_layers=1, decoder_layers=1),
            source_vocab=30,
            target_vocab=31,
        )

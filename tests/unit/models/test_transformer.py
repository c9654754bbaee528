"""The Transformer: teacher forcing equals one step at a time, and padding does not leak."""

from __future__ import annotations

import itertools

import pytest
import torch

from seqkd.models.settings import Activation, Embeddings, Norm, Positions, StackSettings
from seqkd.models.transformer import Transformer
from seqkd.search.plain.transformer import IncrementalTransformer
from tests.unit.models.support import PAD, follow_parents, padded


def small(
    *,
    norm: Norm = "pre",
    positions: Positions = "sinusoidal",
    activation: Activation = "relu",
    embeddings: Embeddings = "shared",
) -> Transformer:
    torch.manual_seed(4)
    return Transformer(
        StackSettings(
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

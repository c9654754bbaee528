"""The shared stack: what padding and other positions may and may not change."""

from __future__ import annotations

import torch

from seqkd.models.nat.stack import ParallelStack
from seqkd.models.settings import StackSettings


def stack() -> ParallelStack:
    torch.manual_seed(0)
    return ParallelStack(
        StackSettings(
            dim=16,
            heads=2,
            ffn_dim=32,
            encoder_layers=1,
            decoder_layers=2,
            dropout=0.0,
            norm="pre",
            positions="sinusoidal",
            activation="relu",
            embeddings="shared",
            max_positions=16,
        ),
        source_vocab=20,
        target_vocab=20,
        decoder_positions=16,
        extra_pieces=1,
    ).eval()


def features(model: ParallelStack, source: list[int], target: list[int], room: int) -> torch.Tensor:
    ids = torch.tensor([source + [1] * (room - len(source))])
    inputs = torch.tensor([target + [1] * (room - len(target))])
    return model.decode(model.embed_target(inputs), inputs.ne(1), model.encode(ids), ids)[0, : len(target)]


def test_padding_changes_nothing() -> None:
    model = stack()
    torch.testing.assert_close(
        features(model, [5, 6, 2], [7, 8, 20], 3), features(model, [5, 6, 2], [7, 8, 20], 9), rtol=1e-5, atol=1e-6
    )


def test_every_position_sees_every_other() -> None:
    model = stack()
    first, other = features(model, [5, 2], [7, 8, 9], 3), features(model, [5, 2], [7, 8, 10], 3)
    assert (first - other).abs().amax(dim=1).gt(1e-4).all()


def test_extra_pieces_are_read_and_never_written() -> None:
    model = stack()
    assert model.project(features(model, [5, 2], [20, 20], 2)).shape == (2, 20)
    assert not torch.equal(model.embed_target(torch.tensor([20])), model.embed_target(torch.tensor([19])))

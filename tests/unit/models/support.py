"""Small recurrent models whose mistakes would show, and what any model that goes step by step must do."""

from __future__ import annotations

import itertools
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from seqkd.models.lstm import Lstm, LstmSettings
from seqkd.models.settings import Embeddings, Norm, Positions
from seqkd.models.sru import Cell, Sru, SruSettings

PAD = 1

Model = TypeVar("Model", bound=nn.Module)


def small_lstm(*, dim: int = 16, encoder: int = 2, decoder: int = 2, embeddings: Embeddings = "shared") -> Lstm:
    torch.manual_seed(4)
    model = Lstm(
        LstmSettings(
            dim=dim,
            encoder_layers=encoder,
            decoder_layers=decoder,
            dropout=0.2,
            embeddings=embeddings,
            max_positions=20,
        ),
        source_vocab=30,
        target_vocab=30,
    )
    return _stirred(model)


def small_sru(
    *,
    cell: Cell = "ssru",
    norm: Norm = "pre",
    positions: Positions = "sinusoidal",
    embeddings: Embeddings = "shared",
    **more: Any,
) -> Sru:
    torch.manual_seed(4)
    model = Sru(
        SruSettings(
            dim=16,
            heads=4,
            ffn_dim=24,
            encoder_layers=2,
            decoder_layers=2,
            dropout=0.2,
            norm=norm,
            positions=positions,
            embeddings=embeddings,
            max_positions=20,
            cell=cell,
            **more,
        ),
        source_vocab=30,
        target_vocab=30,
    )
    return _stirred(model)


def _stirred(model: Model) -> Model:
    """Larger weights, for peaked attention, and no bias or peephole of zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(1.5 * parameter + 0.1 * torch.randn_like(parameter))
    return model.eval()


def padded(lengths: list[int], seed: int) -> Tensor:
    """Random ids, padded on the right."""
    draw = torch.Generator().manual_seed(seed)
    out = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in enumerate(lengths):
        out[row, :length] = torch.randint(4, 30, (length,), generator=draw)
    return out


def follow_parents(engine: Any, model: nn.Module, *, atol: float) -> None:
    """Check that beams that `engine` reorders go on as `model` does after their parents' tokens."""
    source = padded([4, 4], 3)
    beam, steps = 3, 5
    draw = torch.Generator().manual_seed(0)
    state = engine.new_state(2, beam, 4, steps)
    engine.admit(state, torch.arange(2), source)
    prefixes = torch.empty(2, beam, 0, dtype=torch.long)
    for _ in range(steps):
        tokens = torch.randint(4, 30, (2, beam), generator=draw)
        prefixes = torch.cat((prefixes, tokens[:, :, None]), dim=2)
        logits = engine.step(state, tokens)
        for slot, k in itertools.product(range(2), range(beam)):
            with torch.no_grad():
                expected = model(source[slot : slot + 1], prefixes[slot, k][None])[0, -1]
            torch.testing.assert_close(logits[slot, k], expected, atol=atol, rtol=1e-5)
        parents = torch.randint(0, beam, (2, beam), generator=draw)
        engine.reorder(state, parents)
        prefixes = prefixes.gather(1, parents[:, :, None].expand_as(prefixes))

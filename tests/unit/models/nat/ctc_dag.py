"""Small models with random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqkd.models.nat.ctc import Ctc, CtcSettings
from seqkd.models.nat.dag import Dag, DagSettings

BLANK, PAD, EOS = 0, 1, 2


def settings() -> dict[str, Any]:
    return {
        "dim": 16,
        "heads": 2,
        "ffn_dim": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "max_positions": 16,
    }


def ctc_model(*, vocab: int = 20, upsample: int = 2, seed: int = 0, dropout: float = 0.0) -> Ctc:
    torch.manual_seed(seed)
    return Ctc(
        CtcSettings(**settings(), dropout=dropout, upsample=upsample), source_vocab=vocab, target_vocab=vocab
    ).eval()


def dag_model(*, vocab: int = 20, upsample: int = 3, seed: int = 0, dropout: float = 0.0) -> Dag:
    torch.manual_seed(seed)
    return Dag(
        DagSettings(**settings(), dropout=dropout, upsample=upsample), source_vocab=vocab, target_vocab=vocab
    ).eval()


def source_of(*rows: list[int], room: int = 0) -> Tensor:
    """`[batch, source]` ids with end of sentence, padded on the right to at least `room`."""
    width = max(room, *(len(row) + 1 for row in rows))
    return torch.tensor([[*row, EOS] + [PAD] * (width - len(row) - 1) for row in rows])

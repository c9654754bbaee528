"""Small random models and sentences for them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seqkd.models.nat.cmlm import Cmlm
from seqkd.models.nat.vanilla import CopyFrom, Nat, NatSettings
from seqkd.models.protocol import PairLengths
from seqkd.models.settings import StackSettings
from seqkd.search.scoring import pad_rows

VOCAB, PAD, EOS = 24, 1, 2
VOCABS = {"source_vocab": VOCAB, "target_vocab": VOCAB}
SIZES: dict[str, Any] = {
    "dim": 16,
    "heads": 2,
    "ffn_dim": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "max_positions": 24,
}


def settle(model: nn.Module) -> Any:
    """Make a random model's distributions peaked, as those of a trained one, and put it in evaluation mode."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.0)
    return model.eval()


def nat(seed: int = 0, *, copy_from: CopyFrom = "uniform", source_vocab: int = VOCAB, **more: Any) -> Nat:
    torch.manual_seed(seed)
    model: Nat = settle(
        Nat(NatSettings(**{**SIZES, **more}, copy_from=copy_from), **{**VOCABS, "source_vocab": source_vocab})
    )
    if model.fertilities is not None:
        with torch.no_grad():
            model.fertilities.classes.bias[4:] -= 20.0  # or else 50 classes fill every translation to its limit
    return model


def cmlm(seed: int = 0, **more: Any) -> Cmlm:
    torch.manual_seed(seed)
    return settle(Cmlm(StackSettings(**{**SIZES, **more}), **VOCABS))  # type: ignore[no-any-return]


def pair_lengths(*, source: list[int], target: list[int], repeats: list[int] | None = None) -> PairLengths:
    """Rows of these lengths, without repeats if these are not given."""
    repeats = [0] * len(source) if repeats is None else repeats
    return PairLengths(*(np.array(column, dtype=np.int32) for column in (source, target, repeats)))


def sentences(count: int, *, longest: int = 9, seed: int = 0) -> list[list[int]]:
    """Source ids with end of sentence."""
    draw = random.Random(seed)
    return [[*(draw.randrange(4, VOCAB) for _ in range(draw.randint(1, longest))), EOS] for _ in range(count)]


def padded(rows: list[list[int]], room: int = 0) -> Tensor:
    ids = pad_rows(rows, PAD)
    return torch.nn.functional.pad(ids, (0, max(0, room - ids.size(1))), value=PAD)

"""Architectures by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from seqkd.errors import ModelError
from seqkd.models.lstm import Lstm
from seqkd.models.nat.cmlm import Cmlm
from seqkd.models.nat.ctc import Ctc
from seqkd.models.nat.dag import Dag
from seqkd.models.nat.vanilla import Nat
from seqkd.models.sru import Sru
from seqkd.models.transformer import Transformer

_ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "transformer": Transformer,
    "lstm": Lstm,
    "sru": Sru,
    "nat": Nat,
    "cmlm": Cmlm,
    "ctc": Ctc,
    "dag": Dag,
}


def build(arch: str, settings: Mapping[str, Any], *, source_vocab: int, target_vocab: int) -> nn.Module:
    """A model with fresh weights.

    Args:
        arch: The architecture's name.
        settings: Its own options, without the vocabularies' sizes.
        source_vocab: Source pieces.
        target_vocab: Target pieces.

    Raises:
        ModelError: No such architecture, or settings that it does not take.
    """
    make = _ARCHITECTURES.get(arch)
    if make is None:
        raise ModelError(f"unknown architecture {arch!r}", expected=f"one of: {', '.join(sorted(_ARCHITECTURES))}")
    try:
        return make(source_vocab=source_vocab, target_vocab=target_vocab, **settings)
    except (TypeError, ValueError) as error:
        raise ModelError(f"the settings do not fit the architecture {arch!r}: {error}") from None

"""Architectures by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

from torch import nn

from seqkd.errors import ModelError
from seqkd.models.lstm import Lstm
from seqkd.models.nat.cmlm import Cmlm
from seqkd.models.nat.ctc import Ctc
from seqkd.models.nat.dag import Dag
from seqkd.models.nat.vanilla import Nat
from seqkd.models.settings import StackSettings
from seqkd.models.sru import Sru
from seqkd.models.transformer import Transformer

_OF_STACKS = frozenset(field.name for field in fields(StackSettings))


def _stacked(make: Callable[..., nn.Module], **settings: Any) -> nn.Module:
    """A model of Transformer layers: what is not of these is its own."""
    stack = {name: value for name, value in settings.items() if name in _OF_STACKS}
    own = {name: value for name, value in settings.items() if name not in _OF_STACKS}
    return make(StackSettings(**stack), **own)


_ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "transformer": partial(_stacked, Transformer),
    "lstm": Lstm,
    "sru": partial(_stacked, Sru),
    "nat": partial(_stacked, Nat),
    "cmlm": partial(_stacked, Cmlm),
    "ctc": partial(_stacked, Ctc),
    "dag": partial(_stacked, Dag),
}
# Other packages' architectures, by the prefix of their names. They are above this package in the order of imports and
# need what may not be installed; so the module is named here, and imported when one of its architectures is asked for.
_FAMILIES = {"fairseq:": "seqkd.interop.fairseq_models"}


def build(arch: str, settings: Mapping[str, Any], *, source_vocab: int, target_vocab: int) -> nn.Module:
    """A model with fresh weights.

    Args:
        arch: The architecture's name.
        settings: Its own options, without the vocabularies' sizes.
        source_vocab: Source pieces.
        target_vocab: Target pieces.

    Raises:
        ModelError: No such architecture, settings that it does not take, or its package is not installed.
    """
    family = next((module for prefix, module in _FAMILIES.items() if arch.startswith(prefix)), None)
    make = _ARCHITECTURES.get(arch)
    if family is not None:
        make = partial(importlib.import_module(family).build, arch)
    if make is None:
        known = [*sorted(_ARCHITECTURES), *(f"{prefix}NAME" for prefix in _FAMILIES)]
        raise ModelError(f"unknown architecture {arch!r}", expected=f"one of: {', '.join(known)}")
    try:
        return make(source_vocab=source_vocab, target_vocab=target_vocab, **settings)
    except (TypeError, ValueError) as error:
        raise ModelError(f"the settings do not fit the architecture {arch!r}: {error}") from None

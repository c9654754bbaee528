"""Initialisation of a model with all weights or chosen layers of another model, and freezing of parts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from seqkd.errors import ModelError
from seqkd.models.checkpoint import collect_weights, load_weights
from seqkd.models.initialiser import Initialiser
from seqkd.models.registry import Stack

_LAYER = re.compile(r"^((?:stack\.)?(encoder|decoder)\.)(\d+)(\..*)$")
# The same names in all architectures of seqkd.
_GROUPS = {
    "embeddings": re.compile(
        r"^(stack\.)?((source|target|extra)_(embedding|positions)|(source|target)_embedding_norm\..*|output_(weight|bias))$"
    ),
    "encoder": re.compile(r"^(stack\.)?encoder(_norm)?\."),
    "decoder": re.compile(r"^(stack\.)?decoder(_norm)?\."),
}


@dataclass(frozen=True, slots=True)
class Original:
    """A model from which another model starts.

    Attributes:
        model: The model.
        arch: The architecture of the model.
        settings: The settings of the model.
    """

    model: nn.Module
    arch: str
    settings: Mapping[str, Any]


def initialise(model: nn.Module, arch: str, settings: Mapping[str, Any], first: Original, wanted: Initialiser) -> None:
    """Copy weights into a model, and freeze parts of it.

    Args:
        model: The new model.
        arch: The architecture of the new model.
        settings: The settings of the new model.
        first: The model from which it starts, with the same vocabularies.
        wanted: The layers to copy and the parts to freeze.

    Raises:
        ModelError: The architectures, widths or numbers of layers do not fit, a layer is out of range, a part to freeze
            does not exist, or nothing is left to train.
    """
    where = Path(wanted.model)
    if first.arch != arch:
        raise ModelError(f"its architecture is {first.arch!r}", where=str(where), expected=arch)
    weights = collect_weights(first.model)
    for stack, choice in _stacks(wanted):
        there, here = _count(weights, stack), _count(collect_weights(model), stack)
        if choice and not here:
            raise ModelError(
                f"the layers of its {stack} are not separate weights",
                where=str(where),
                expected=f"no init_from.{stack}_layers for this architecture",
            )
        problem = wanted.problem(stack, here, there)
        if problem is not None:
            raise ModelError(problem, where=str(where))
        if choice:
            weights = _with_layers(weights, collect_weights(model), stack, choice)
    _check_widths(weights, model, settings, first.settings, where)
    load_weights(model, weights, where)
    _freeze(model, wanted, where)


def _stacks(wanted: Initialiser) -> tuple[tuple[Stack, tuple[int, ...]], ...]:
    return ("encoder", wanted.encoder_layers), ("decoder", wanted.decoder_layers)


def _count(weights: Mapping[str, Tensor], stack: str) -> int:
    numbers = [int(match[3]) for name in weights if (match := _LAYER.match(name)) and match[2] == stack]
    return max(numbers, default=-1) + 1


def _with_layers(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], stack: Stack, choice: tuple[int, ...]
) -> dict[str, Tensor]:
    """Return the weights with only the chosen layers of a stack, renumbered."""
    kept = {name: value for name, value in weights.items() if not _of(name, stack)}
    for name in own:
        if match := _of(name, stack):
            taken = f"{match[1]}{choice[int(match[3])]}{match[4]}"
            if taken in weights:
                kept[name] = weights[taken]
    return kept


def _of(name: str, stack: str) -> re.Match[str] | None:
    match = _LAYER.match(name)
    return match if match and match[2] == stack else None


def _check_widths(
    weights: Mapping[str, Tensor],
    model: nn.Module,
    settings: Mapping[str, Any],
    others: Mapping[str, Any],
    where: Path,
) -> None:
    """Raise an error that names the settings that differ, if they are the reason why the weights do not fit."""
    own = collect_weights(model)
    if own.keys() == weights.keys() and all(own[name].shape == weights[name].shape for name in own):
        return
    differ = [
        f"{name} is {others[name]}, here {value}"
        for name, value in settings.items()
        if not name.endswith("_layers") and name in others and others[name] != value
    ]
    if differ:
        raise ModelError(
            f"its weights have other sizes: {', '.join(differ)}",
            where=str(where),
            expected="a model of the same sizes, except for the number of layers",
        )


def _freeze(model: nn.Module, wanted: Initialiser, where: Path) -> None:
    for group in wanted.freeze:
        inside = [weight for name, weight in model.named_parameters() if _GROUPS[group].match(name)]
        if not inside:
            raise ModelError(f"init_from.freeze: the model has no part {group!r}", where=str(where))
        for weight in inside:
            weight.requires_grad_(False)
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ModelError("init_from.freeze: nothing is left to train", where=str(where), expected="fewer parts")

"""Start a model from another one's weights: all of them, or chosen layers; and keep parts of it from being trained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from seqkd.errors import ModelError
from seqkd.models.checkpoint import LoadedModel, load_weights, weights_of
from seqkd.models.initialiser import Initialiser

_LAYER = re.compile(r"^((?:stack\.)?(encoder|decoder)\.)(\d+)(\..*)$")
# The same names in all architectures of seqkd.
_GROUPS = {
    "embeddings": re.compile(r"^(stack\.)?((source|target|extra)_(embedding|positions)|output_weight)$"),
    "encoder": re.compile(r"^(stack\.)?encoder(_norm)?\."),
    "decoder": re.compile(r"^(stack\.)?decoder(_norm)?\."),
}


def initialise(
    model: nn.Module, arch: str, settings: Mapping[str, Any], first: LoadedModel, wanted: Initialiser
) -> None:
    """Copy weights into a model, and freeze the parts that are to stay.

    Args:
        model: The new one.
        arch: Its architecture.
        settings: Its settings.
        first: The model that it starts from, with the same vocabularies.
        wanted: Which layers are copied, and what is frozen.

    Raises:
        ModelError: The architectures, the widths or the numbers of layers do not fit; a layer is out of range; a part
            to freeze does not exist, or nothing is left to train.
    """
    where = Path(wanted.model)
    if first.arch != arch:
        raise ModelError(f"its architecture is {first.arch!r}", where=str(where), expected=arch)
    weights = weights_of(first.model)
    for stack, choice in (("encoder", wanted.encoder_layers), ("decoder", wanted.decoder_layers)):
        weights = _with_layers(weights, weights_of(model), stack, choice, where)
    _check_widths(weights, model, settings, first.settings, where)
    load_weights(model, weights, where)
    _freeze(model, wanted, where)


def _count(weights: Mapping[str, Tensor], stack: str) -> int:
    numbers = [int(match[3]) for name in weights if (match := _LAYER.match(name)) and match[2] == stack]
    return max(numbers, default=-1) + 1


def _with_layers(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], stack: str, choice: tuple[int, ...], where: Path
) -> dict[str, Tensor]:
    """The weights with the chosen layers of a stack alone, numbered anew."""
    there, here = _count(weights, stack), _count(own, stack)
    if not choice:
        if there != here:
            raise ModelError(
                f"it has {there} {stack} layers, the model that starts from it {here}",
                where=str(where),
                expected="as many",
                hint=f"choose the layers to copy: init_from.{stack}_layers = [...]",
            )
        return dict(weights)
    if not here:
        raise ModelError(
            f"the layers of its {stack} are not separate weights",
            where=str(where),
            expected=f"no init_from.{stack}_layers for this architecture",
        )
    if len(choice) != here:
        raise ModelError(
            f"init_from.{stack}_layers names {len(choice)} layers, the model has {here}",
            where=str(where),
            expected=f"a layer to start from for each {stack} layer of the model",
        )
    if max(choice) >= there:
        raise ModelError(
            f"init_from.{stack}_layers names layer {max(choice)}, its {stack} has {there} layers",
            where=str(where),
            expected=f"numbers from 0 to {there - 1}",
        )
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
    """Name the settings that differ, if they are the reason why the weights do not fit."""
    own = weights_of(model)
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
            expected="a model of the same sizes, but for the number of layers",
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

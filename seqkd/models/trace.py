"""Hidden states and attention of a model while it runs on torch, for objectives that compare them.

    with traced(model, Traces(hidden=("encoder",), attention=("cross",))) as trace:
        model.decode_features(target_in, source, model.encode(source))
    trace.hidden["encoder"][2]      # the output of the second encoder layer
    trace.attention["cross"][0]     # attention of the first decoder layer over the source

Tracing costs nothing when it is off: layers are watched through torch's hooks, and attention checks one attribute.
Traced attention is computed without the fused kernels, because these never store the probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from seqkd.models.registry import Attention, Stack, Traces


@dataclass(frozen=True, slots=True)
class Trace:
    """The tensors of a model's last pass. They carry gradients if the pass did.

    Attributes:
        hidden: For each stack `layers + 1` tensors `[batch, length, dim]`: the input of the first layer, then the
            output of each layer, before any norm that ends the stack.
        attention: For each kind one tensor per layer, `[batch, heads, queries, keys]` float32 probabilities. Padding
            among the keys has probability zero; rows of queries that are padding mean nothing.
    """

    hidden: dict[Stack, list[Tensor]] = field(default_factory=dict)
    attention: dict[Attention, list[Tensor]] = field(default_factory=dict)


@contextmanager
def traced(model: nn.Module, wanted: Traces) -> Iterator[Trace]:
    """Record the passes of a model. Each pass of a stack replaces the tensors of the pass before it.

    Args:
        model: A model whose architecture can expose the wanted tensors. It may be part of a wrapped module.
        wanted: The tensors to record.

    Raises:
        ValueError: The model has no such layers or attention, or is being traced already.
    """
    trace = Trace()
    stacks: Any = getattr(model, "stack", model)  # models that write all positions at once hold theirs in one module
    with ExitStack() as watching:
        for stack in wanted.hidden:
            trace.hidden[stack] = []
            _watch_hidden(_layers(stacks, stack), trace.hidden[stack], watching)
        for kind in wanted.attention:
            trace.attention[kind] = []
            layers = _layers(stacks, "encoder" if kind == "encoder" else "decoder")
            _watch_attention([_attention(layer, kind) for layer in layers], trace.attention[kind], watching)
        yield trace


def _layers(stacks: Any, name: Stack) -> nn.ModuleList:
    layers = getattr(stacks, name, None)
    if not isinstance(layers, nn.ModuleList):
        raise ValueError(f"{type(stacks).__name__} has no {name} whose layers can be traced one by one")
    return layers


def _attention(layer: nn.Module, kind: Attention) -> Any:
    module: Any = getattr(layer, "cross" if kind == "cross" else "attention", None)
    if not hasattr(module, "watcher"):
        raise ValueError(f"{type(layer).__name__} has no {kind} attention that can be traced")
    if module.watcher is not None:
        raise ValueError("the model's attention is being traced already")
    return module


def _watch_hidden(layers: nn.ModuleList, states: list[Tensor], watching: ExitStack) -> None:
    """Let each pass through `layers` fill `states` anew."""
    swapped = getattr(layers[0], "steps_first", False)

    def state(x: Tensor) -> Tensor:
        return x.transpose(0, 1) if swapped else x

    def begins(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        states[:] = [state(inputs[0])]

    def ends(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        states.append(state(output))

    watching.callback(layers[0].register_forward_pre_hook(begins).remove)
    for layer in layers:
        watching.callback(layer.register_forward_hook(ends).remove)


def _watch_attention(modules: list[Any], records: list[Tensor], watching: ExitStack) -> None:
    """Let each pass through `modules`, one per layer, fill `records` anew."""

    def watch(module: Any, *, first: bool) -> None:
        def attended(probabilities: Tensor) -> None:
            if first:
                records.clear()
            records.append(probabilities)

        module.watcher = attended
        watching.callback(setattr, module, "watcher", None)

    for number, module in enumerate(modules):
        watch(module, first=number == 0)

"""Models in float64 with the roundings of an arithmetic, from its definition and without the kernels.

What float32 computes differs a little from one processor to the next. Where an activation lies so near the middle
between two steps of int8 or bf16 that this could round it to the other one, the reference is NaN, and so is all that
depends on it. Where the reference is a number, every rounding is decided, and kernels may differ from it by no more
than float32's own error.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from seqkd.models.lstm import EncoderLayer, Lstm
from seqkd.models.nat.stack import ParallelStack
from seqkd.models.sru import Sru
from seqkd.models.transformer import Transformer
from seqkd.search.cpu.weights import Arithmetic

UNIT = 2.0**-24  # float32's: the largest relative error of one rounding to nearest
# The error of an activation that float32 computed, in units of the largest in its row. In models of these tests, one in
# ten thousand has more; to be rounded otherwise than here it would also have to lie within that excess of a middle.
ERROR = 8.0

Stack = TypeVar("Stack", Transformer, Sru, ParallelStack)


def to_bf16(x: Tensor) -> Tensor:
    """To nearest, ties to even; ties are no matter where `x` is more exact than float32."""
    return x.to(torch.bfloat16).to(x.dtype)


def decided(x: Tensor, rounding: Callable[[Tensor], Tensor], error: float) -> Tensor:
    """`rounding(x)`; NaN where an error of so many units of the row's largest could make it another step.

    Steps of bf16 that are as small as the error, of numbers near zero, do no more than the error itself.
    """
    reach = error * UNIT * x.abs().amax(-1, keepdim=True)
    apart = rounding(x + reach) - rounding(x - reach)
    return torch.where(apart <= 4 * reach, rounding(x), torch.nan)


def int8_rows(x: Tensor, error: float) -> Tensor:
    """The nearest of 255 steps, by rows: the largest magnitude becomes 127."""
    step = x.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127
    return decided(x, lambda near: (near / step).round() * step, error)


def added_in_16_bits(x: Tensor, together: int) -> Tensor:
    """`[outputs, inputs]` to `[outputs, sums, together]`: those whose products AVX2 adds before sums have 32 bits.

    These are inputs 0 and 1, 2 and 3 of each four, alone or with the same two of the next four.
    """
    eights = x.view(len(x), -1, 2, 2, 2)  # each of two fours, of two pairs
    groups = eights if together == 2 else eights.transpose(2, 3)
    return groups.reshape(len(x), -1, together)


def int8_weights(w: Tensor, together: int) -> Tensor:
    """By rows, too. The largest becomes 127, or less: of those that are added in 16 bits neither the positive nor the
    negative ones may come to more than 128, of which rounding may make `together` halves.

    The weights must be float32 and `on_a_grid`.
    """
    signed = torch.cat((w, -w), dim=1).clamp_min(0)  # no sum is of both
    largest = w.abs().amax(-1).clamp_min(1e-30)
    largest_sum = added_in_16_bits(signed, together).sum(-1).amax(-1).clamp_min(1e-30)
    rooms = torch.tensor([[127.0], [128 - together / 2]])  # torch takes a plain number's quotient by the reciprocal
    scale = (rooms / torch.stack((largest, largest_sum))).amin(0)[:, None]
    steps: Tensor = (w * scale).round()
    return steps.double() / scale.double()


def on_a_grid(model: nn.Module) -> None:
    """Makes all parameters multiples of 2**-12, so that float32 sums of a few do not depend on their order."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0**12).round_().mul_(2.0**-12)


class Rounding(NamedTuple):
    """What is rounded, and how.

    Attributes:
        arithmetic: float32 and bf16x3 round nothing.
        pairs: Whether there are products of bf16 pairs: without them only weights are bf16.
        pairs_in_attention: Likewise for a query and keys that are kept in bf16.
    """

    arithmetic: Arithmetic
    pairs: bool
    pairs_in_attention: bool

    def weight(self, w: Tensor, together: int = 4) -> Tensor:
        """`[outputs, inputs]` float32, to float64."""
        if self.arithmetic == "int8":
            return int8_weights(w, together)
        return (to_bf16(w) if self.arithmetic == "bf16" else w).double()

    def rows(self, x: Tensor) -> Tensor:
        """What a weight is multiplied with, `[..., inputs]`."""
        if self.arithmetic == "int8":
            return int8_rows(x, ERROR)
        return decided(x, to_bf16, ERROR) if self.arithmetic == "bf16" and self.pairs else x

    def kept(self, x: Tensor) -> Tensor:
        """Keys or values of a search, `[..., dim]`."""
        return decided(x, to_bf16, ERROR) if self.arithmetic in ("bf16", "int8") else x

    def query(self, x: Tensor, head_dim: int) -> Tensor:
        """What is multiplied with such keys; it is scaled before it is rounded."""
        if self.arithmetic not in ("bf16", "int8") or not self.pairs_in_attention or head_dim % 32:
            return x
        scale = 1 / math.sqrt(head_dim)
        return decided(x * scale, to_bf16, ERROR) / scale


def rounded_layer(layer: nn.Linear, rounding: Rounding) -> nn.Linear:
    """A copy that rounds its weights and what it reads."""
    found = copy.deepcopy(layer).double()
    found.weight = nn.Parameter(rounding.weight(layer.weight.detach()))
    found.register_forward_pre_hook(lambda _, inputs: (rounding.rows(inputs[0]),))
    return found


def rounded_stack(model: Stack, rounding: Rounding, *, searches: bool) -> Stack:
    """A copy whose layers are rounded; their norms, sums and softmax are float64.

    Args:
        model: On the CPU.
        rounding: Of its products.
        searches: Whether keys and values of the decoder are those of a search.
    """
    found: Stack = copy.deepcopy(model).double()
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            parent, _, attribute = name.rpartition(".")
            setattr(found.get_submodule(parent), attribute, rounded_layer(layer, rounding))
    if searches:
        for layer in found.decoder:
            _keep(layer, rounding)
    return found.eval()


def _keep(layer: Any, rounding: Rounding) -> None:
    def parts(head_dim: int, *kinds: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            chunks = output.chunk(len(kinds), dim=-1)
            return torch.cat(
                [
                    rounding.query(chunk, head_dim) if kind == "query" else rounding.kept(chunk)
                    for kind, chunk in zip(kinds, chunks, strict=True)
                ],
                dim=-1,
            )

        return hook

    head_dim = layer.cross.query.out_features // layer.cross.heads
    layer.cross.query.register_forward_hook(parts(head_dim, "query"))
    layer.cross.key_value.register_forward_hook(parts(head_dim, "key", "value"))
    if hasattr(layer, "attention"):
        layer.attention.qkv.register_forward_hook(parts(head_dim, "query", "key", "value"))


class Reference:
    """A model that decodes left to right, one hypothesis at a time and each position from the start.

    Args:
        model: On the CPU, in float32.
        rounding: Of its products.
        searches: See `rounded_stack`.
    """

    def __init__(self, model: Transformer | Sru | Lstm, rounding: Rounding, *, searches: bool) -> None:
        self.rounding = rounding
        self.output = rounding.weight(model.output_weight.detach(), together=2)
        self._memory: dict[tuple[int, ...], Any] = {}
        self._stack: Transformer | Sru | _RoundedLstm
        if isinstance(model, Lstm):
            self._stack = _RoundedLstm(model, rounding)
        elif isinstance(model, Transformer):
            self._stack = rounded_stack(model, rounding, searches=searches)
        else:
            self._stack = rounded_stack(model, rounding, searches=searches)

    @torch.no_grad()
    def logits(self, source: Sequence[int], read: Sequence[int]) -> Tensor:
        """`[vocab]` after the tokens that were read; the source ends with the end of sentence."""
        key, ids, prefix = tuple(source), torch.tensor([source]), torch.tensor([read])
        with sdpa_kernel(SDPBackend.MATH):  # others lose NaN
            if key not in self._memory:
                self._memory[key] = self._stack.encode(ids)
            features = self._stack.decode_features(prefix, ids, self._memory[key])[0, -1]
        return self.rounding.rows(features) @ self.output.T


class _RoundedLstm:
    """An `Lstm` for one sentence: its recurrent products are within its loops, where no hook comes."""

    def __init__(self, model: Lstm, rounding: Rounding) -> None:
        self.scale, self.source, self.target = model.scale, model.source_embedding, model.target_embedding
        decoder = model.decoder
        self.layers, self.rounding = decoder.layers, rounding

        def of(weight: Tensor, bias: Tensor | None = None) -> Callable[[Tensor], Tensor]:
            rounded = rounding.weight(weight.detach())
            added = None if bias is None else bias.detach().double()
            return lambda x: functional.linear(rounding.rows(x), rounded, added)

        self.encoder = []  # for each layer and direction, what makes gates of inputs and of the step before
        for layer in cast(Iterable[EncoderLayer], model.encoder):
            inputs = [of(gates.weight, gates.bias) for gates in (layer.forward_gates, layer.backward_gates)]
            self.encoder.append(list(zip(inputs, map(of, layer.recurrent), strict=True)))
        self.start, self.mix = of(decoder.start.weight, decoder.start.bias), of(decoder.mix)
        self.key, self.value = of(decoder.key.weight), of(decoder.value.weight, decoder.value.bias)
        first = of(torch.cat((decoder.gates.weight, decoder.recurrent[0]), dim=1), decoder.gates.bias)
        self.cells = [first, *(of(w, b) for w, b in zip(decoder.recurrent[1:], decoder.bias, strict=True))]

    def encode(self, source: Tensor) -> Tensor:
        """`[1, source]` ids to `[source, dim]`."""
        x = functional.embedding(source[0], self.source).double() * self.scale
        for layer in self.encoder:
            halves = []
            for back, (gates_of, recurrent) in enumerate(layer):
                gates = gates_of(x)
                outputs: list[Tensor] = []
                cell = torch.zeros(x.size(1) // 2, dtype=x.dtype)
                for own in gates.flip(0) if back else gates:
                    cell, output = _cell(own + recurrent(outputs[-1]) if outputs else own, cell)
                    outputs.append(output)
                halves.append(torch.stack(outputs[::-1] if back else outputs))
            x = torch.cat(halves, dim=-1)
        return x

    def decode_features(self, read: Tensor, _source: Tensor, memory: Tensor) -> Tensor:
        """`[1, target]` ids over `[source, dim]` to `[1, target, dim]`."""
        half = memory.size(1) // 2
        keys, values = self.key(memory), self.value(memory)
        cells = list(self.start(torch.cat((memory[-1, :half], memory[0, half:]))).chunk(self.layers))
        outputs, found = [cell.tanh() for cell in cells], [torch.zeros_like(memory[0])]
        for embedded in functional.embedding(read[0], self.target).double() * self.scale:
            below = torch.cat((embedded, found[-1]))
            for number, gates_of in enumerate(self.cells):
                gates = gates_of(torch.cat((below, outputs[number])))
                cells[number], outputs[number] = _cell(gates, cells[number])
                below = outputs[number]
            context = (keys @ below).softmax(-1) @ values
            found.append((context + self.mix(below)).tanh())
        return torch.stack(found[1:])[None]


def _cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    entry, keep, out, new = gates.chunk(4)
    cell = cell * keep.sigmoid() + entry.sigmoid() * new.tanh()
    return cell, out.sigmoid() * cell.tanh()

"""A model's weights in the kernels' memory."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seqkd.kernels.build import pointer
from seqkd.kernels.decoding import kernels
from seqkd.kernels.widths import lstm_misfit, stack_misfit
from seqkd.models.lstm import Lstm
from seqkd.models.nat.stack import ParallelStack
from seqkd.models.sru import RecurrentLayer, SimplerUnit, SimpleUnit, Sru
from seqkd.models.transformer import Transformer
from seqkd.text.vocabulary import PAD_ID

Arithmetic = Literal["float32", "bf16", "bf16x3", "int8"]
ARITHMETIC: dict[Arithmetic, int] = {"float32": 0, "bf16": 1, "bf16x3": 2, "int8": 3}
# Bits of the arithmetics in the kernels' report on this CPU.
HARDWARE: dict[Arithmetic, int] = {"bf16": 1, "int8": 2, "bf16x3": 4}
ACTIVATION = {"relu": 0, "gelu": 1, "swiglu": 2, "swish": 3}
ATTENTION, SSRU, SRU, LSTM = range(4)  # how a decoder stores its earlier outputs


def usable(model: nn.Module) -> bool:
    """Whether the kernels exist on this machine and support this model, or stack of a model."""
    if not isinstance(model, (Transformer, ParallelStack, Sru, Lstm)) or model.output_weight.device.type != "cpu":
        return False
    return _misfit(model) is None and kernels() is not None


def _misfit(model: Steppable | ParallelStack) -> str | None:
    """Return the reason why the kernels do not support the model, or None if they do."""
    if isinstance(model, Lstm):
        return lstm_misfit({"dim": model.dim})
    first: Any = model.encoder[0]
    return stack_misfit({"dim": model.dim, "heads": first.attention.heads, "ffn_dim": first.ffn.out.in_features})


def available(arithmetic: Arithmetic) -> bool:
    """Whether there are kernels, and this CPU has instructions for the arithmetic.

    Every CPU supports float32 and bf16. bf16 uses the matrix unit (AMX) or the vector unit (AVX-512 BF16); on other
    CPUs the products are float32, with weights that are stored in bf16. int8 uses AMX, AVX-512 VNNI or AVX2. bf16x3
    needs AMX.
    """
    library = kernels()
    if library is None:
        return False
    return arithmetic == "float32" or bool(library.seqkd_arithmetics() & HARDWARE[arithmetic])


Steppable = Transformer | Sru | Lstm  # models that decode left to right


class Weights:
    """The weights of an encoder, a decoder and an output layer, copied and packed for an arithmetic.

    Args:
        model: The model, on the CPU.
        arithmetic: See `NativeModel`.
        eos_id: Id of end of sentence if the kernels must return its logit; otherwise -1.

    Attributes:
        kernels: The compiled library.
        handle: The model in the library. It uses as many threads as torch has now (`torch.set_num_threads`).

    Raises:
        ValueError: The kernels do not support the model's widths, the model is not on the CPU, or this machine does not
            support the arithmetic.
    """

    def __init__(self, model: Steppable | ParallelStack, arithmetic: Arithmetic, eos_id: int = -1) -> None:
        why = _misfit(model)
        if why is not None:
            raise ValueError(why)
        if model.output_weight.device.type != "cpu":
            raise ValueError(f"the CPU kernels cannot read a model on {model.output_weight.device}")
        library = kernels()
        if library is None or not available(arithmetic):
            raise ValueError(f"the CPU kernels do not support the arithmetic {arithmetic} on this machine")
        self.kernels = library
        # The kernels read these tables in place, so they are kept alive here.
        self._kept = [table.detach().float().contiguous() for table in (model.source_embedding, model.target_embedding)]
        heads, pre, activation = 1, False, 0
        positions: list[ctypes.c_void_p | None] = [None, None]
        if not isinstance(model, Lstm):
            first = model.encoder[0]
            heads, pre = first.attention.heads, first.pre  # type: ignore[union-attr,assignment]
            activation = ACTIVATION[str(first.ffn.activation)]  # type: ignore[union-attr]
            tables = [table.detach().float().contiguous() for table in (model.source_positions, model.target_positions)]
            self._kept += tables
            positions = [pointer(table) for table in tables]
        handle = library.seqkd_model_new(
            model.dim,
            heads,
            model.target_vocab,
            PAD_ID,
            eos_id,
            int(pre),
            activation,
            _memory(model),
            ARITHMETIC[arithmetic],
            len(model.encoder),
            model.decoder.layers if isinstance(model, Lstm) else len(model.decoder),
            torch.get_num_threads(),
            int(isinstance(model, (Transformer, Sru)) and model.zero_start),
            model.scale,
            _norm_epsilon(model),
            *(pointer(table) for table in self._kept[:2]),
            *positions,
        )
        self.handle = ctypes.c_void_p(handle)
        weakref.finalize(self, library.seqkd_model_free, self.handle)
        if isinstance(model, Lstm):
            self._load_lstm(model)
        else:
            self._load(model)
        bias = model.output_bias if isinstance(model, Transformer) else None
        self._set_weight(2, 0, 0, model.output_weight, bias)

    def _load(self, model: Transformer | ParallelStack | Sru) -> None:
        for stack, layers in enumerate((model.encoder, model.decoder)):
            for number, layer in enumerate(layers):
                linear: dict[int, nn.Linear] = {5: layer.ffn.inner, 6: layer.ffn.out}  # type: ignore[union-attr,dict-item]
                norms: dict[int, nn.LayerNorm] = {2: layer.ffn_norm}  # type: ignore[dict-item]
                if isinstance(layer, RecurrentLayer):
                    linear[0], norms[0] = layer.unit.products, layer.unit_norm
                    if isinstance(layer.unit, SimpleUnit):
                        peepholes = layer.unit.peepholes.detach().float().contiguous()
                        self.kernels.seqkd_set_peepholes(self.handle, number, pointer(peepholes))
                else:
                    linear |= {0: layer.attention.qkv, 1: layer.attention.out}  # type: ignore[union-attr,dict-item]
                    norms[0] = layer.attention_norm  # type: ignore[assignment]
                if stack == 1:
                    linear |= {2: layer.cross.query, 3: layer.cross.key_value, 4: layer.cross.out}  # type: ignore[union-attr,dict-item]
                    norms[1] = layer.cross_norm  # type: ignore[assignment]
                biases: dict[int, Tensor] = {part: weights.bias for part, weights in linear.items()}
                if isinstance(layer, RecurrentLayer) and isinstance(layer.unit, SimplerUnit):
                    biases[0] = layer.unit.bias
                for part, weights in linear.items():
                    self._set_weight(stack, number, part, weights.weight, biases[part])
                for part, norm in norms.items():
                    self._set_norm(stack, number, part, norm)
        for stack, last in enumerate((model.encoder_norm, model.decoder_norm)):
            if isinstance(last, nn.LayerNorm):
                self._set_norm(stack, -1, 0, last)
        if isinstance(model, Transformer):
            for stack, after in enumerate((model.source_embedding_norm, model.target_embedding_norm)):
                if isinstance(after, nn.LayerNorm):
                    self._set_norm(stack, -2, 0, after)

    def _load_lstm(self, model: Lstm) -> None:
        for number, layer in enumerate(model.encoder):
            for back, gates in enumerate((layer.forward_gates, layer.backward_gates)):
                self._set_lstm(0, number, back, gates.weight, gates.bias)  # type: ignore[union-attr,arg-type]
                self._set_lstm(0, number, 2 + back, layer.recurrent[back], None)  # type: ignore[index]
        decoder = model.decoder
        first = torch.cat((decoder.gates.weight, decoder.recurrent[0]), dim=1)
        self._set_lstm(1, 0, 0, first, decoder.gates.bias)
        for number in range(1, decoder.layers):
            self._set_lstm(1, number, 0, decoder.recurrent[number], decoder.bias[number - 1])
        self._set_lstm(2, 0, 0, decoder.start.weight, decoder.start.bias)
        both = torch.cat((decoder.key.weight, decoder.value.weight))
        bias = torch.cat((torch.zeros_like(decoder.value.bias), decoder.value.bias))
        self._set_lstm(2, 0, 1, both, bias)
        self._set_lstm(2, 0, 2, decoder.mix, None)

    def set_split(self, layer: nn.Linear) -> None:
        """Set the layer that splits an encoder state into the inputs of several decoder positions."""
        self._set_weight(3, 0, 0, layer.weight, layer.bias)

    def _set_weight(self, stack: int, layer: int, part: int, weight: Tensor, bias: Tensor | None) -> None:
        self._set(self.kernels.seqkd_set_weight, (stack, layer, part), weight, bias)

    def _set_lstm(self, stack: int, layer: int, part: int, weight: Tensor, bias: Tensor | None) -> None:
        self._set(self.kernels.seqkd_set_lstm, (stack, layer, part), weight, bias)

    def _set(self, setter: Any, where: tuple[int, int, int], weight: Tensor, bias: Tensor | None) -> None:
        weight = weight.detach().float().contiguous()
        bias = None if bias is None else bias.detach().float().contiguous()
        setter(self.handle, *where, pointer(weight), pointer(bias), *weight.shape)

    def _set_norm(self, stack: int, layer: int, part: int, norm: nn.LayerNorm) -> None:
        weight, bias = norm.weight.detach().float().contiguous(), norm.bias.detach().float().contiguous()
        self.kernels.seqkd_set_norm(self.handle, stack, layer, part, pointer(weight), pointer(bias))


def _norm_epsilon(model: Steppable | ParallelStack) -> float:
    """Return the epsilon of the model's layer norms; 0 for an LSTM, which has none."""
    if isinstance(model, Lstm):
        return 0.0
    first: Any = model.encoder[0]
    return float(first.ffn_norm.eps)


def _memory(model: Steppable | ParallelStack) -> int:
    if isinstance(model, Lstm):
        return LSTM
    if isinstance(model, Sru):
        first = model.decoder[0]
        assert isinstance(first, RecurrentLayer)
        return SRU if isinstance(first.unit, SimpleUnit) else SSRU
    return ATTENTION

"""A Transformer's weights in the kernels' memory."""

from __future__ import annotations

import ctypes
import weakref
from typing import Literal

import torch
from torch import Tensor, nn

from seqkd.models.nat.stack import ParallelStack
from seqkd.models.transformer import Transformer
from seqkd.search.native.build import kernels

Arithmetic = Literal["float32", "bf16", "bf16x3", "int8"]
ARITHMETIC: dict[Arithmetic, int] = {"float32": 0, "bf16": 1, "bf16x3": 2, "int8": 3}
# Bits of what the kernels say this CPU has.
HARDWARE: dict[Arithmetic, int] = {"bf16": 1, "int8": 2, "bf16x3": 4}
ACTIVATION = {"relu": 0, "gelu": 1, "swiglu": 2}
LANES = 16  # floats in a vector: widths must be multiples of it
HEAD_VECTORS = (1, 2, 3, 4, 5, 6, 8)  # in a head, as the kernels are compiled for


def usable(model: nn.Module) -> bool:
    """Whether the kernels exist on this machine and fit this Transformer, or stack of one."""
    if not isinstance(model, (Transformer, ParallelStack)) or model.output_weight.device.type != "cpu":
        return False
    heads = model.encoder[0].attention.heads  # type: ignore[union-attr]
    return fits(model.dim, heads, model.encoder[0].ffn.out.in_features) and kernels() is not None  # type: ignore[union-attr,arg-type]


def fits(dim: int, heads: int, ffn_dim: int) -> bool:
    """Whether the kernels can have a Transformer of these widths."""
    vectors, rest = divmod(dim // heads, LANES)
    return not rest and vectors in HEAD_VECTORS and not ffn_dim % LANES


def available(arithmetic: Arithmetic) -> bool:
    """Whether there are kernels and this CPU has the arithmetic's products: every CPU has float32's.

    Those of bf16 and int8 are a matrix unit's (AMX) or the vector unit's (AVX-512 BF16, VNNI); bf16x3 needs the former.
    """
    library = kernels()
    if library is None:
        return False
    return arithmetic == "float32" or bool(library.seqkd_arithmetics() & HARDWARE[arithmetic])


class Weights:
    """The weights of an encoder, a decoder and an output layer, copied and packed for an arithmetic.

    Args:
        model: On the CPU.
        arithmetic: See `NativeTransformer`.
        eos_id: End of sentence, where the kernels are to say its logit.

    Attributes:
        kernels: The compiled library.
        handle: Its model. As many threads work on it as torch has now (`torch.set_num_threads`).

    Raises:
        ValueError: This machine does not have the arithmetic.
    """

    def __init__(self, model: Transformer | ParallelStack, arithmetic: Arithmetic, eos_id: int = -1) -> None:
        library = kernels()
        if library is None or not available(arithmetic):
            raise ValueError(f"arithmetic {arithmetic} is not to be had on this machine")
        self.kernels = library
        tables = (model.source_embedding, model.target_embedding, model.source_positions, model.target_positions)
        # The kernels read these in place.
        self._kept = [table.detach().float().contiguous() for table in tables]
        first = model.encoder[0]
        handle = library.seqkd_model_new(
            model.dim,
            first.attention.heads,  # type: ignore[union-attr]
            model.target_vocab,
            model.pad_id,
            eos_id,
            int(first.pre),  # type: ignore[arg-type]
            ACTIVATION[str(first.ffn.activation)],  # type: ignore[union-attr]
            ARITHMETIC[arithmetic],
            len(model.encoder),
            len(model.decoder),
            torch.get_num_threads(),
            *(pointer(table) for table in self._kept),
        )
        self.handle = ctypes.c_void_p(handle)
        weakref.finalize(self, library.seqkd_model_free, self.handle)
        self._load(model)

    def _load(self, model: Transformer | ParallelStack) -> None:
        for stack, layers in enumerate((model.encoder, model.decoder)):
            for number, layer in enumerate(layers):
                linear: dict[int, nn.Linear] = {
                    0: layer.attention.qkv,  # type: ignore[union-attr,dict-item]
                    1: layer.attention.out,  # type: ignore[union-attr,dict-item]
                    5: layer.ffn.inner,  # type: ignore[dict-item]
                    6: layer.ffn.out,  # type: ignore[union-attr,dict-item]
                }
                norms: dict[int, nn.LayerNorm] = {0: layer.attention_norm, 2: layer.ffn_norm}  # type: ignore[dict-item]
                if stack == 1:
                    linear |= {2: layer.cross.query, 3: layer.cross.key_value, 4: layer.cross.out}  # type: ignore[union-attr,dict-item]
                    norms[1] = layer.cross_norm  # type: ignore[assignment]
                for part, weights in linear.items():
                    self._set_weight(stack, number, part, weights.weight, weights.bias)
                for part, norm in norms.items():
                    self._set_norm(stack, number, part, norm)
        for stack, last in enumerate((model.encoder_norm, model.decoder_norm)):
            if isinstance(last, nn.LayerNorm):
                self._set_norm(stack, -1, 0, last)
        self._set_weight(2, 0, 0, model.output_weight, None)

    def set_split(self, layer: nn.Linear) -> None:
        """The layer that splits an encoder state into the inputs of several decoder positions."""
        self._set_weight(3, 0, 0, layer.weight, layer.bias)

    def _set_weight(self, stack: int, layer: int, part: int, weight: Tensor, bias: Tensor | None) -> None:
        weight = weight.detach().float().contiguous()
        bias = None if bias is None else bias.detach().float().contiguous()
        self.kernels.seqkd_set_weight(
            self.handle, stack, layer, part, pointer(weight), None if bias is None else pointer(bias), *weight.shape
        )

    def _set_norm(self, stack: int, layer: int, part: int, norm: nn.LayerNorm) -> None:
        weight, bias = norm.weight.detach().float().contiguous(), norm.bias.detach().float().contiguous()
        self.kernels.seqkd_set_norm(self.handle, stack, layer, part, pointer(weight), pointer(bias))


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    """Where a contiguous tensor's numbers begin."""
    return ctypes.c_void_p(tensor.data_ptr())

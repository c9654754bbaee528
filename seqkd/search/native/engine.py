"""Drives a Transformer through the C++ kernels; no torch in the step."""

from __future__ import annotations

import ctypes
import weakref
from typing import Literal

import torch
from torch import Tensor, nn

from seqkd.models.transformer import Transformer
from seqkd.search.native.build import kernels

Arithmetic = Literal["float32", "bf16", "bf16x3", "int8"]
ARITHMETIC: dict[Arithmetic, int] = {"float32": 0, "bf16": 1, "bf16x3": 2, "int8": 3}
UNITS: dict[Arithmetic, int] = {
    "float32": 0,
    "bf16": 1,
    "bf16x3": 1,
    "int8": 2,
}  # bits of what the matrix unit multiplies
ACTIVATION = {"relu": 0, "gelu": 1, "swiglu": 2}
LANES = 16  # floats in a vector: widths must be multiples of it
HEAD_VECTORS = (1, 2, 3, 4, 5, 6, 8)  # in a head, as the kernels are compiled for


def usable(model: nn.Module) -> bool:
    """Whether the kernels exist on this machine and fit this model."""
    if not isinstance(model, Transformer) or model.output_weight.device.type != "cpu":
        return False
    return fits(model.dim, model.heads, model.encoder[0].ffn.out.in_features) and kernels() is not None  # type: ignore[union-attr,arg-type]


def fits(dim: int, heads: int, ffn_dim: int) -> bool:
    """Whether the kernels can have a Transformer of these widths."""
    vectors, rest = divmod(dim // heads, LANES)
    return not rest and vectors in HEAD_VECTORS and not ffn_dim % LANES


def matrix_unit(arithmetic: Arithmetic = "bf16") -> bool:
    """Whether this CPU has the products of this arithmetic in hardware (AMX); none has those of float32."""
    library = kernels()
    return library is not None and bool(library.seqkd_matrix_unit() & UNITS[arithmetic])


class _State:
    """Owns the caches of one decode in the kernels' memory."""

    def __init__(self, library: ctypes.CDLL, handle: int, slots: int, beam: int, max_source: int) -> None:
        self.handle = ctypes.c_void_p(handle)
        self.slots, self.beam, self.max_source = slots, beam, max_source
        weakref.finalize(self, library.seqkd_state_free, self.handle)


class NativeTransformer:
    """A `FusedSearchModel` on the CPU; see `seqkd.search.protocol` for the meaning of the methods.

    Args:
        model: A Transformer on the CPU; its weights are copied, packed for the arithmetic.
        arithmetic: Of the matrix products. bf16x3 splits each float32 in two bf16 and sums the three leading products
            in float32; like bf16 it needs the CPU's matrix unit. int8 gives each row of the weights and each row of
            what they are multiplied with a scale of its own, so that the largest magnitude becomes 127, and sums
            exactly (dynamic quantisation, Jacob et al. 2018, symmetric). Everything else is float32 always, but keys
            and values are kept in bf16 where the arithmetic is bf16 or int8.

    As many threads work as torch has (`torch.set_num_threads`) when the engine is made; each row's result is the same
    in every bit, whatever their number and whatever other rows are in the batch.
    """

    def __init__(self, model: Transformer, arithmetic: Arithmetic) -> None:
        library = kernels()
        if library is None or (arithmetic != "float32" and not matrix_unit(arithmetic)):
            raise ValueError(f"arithmetic {arithmetic} is not to be had on this machine")
        self.kernels = library
        self.arithmetic = arithmetic
        self.target_vocab = model.target_vocab
        self.pad_id, self.eos_id, self.unk_id = model.pad_id, model.eos_id, model.unk_id
        self.start_id, self.max_positions = model.start_id, model.max_positions
        self.device = torch.device("cpu")
        self.dtype = torch.float32
        tables = (model.source_embedding, model.target_embedding, model.source_positions, model.target_positions)
        # The kernels read these in place.
        self._kept = [table.detach().float().contiguous() for table in tables]
        activation = model.encoder[0].ffn.activation  # type: ignore[union-attr]
        handle = library.seqkd_model_new(
            model.dim,
            model.heads,
            model.target_vocab,
            model.pad_id,
            model.eos_id,
            int(model.norm == "pre"),
            ACTIVATION[str(activation)],
            ARITHMETIC[arithmetic],
            len(model.encoder),
            len(model.decoder),
            torch.get_num_threads(),
            *(_pointer(table) for table in self._kept),
        )
        self.handle = ctypes.c_void_p(handle)
        weakref.finalize(self, library.seqkd_model_free, self.handle)
        self._load(model)

    def _load(self, model: Transformer) -> None:
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

    def _set_weight(self, stack: int, layer: int, part: int, weight: Tensor, bias: Tensor | None) -> None:
        weight = weight.detach().float().contiguous()
        bias = None if bias is None else bias.detach().float().contiguous()
        self.kernels.seqkd_set_weight(
            self.handle, stack, layer, part, _pointer(weight), None if bias is None else _pointer(bias), *weight.shape
        )

    def _set_norm(self, stack: int, layer: int, part: int, norm: nn.LayerNorm) -> None:
        weight, bias = norm.weight.detach().float().contiguous(), norm.bias.detach().float().contiguous()
        self.kernels.seqkd_set_norm(self.handle, stack, layer, part, _pointer(weight), _pointer(bias))

    def new_state(self, slots: int, beam: int, max_source: int, max_target: int) -> _State:
        """See `SearchModel.new_state`."""
        handle = self.kernels.seqkd_state_new(self.handle, slots, beam, max_source, max_target)
        return _State(self.kernels, handle, slots, beam, max_source)

    def admit(self, state: _State, slots: Tensor, source: Tensor) -> None:
        """See `SearchModel.admit`."""
        slots, source = slots.contiguous(), source.contiguous()
        lengths = source.ne(self.pad_id).sum(dim=1, dtype=torch.int32)
        self.kernels.seqkd_admit(
            self.handle, state.handle, len(slots), _pointer(slots), _pointer(source), source.size(1), _pointer(lengths)
        )

    def release(self, state: _State, slots: Tensor) -> None:
        """See `SearchModel.release`."""
        slots = slots.contiguous()
        self.kernels.seqkd_release(state.handle, len(slots), _pointer(slots))

    def step(self, state: _State, tokens: Tensor) -> Tensor:
        """See `SearchModel.step`; hypotheses that cannot matter have no continuation."""
        tokens = tokens.contiguous()
        logits = torch.full((state.slots, state.beam, self.target_vocab), float("-inf"))
        # A row that is not computed gets one certain continuation, so that its log-sum-exp stays finite.
        logits[..., self.pad_id] = 0.0
        self.kernels.seqkd_step_logits(self.handle, state.handle, _pointer(tokens), _pointer(logits))
        return logits

    def step_candidates(self, state: _State, tokens: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `FusedSearchModel.step_candidates`."""
        tokens = tokens.contiguous()
        lse, eos = torch.empty(2, state.slots, state.beam)
        values = torch.empty(state.slots, state.beam, count)
        ids = torch.empty(state.slots, state.beam, count, dtype=torch.long)
        self.kernels.seqkd_step(
            self.handle,
            state.handle,
            _pointer(tokens),
            count,
            _pointer(lse),
            _pointer(values),
            _pointer(ids),
            _pointer(eos),
        )
        return lse, values, ids, eos

    def reorder(self, state: _State, parents: Tensor) -> None:
        """See `SearchModel.reorder`."""
        parents = parents.contiguous()
        self.kernels.seqkd_reorder(state.handle, _pointer(parents))

    def shrink(self, state: _State, slots: Tensor) -> None:
        """See `SearchModel.shrink`."""
        slots = slots.contiguous()
        self.kernels.seqkd_shrink(state.handle, len(slots), _pointer(slots))
        state.slots = len(slots)


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())

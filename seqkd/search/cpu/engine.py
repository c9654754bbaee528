"""Drives a model that decodes left to right through the C++ kernels; no torch in the step."""

from __future__ import annotations

import ctypes
import weakref

import torch
from torch import Tensor

from seqkd.kernels.build import pointer
from seqkd.models.transformer import Transformer
from seqkd.search.cpu.weights import Arithmetic, Steppable, Weights


class _State:
    """Owns the caches of one decode in the kernels' memory."""

    def __init__(self, library: ctypes.CDLL, handle: int, slots: int, beam: int, max_source: int) -> None:
        self.handle = ctypes.c_void_p(handle)
        self.slots, self.beam, self.max_source = slots, beam, max_source
        weakref.finalize(self, library.seqkd_state_free, self.handle)


class NativeModel:
    """A `FusedSearchModel` on the CPU; see `seqkd.search.protocol` for the meaning of the methods.

    Args:
        model: A Transformer, an SRU or an LSTM on the CPU; its weights are copied, packed for the arithmetic.
        arithmetic: Of the matrix products. bf16x3 splits each float32 in two bf16 and sums the three leading products
            in float32; it needs the CPU's matrix unit. int8 gives each row of the weights and each row of
            what they are multiplied with a scale of its own, so that the largest magnitude becomes 127 (of weights
            less, where sums of a few would not fit 16 bits), and sums exactly (dynamic quantisation, Jacob et al.
            2018, symmetric), so these sums are equal on all processors. Everything else is float32 always, except that
            keys and values are kept in bf16 if the arithmetic is bf16 or int8; an LSTM's are float32. Float32 sums
            depend on the width of the processor's vectors, so logits of two kinds of processor can differ slightly.

    Attributes:
        attends: Whether the decoder attends to what it has written: only then can it compute all positions at once.

    As many threads work as torch has (`torch.set_num_threads`) when the engine is made; each row's result is the same
    in every bit, whatever their number and whatever other rows are in the batch.
    """

    def __init__(self, model: Steppable, arithmetic: Arithmetic) -> None:
        self._weights = Weights(model, arithmetic, model.eos_id)
        self.kernels, self.handle = self._weights.kernels, self._weights.handle
        self.arithmetic = arithmetic
        self.source_vocab, self.target_vocab = model.source_vocab, model.target_vocab
        self.attends = isinstance(model, Transformer)
        self.pad_id, self.eos_id, self.unk_id = model.pad_id, model.eos_id, model.unk_id
        self.start_id, self.max_positions = model.start_id, model.max_positions
        self.device = torch.device("cpu")
        self.dtype = torch.float32

    def new_state(self, slots: int, beam: int, max_source: int, max_target: int) -> _State:
        """See `SearchModel.new_state`."""
        handle = self.kernels.seqkd_state_new(self.handle, slots, beam, max_source, max_target)
        return _State(self.kernels, handle, slots, beam, max_source)

    def admit(self, state: _State, slots: Tensor, source: Tensor) -> None:
        """See `SearchModel.admit`."""
        slots, source = slots.contiguous(), source.contiguous()
        lengths = source.ne(self.pad_id).sum(dim=1, dtype=torch.int32)
        self.kernels.seqkd_admit(
            self.handle, state.handle, len(slots), pointer(slots), pointer(source), source.size(1), pointer(lengths)
        )

    def release(self, state: _State, slots: Tensor) -> None:
        """See `SearchModel.release`."""
        slots = slots.contiguous()
        self.kernels.seqkd_release(state.handle, len(slots), pointer(slots))

    def step(self, state: _State, tokens: Tensor) -> Tensor:
        """See `SearchModel.step`; hypotheses that cannot matter have no continuation."""
        tokens = tokens.contiguous()
        logits = torch.full((state.slots, state.beam, self.target_vocab), float("-inf"))
        # A row that is not computed gets one certain continuation, so that its log-sum-exp stays finite.
        logits[..., self.pad_id] = 0.0
        self.kernels.seqkd_step_logits(self.handle, state.handle, pointer(tokens), pointer(logits))
        return logits

    def step_candidates(
        self, state: _State, tokens: Tensor, count: int, live: Tensor | None = None, closing: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `FusedSearchModel.step_candidates`."""
        tokens = tokens.contiguous()
        live = None if live is None else live.contiguous()
        closing = None if closing is None else closing.contiguous()
        lse, eos = torch.empty(2, state.slots, state.beam)
        values = torch.empty(state.slots, state.beam, count)
        ids = torch.empty(state.slots, state.beam, count, dtype=torch.long)
        self.kernels.seqkd_step(
            self.handle,
            state.handle,
            pointer(tokens),
            None if live is None else pointer(live),
            None if closing is None else pointer(closing),
            count,
            pointer(lse),
            pointer(values),
            pointer(ids),
            pointer(eos),
        )
        return lse, values, ids, eos

    def reorder(self, state: _State, parents: Tensor) -> None:
        """See `SearchModel.reorder`."""
        parents = parents.contiguous()
        self.kernels.seqkd_reorder(state.handle, pointer(parents))

    def shrink(self, state: _State, slots: Tensor) -> None:
        """See `SearchModel.shrink`."""
        slots = slots.contiguous()
        self.kernels.seqkd_shrink(state.handle, len(slots), pointer(slots))
        state.slots = len(slots)

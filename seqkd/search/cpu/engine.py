"""Left-to-right decoding through the C++ kernels, without torch in the step."""

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
        model: A Transformer, an SRU or an LSTM on the CPU. Its weights are copied and packed for the arithmetic.
        arithmetic: Arithmetic of the matrix products, see below.

    Attributes:
        attends: Whether the decoder attends to its earlier outputs. Only then can it compute all positions at once.

    bf16x3 splits each float32 into two bf16 numbers and sums the three leading products in float32. It needs the CPU's
    matrix unit. int8 is symmetric dynamic quantisation (Jacob et al. 2018): each row of the weights and each row of the
    other operand has its own scale, which maps the largest magnitude to 127, and sums are exact. A weight row whose
    sums of a few products would not fit 16 bits is mapped to a smaller magnitude. The int8 sums are equal on all
    processors. All other computations are in float32, except that keys and values are stored in bf16 if the arithmetic
    is bf16 or int8; those of an LSTM are always float32. Float32 sums depend on the width of the processor's vectors,
    so the logits of two kinds of processors can differ slightly.

    The engine uses as many threads as torch has (`torch.set_num_threads`) when it is constructed. The result of a row
    is the same in every bit for any number of threads and with any other rows in the batch.
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
        """See `SearchModel.step`. Hypotheses that cannot change the result get no continuation."""
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

"""Decoding with models that write all positions at once, through the C++ kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from seqkd.kernels.build import pointer
from seqkd.models.nat.stack import DecodingStack, ParallelStack
from seqkd.models.nat.upsampling import upsample_mask
from seqkd.models.protocol import Output, ParallelSettings
from seqkd.search.cpu.weights import Arithmetic, Weights
from seqkd.text.vocabulary import PAD_ID


class StackModel(Protocol):
    """A `ParallelModel` that can decode with another `DecodingStack` that has the weights of its own stack."""

    pad_id: int
    eos_id: int
    max_positions: int
    stack: ParallelStack

    def parameters(self) -> Iterator[nn.Parameter]:
        """See `nn.Module.parameters`."""
        ...

    def translate(
        self, source: Tensor, settings: ParallelSettings, stack: DecodingStack | None = None
    ) -> Sequence[Sequence[Output]]:
        """See `ParallelModel.translate`. If `stack` is None, the model's own stack is used."""
        ...

    def strategies(self) -> tuple[str, ...]:
        """See `ParallelModel.strategies`."""
        ...


class NativeParallel:
    """A `ParallelModel` whose stack is a `NativeStack`. The other parts of the model stay in torch.

    Args:
        model: The model, on the CPU, in float32.
        arithmetic: Arithmetic of the stack's matrix products; see `NativeModel`.
    """

    def __init__(self, model: StackModel, arithmetic: Arithmetic) -> None:
        self.model, self.stack = model, NativeStack(model.stack, arithmetic)
        self.pad_id, self.eos_id, self.max_positions = model.pad_id, model.eos_id, model.max_positions

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters of the model, from which the search reads the device."""
        return self.model.parameters()

    def translate(self, source: Tensor, settings: ParallelSettings) -> Sequence[Sequence[Output]]:
        """See `ParallelModel.translate`."""
        return self.model.translate(source, settings, self.stack)

    def strategies(self) -> tuple[str, ...]:
        """See `ParallelModel.strategies`."""
        return self.model.strategies()


class NativeStack:
    """A `DecodingStack` on the CPU. Padding is not computed; its results are zero.

    Args:
        stack: The stack, on the CPU. Its weights are copied and packed for the arithmetic.
        arithmetic: Arithmetic of the matrix products; see `NativeModel`. All other computations are in float32.

    The number of threads is chosen as in `NativeModel`. The result of a sentence is the same in every bit for any
    number of threads and with any other sentences in the batch.
    """

    def __init__(self, stack: ParallelStack, arithmetic: Arithmetic) -> None:
        self._weights = Weights(stack, arithmetic)
        self.kernels, self.handle = self._weights.kernels, self._weights.handle
        self.arithmetic = arithmetic
        self.output_weight = stack.output_weight
        self.dim, self.target_vocab = stack.dim, stack.target_vocab
        self.source_room, self.target_room = len(stack.source_positions), len(stack.target_positions)
        self._split: nn.Linear | None = None

    def encode(self, source: Tensor) -> Tensor:
        """See `ParallelStack.encode`."""
        source, lengths = self._rows(source)
        memory = torch.zeros(*source.shape, self.dim)
        self.kernels.seqkd_encode(
            self.handle, len(source), pointer(source), source.size(1), pointer(lengths), pointer(memory)
        )
        return memory

    def decode(self, inputs: Tensor, real: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        """See `ParallelStack.decode`."""
        lengths = _lengths(real, self.target_room)
        source, source_lengths = self._rows(source)
        inputs, memory = inputs.float().contiguous(), memory.float().contiguous()
        features = torch.zeros_like(inputs)
        self.kernels.seqkd_decode(
            self.handle,
            len(inputs),
            pointer(inputs),
            inputs.size(1),
            pointer(lengths),
            pointer(memory),
            memory.size(1),
            pointer(source_lengths),
            pointer(features),
        )
        return features

    def top_pieces(self, features: Tensor, count: int, banned: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """See `ParallelStack.top_pieces`."""
        features = features.contiguous()
        count = min(count, self.target_vocab - len(banned))
        logits, ids = torch.empty(len(features), count), torch.empty(len(features), count, dtype=torch.long)
        sums = torch.empty(len(features))
        never = torch.tensor(banned, dtype=torch.long)
        self.kernels.seqkd_top_pieces(
            self.handle,
            len(features),
            pointer(features),
            count,
            len(never),
            pointer(never),
            pointer(logits),
            pointer(ids),
            pointer(sums),
        )
        return logits, ids, sums

    def decode_upsampled(self, source: Tensor, split: nn.Linear) -> tuple[Tensor, Tensor]:
        """See `ParallelStack.decode_upsampled`."""
        times = self._splits(split)
        source, lengths = self._rows(source, times)
        features = torch.zeros(len(source), times * source.size(1), self.dim)
        self.kernels.seqkd_upsampled(
            self.handle, len(source), pointer(source), source.size(1), pointer(lengths), pointer(features)
        )
        return features, upsample_mask(source.ne(PAD_ID), times)

    def best_upsampled_pieces(self, source: Tensor, split: nn.Linear, banned: Sequence[int]) -> tuple[Tensor, Tensor]:
        """See `ParallelStack.best_upsampled_pieces`. One call of the kernels maps source ids to target pieces."""
        times = self._splits(split)
        source, lengths = self._rows(source, times)
        count = times * int(lengths.sum())
        ids, logprobs = torch.empty(count, dtype=torch.long), torch.empty(count)
        never = torch.tensor(banned, dtype=torch.long)
        self.kernels.seqkd_best_upsampled(
            self.handle,
            len(source),
            pointer(source),
            source.size(1),
            pointer(lengths),
            len(never),
            pointer(never),
            pointer(ids),
            pointer(logprobs),
        )
        return ids, logprobs

    def _rows(self, source: Tensor, times: int = 0) -> tuple[Tensor, Tensor]:
        """Return contiguous ids and their `[batch]` int32 lengths.

        Raises:
            ValueError: A sentence does not fit the positions of the encoder, or those of the decoder with `times`
                decoder positions for each token.
        """
        room = min(self.source_room, self.target_room // times) if times else self.source_room
        return source.contiguous(), _lengths(source.ne(PAD_ID), room)

    def _splits(self, split: nn.Linear) -> int:
        """Return the decoder positions for each token. Copy the layer's weights at the first call with this layer."""
        if split is not self._split:
            self._weights.set_split(split)
            self._split = split
        return split.out_features // self.dim


def _lengths(real: Tensor, room: int) -> Tensor:
    """Return `[batch]` int32 lengths of rows `[batch, length]` that are True at positions before padding.

    Raises:
        ValueError: A row is longer than `room`.
    """
    lengths = real.sum(dim=1, dtype=torch.int32)
    if real.size(1) > room and int(lengths.max()) > room:
        raise ValueError(f"{int(lengths.max())} tokens do not fit the {room} positions of the model")
    return lengths

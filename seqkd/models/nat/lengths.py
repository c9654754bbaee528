"""Prediction of the target length for models that write all positions at once.

The lengths of both sides include end of sentence, which is the last position of the decoder. A translation therefore
always has a position, and the decoder sees where it ends.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqkd.models.protocol import Marks, PairLengths

REACH = 128  # the predicted differences of the lengths are -128 to 127
OUT_OF_REACH = f"target length differs by {REACH} tokens from the source's"
SHORTEST = 2  # one token and end of sentence


class LengthCandidates(NamedTuple):
    """The most probable lengths of sentences.

    Attributes:
        lengths: `[batch, candidates]` int64, including end of sentence, most probable first, all different.
        logprobs: `[batch, candidates]` float32; -inf for a missing candidate, whose length is meaningless.
    """

    lengths: Tensor
    logprobs: Tensor


class LengthPredictor(nn.Module):
    """Classifies target length minus source length from the mean of the encoder states.

    Ghazvininejad et al. 2019 classify the length itself from an extra token of the encoder's input. The difference
    needs fewer classes, and sentences of all lengths share them.

    Args:
        dim: Width of the encoder states.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.classes = nn.Linear(dim, 2 * REACH)
        nn.init.xavier_uniform_(self.classes.weight)
        nn.init.zeros_(self.classes.bias)

    def logits(self, memory: Tensor, real: Tensor) -> Tensor:
        """Map states `[batch, source, dim]`, with `real` `[batch, source]` True at tokens, to logits `[batch, 256]`."""
        inside = real[..., None].to(memory.dtype)
        mean = (memory * inside).sum(1) / inside.sum(1)
        return self.classes(mean).float()  # type: ignore[no-any-return]

    def loss(self, memory: Tensor, real: Tensor, target: Tensor) -> Tensor:
        """Compute the cross-entropy, mean over sentences, a scalar.

        Args:
            memory: `[batch, source, dim]` encoder states.
            real: `[batch, source]`, True at tokens.
            target: `[batch]` target lengths, including end of sentence. A length without a class counts as the nearest
                length that has one.
        """
        wanted = (target - real.sum(1) + REACH).clamp(0, 2 * REACH - 1)
        return functional.cross_entropy(self.logits(memory, real), wanted)

    def candidates(self, memory: Tensor, real: Tensor, count: int, longest: int) -> LengthCandidates:
        """Find the most probable lengths of each sentence, with at least one token and at most `longest` positions.

        Args:
            memory: `[batch, source, dim]` encoder states.
            real: `[batch, source]`, True at tokens, of which a row has at most `longest`.
            count: Number of lengths.
            longest: Maximum number of positions, including end of sentence.
        """
        logprobs = self.logits(memory, real).log_softmax(-1)
        lengths = real.sum(1, keepdim=True) + torch.arange(-REACH, REACH, device=real.device)
        logprobs = logprobs.masked_fill((lengths < SHORTEST) | (lengths > longest), float("-inf"))
        # Unlike topk, a stable sort defines the order of equal values.
        best, places = logprobs.sort(dim=-1, descending=True, stable=True)
        lengths = lengths.gather(1, places[:, :count]).clamp(SHORTEST, longest)
        return LengthCandidates(lengths, best[:, :count])


def out_of_reach(lengths: PairLengths) -> dict[str, Marks]:
    """Mark the rows whose length the predictor has no class for, by reason; see `SequenceModel.unusable`."""
    difference = lengths.target.astype("int64") - lengths.source
    return {OUT_OF_REACH: (difference < -REACH) | (difference >= REACH)}

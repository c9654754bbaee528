"""How long the translation will be, when nothing is written left to right that could end it.

A length counts end of sentence, on both sides: end of sentence is the decoder's last position. So a translation always
has a position, and the decoder sees where it ends.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqkd.models.protocol import Marks, PairLengths

REACH = 128  # the difference of the lengths is one of -128..127
OUT_OF_REACH = f"target length differs by {REACH} tokens from the source's"
SHORTEST = 2  # one token and end of sentence


class LengthCandidates(NamedTuple):
    """Lengths to try.

    Attributes:
        lengths: `[batch, candidates]` int64, end of sentence counted, most probable first, all different.
        logprobs: `[batch, candidates]` float32; -inf where a sentence has fewer possible lengths, and what `lengths`
            says there is of no account.
    """

    lengths: Tensor
    logprobs: Tensor


class LengthPredictor(nn.Module):
    """Classifies target length minus source length, from the mean of the encoder's states.

    Ghazvininejad et al. 2019 classify the length itself, from an extra token of the encoder's input; the difference
    takes fewer classes, and sentences of all lengths share them.

    Args:
        dim: Width of the encoder's states.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.classes = nn.Linear(dim, 2 * REACH)
        nn.init.xavier_uniform_(self.classes.weight)
        nn.init.zeros_(self.classes.bias)

    def logits(self, memory: Tensor, real: Tensor) -> Tensor:
        """`[batch, source, dim]` encoder states, `real` `[batch, source]` at tokens, to `[batch, 256]` float32."""
        inside = real[..., None].to(memory.dtype)
        mean = (memory * inside).sum(1) / inside.sum(1)
        return self.classes(mean).float()  # type: ignore[no-any-return]

    def loss(self, memory: Tensor, real: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy, mean over sentences, a scalar.

        Args:
            memory: `[batch, source, dim]` encoder states.
            real: `[batch, source]`, True at tokens.
            target: `[batch]` target lengths, end of sentence counted; those out of reach count as the nearest within.
        """
        wanted = (target - real.sum(1) + REACH).clamp(0, 2 * REACH - 1)
        return functional.cross_entropy(self.logits(memory, real), wanted)

    def candidates(self, memory: Tensor, real: Tensor, count: int, longest: int) -> LengthCandidates:
        """The most probable lengths of at least one token and at most `longest`, of each sentence.

        Args:
            memory: `[batch, source, dim]` encoder states.
            real: `[batch, source]`, True at tokens; `longest` at most.
            count: How many lengths.
            longest: Most positions, end of sentence counted.
        """
        logprobs = self.logits(memory, real).log_softmax(-1)
        lengths = real.sum(1, keepdim=True) + torch.arange(-REACH, REACH, device=real.device)
        logprobs = logprobs.masked_fill((lengths < SHORTEST) | (lengths > longest), float("-inf"))
        # A stable sort, unlike topk, says which of equals comes first.
        best, places = logprobs.sort(dim=-1, descending=True, stable=True)
        lengths = lengths.gather(1, places[:, :count]).clamp(SHORTEST, longest)
        return LengthCandidates(lengths, best[:, :count])


def out_of_reach(lengths: PairLengths) -> dict[str, Marks]:
    """Rows whose length the predictor cannot say, by reason; see `SequenceModel.unusable`."""
    difference = lengths.target.astype("int64") - lengths.source
    return {OUT_OF_REACH: (difference < -REACH) | (difference >= REACH)}

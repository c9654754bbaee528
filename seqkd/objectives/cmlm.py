"""Cross-entropy of masked target positions and of the length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol, cast

import torch
from pydantic import Field
from torch import Tensor

from seqkd.objectives.base import Batch, LabelSmoothing
from seqkd.objectives.masked import draw_positions, nll_at
from seqkd.objectives.terms import NOTHING, Forward, Models, TermOutput


class MaskedModel(Protocol):
    """A model that reads a partly masked target, as `Cmlm` does."""

    training: bool
    pad_id: int
    eos_id: int
    mask_id: int
    output_weight: Tensor

    def encode(self, source: Tensor) -> Tensor:
        """Map `[batch, source]` ids to encoder states `[batch, source, dim]`."""
        ...

    def length_loss(self, memory: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of the lengths `[batch]`, including end of sentence, mean over sentences."""
        ...

    def decode_features(self, inputs: Tensor, real: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        """Map `[batch, target]` ids, some of which are `mask_id`, to `[batch, target, dim]`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CmlmLossSettings:
    """Settings of `CmlmLoss`.

    Attributes:
        label_smoothing: Share of the uniform distribution in the target, 0 for none.
        length_weight: Weight of the loss of the length.
    """

    label_smoothing: LabelSmoothing = 0.1
    length_weight: Annotated[float, Field(ge=0.0)] = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class CmlmLoss:
    """Cross-entropy at randomly masked positions, given the other positions (Ghazvininejad et al. 2019).

    The number of masked positions is uniform between one and all. End of sentence is never masked. The loss is scaled
    so that, divided by the batch's target tokens, it is the mean over the masked positions plus `length_weight` times
    the mean of the length's loss over the sentences. In evaluation all positions are masked: `nll` is that of the first
    pass of decoding, which is the hardest, and nothing is random.

    Args:
        smoothing: Share of the uniform distribution in the target, 0 for none.
        length_weight: Weight of the loss of the length.
    """

    reads = NOTHING

    smoothing: float
    length_weight: float

    def count(self, batch: Batch) -> float:
        """Return the number of target tokens."""
        return batch.tokens

    def __call__(self, forward: Forward) -> TermOutput:
        """Compute the loss of a model such as `Cmlm`."""
        reader, batch = cast(MaskedModel, forward.model), forward.batch
        target = batch.target_out
        real = target.ne(reader.pad_id)
        masked = inner = real & target.ne(reader.eos_id)
        if reader.training:
            most = inner.sum(1)
            masked = draw_positions(inner, 1 + (torch.rand(len(most), device=most.device) * most).long())
        seen = real.clone()
        seen[:, 0] = True  # attention needs a visible key even in a row that is all padding
        memory = reader.encode(batch.source)
        features = reader.decode_features(target.masked_fill(masked, reader.mask_id), seen, memory, batch.source)
        places = masked.flatten().nonzero()[:, 0]
        loss, nll = nll_at(features, reader.output_weight, target, places, self.smoothing, batch.tokens)
        lengths = reader.length_loss(memory, batch.source, real.sum(1))
        return TermOutput(loss + self.length_weight * batch.tokens * lengths, nll)


def build(settings: CmlmLossSettings, _: Models) -> CmlmLoss:
    """Build the term with these settings."""
    return CmlmLoss(smoothing=settings.label_smoothing, length_weight=settings.length_weight)

"""Cross-entropy of all target positions at once and of the length, optionally with glancing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol, cast

import torch
from pydantic import Field
from torch import Tensor

from seqkd.models.nat.output import best_pieces
from seqkd.objectives.base import Batch, LabelSmoothing
from seqkd.objectives.glancing import Glancing, draw_shown
from seqkd.objectives.masked import nll_at
from seqkd.objectives.terms import NOTHING, Forward, Models, TermOutput


class CopyingModel(Protocol):
    """A model whose decoder reads a copy of the source that is as long as the target, as `Nat` does."""

    training: bool
    pad_id: int
    output_weight: Tensor

    def encode(self, source: Tensor) -> Tensor:
        """Map `[batch, source]` ids to encoder states `[batch, source, dim]`."""
        ...

    def copy_source(self, memory: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the decoder's input `[batch, target, dim]` for a known target, and the scalar loss of its length."""
        ...

    def embed_target(self, ids: Tensor) -> Tensor:
        """Map `[batch, target]` ids to embeddings `[batch, target, dim]`."""
        ...

    def decode(self, inputs: Tensor, real: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        """Decode all positions at once, to `[batch, target, dim]`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NatLossSettings:
    """Settings of `NatLoss`.

    Attributes:
        label_smoothing: Share of the uniform distribution in the target, 0 for none.
        length_weight: Weight of the loss of the length.
        glancing: See `Glancing`.
    """

    label_smoothing: LabelSmoothing = 0.1
    length_weight: Annotated[float, Field(ge=0.0)] = 0.1
    glancing: Glancing = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NatLoss:
    """Label-smoothed cross-entropy at every position of the gold length, plus that of the length.

    Without glancing it is the loss of Gu et al. 2018. With glancing (GLAT, Qian et al. 2021, section 3) a first pass
    without gradient writes the sentence. The more tokens are wrong, the more gold tokens at random positions replace
    the copied source, and the loss is the mean over the other positions.

    All values are scaled so that, divided by the batch's target tokens, they are means over the positions that are
    learned, or over the sentences for their lengths. In evaluation nothing is shown, and `nll` is that of all
    positions, given the gold length or the fertilities of the aligned gold target.

    Args:
        smoothing: Share of the uniform distribution in the target, 0 for none.
        length_weight: Weight of the loss of the length.
        glancing: Number of shown positions as a share of the wrong ones, at the start and the end of training; None for
            no glancing.
    """

    reads = NOTHING

    smoothing: float
    length_weight: float
    glancing: tuple[float, float] | None = None

    def count(self, batch: Batch) -> float:
        """Return the number of target tokens."""
        return batch.tokens

    def __call__(self, forward: Forward) -> TermOutput:
        """Compute the loss of a model such as `Nat`."""
        writer, batch = cast(CopyingModel, forward.model), forward.batch
        target = batch.target_out
        real = target.ne(writer.pad_id)
        seen = real.clone()
        seen[:, 0] = True  # attention needs a visible key even in a row that is all padding
        memory = writer.encode(batch.source)
        inputs, length_loss = writer.copy_source(memory, batch.source, target)
        places = batch.kept
        if self.glancing is not None and writer.training:
            first, last = self.glancing
            ratio = first + (last - first) * batch.progress
            glanced = draw_shown(real, _wrong(writer, batch, inputs, seen, memory), ratio)
            inputs = torch.where(glanced[..., None], writer.embed_target(target), inputs)
            places = (real & ~glanced).flatten().nonzero()[:, 0]
        features = writer.decode(inputs, seen, memory, batch.source)
        loss, nll = nll_at(features, writer.output_weight, target, places, self.smoothing, batch.tokens)
        return TermOutput(loss + self.length_weight * batch.tokens * length_loss, nll)


@torch.no_grad()
def _wrong(model: CopyingModel, batch: Batch, inputs: Tensor, real: Tensor, memory: Tensor) -> Tensor:
    """Count the tokens of each sentence that the model gets wrong without glancing, `[batch]` int64."""
    features = model.decode(inputs, real, memory, batch.source)
    wrong = torch.zeros_like(real)
    wrong[real] = best_pieces(features[real], model.output_weight).ne(batch.target_out[real])
    return (wrong & batch.target_out.ne(model.pad_id)).sum(1)


def build(settings: NatLossSettings, _: Models) -> NatLoss:
    """Build the term with these settings."""
    return NatLoss(smoothing=settings.label_smoothing, length_weight=settings.length_weight, glancing=settings.glancing)

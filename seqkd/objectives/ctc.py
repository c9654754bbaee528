"""Connectionist temporal classification (Graves et al. 2006) for translation (Libovický and Helcl 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional

from seqkd.models.nat.ctc_lattice import best_alignment, log_likelihood
from seqkd.models.nat.output import best_pieces
from seqkd.models.nat.stack import ParallelStack
from seqkd.objectives.base import Batch, LabelSmoothing
from seqkd.objectives.glancing import Glancing, Show, draw_shown
from seqkd.objectives.projection import nll_by_token, projected_nll
from seqkd.objectives.terms import NOTHING, Forward, Models, TermOutput


class FrameModel(Protocol):
    """A model that writes one piece or the blank at each of its frames, as `Ctc` does."""

    stack: ParallelStack
    pad_id: int
    blank_id: int

    def frames(self, source: Tensor) -> Tensor:
        """Return `[batch, frames]` bool, True at real frames, which come first in each row."""
        ...

    def inputs(self, memory: Tensor) -> Tensor:
        """Map encoder states to decoder inputs `[batch, frames, dim]`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CtcLossSettings:
    """Settings of `CtcLoss`.

    Attributes:
        label_smoothing: Share of the uniform distribution at each frame, 0 for none.
        glancing: See `Glancing`.
    """

    label_smoothing: LabelSmoothing = 0.0
    glancing: Glancing = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CtcLoss:
    """Negative log-likelihood of the target, summed over its alignments to the frames.

    An alignment has one symbol or blank at each frame, so the loss is the cross-entropy of blanks at all frames minus
    the `log_likelihood` of the symbols relative to the blanks. The log-probabilities of the whole vocabulary are never
    in memory.

    If a target has more tokens, and blanks between repeats, than there are frames, it has no alignment and an infinite
    loss. Models mark such rows as unusable.

    In training with glancing, loss and `nll` are those of the second pass, to which some frames are shown. In
    evaluation nothing is shown, and `nll` is exact.

    Args:
        smoothing: Share of the uniform distribution at each frame, as in label smoothing; 0 for none.
        glancing: Share of wrong frames that are shown, at the start and the end of training, and linear in between
            (GLAT, Qian et al. 2021, section 3.1; with CTC: Gu and Kong 2021, section 3.4).
        show: Draws the frames to show.
    """

    reads = NOTHING

    smoothing: float
    glancing: tuple[float, float] | None
    show: Show = draw_shown

    def count(self, batch: Batch) -> float:
        """Return the number of target tokens, or the sum of their weights."""
        return batch.total

    def __call__(self, forward: Forward) -> TermOutput:
        """Compute the loss of a `FrameModel`."""
        model, batch = forward.model, forward.batch
        frame_model = cast(FrameModel, model)
        stack = frame_model.stack
        real = frame_model.frames(batch.source)
        targets = _Targets.of(batch, real, frame_model.pad_id)
        memory = stack.encode(batch.source)
        inputs = frame_model.inputs(memory)
        if self.glancing is not None and model.training:
            start, end = self.glancing
            ratio = start + (end - start) * batch.progress
            with torch.no_grad():
                features = stack.decode(inputs, real, memory, batch.source)
                aligned, visible = _glance(frame_model, features, real, targets, ratio, self.show)
            inputs = torch.where(visible[..., None], stack.embed_target(aligned), inputs)
        features = stack.decode(inputs, real, memory, batch.source)
        counted = (real & targets.counted[:, None]).flatten().nonzero()[:, 0]
        rows = features.flatten(0, 1).index_select(0, counted)
        blanks = torch.full((len(rows),), frame_model.blank_id, device=rows.device)
        weights = batch.weights_at(counted, real.size(1))
        base, base_nll = projected_nll(rows, stack.output_weight, blanks, self.smoothing, weights)
        gain = log_likelihood(_ratios(frame_model, features, targets), targets.ids, targets.frames, targets.lengths)
        gain = torch.where(targets.counted, gain, 0.0)
        gain = gain if batch.weights is None else gain * batch.weights.rows
        by_row = None
        if forward.by_row:
            frames = nll_by_token(rows, stack.output_weight, blanks, self.smoothing)
            frames = batch.row_sums(frames if weights is None else frames * weights, counted, real.size(1))
            by_row = frames - (1 - self.smoothing) * gain.detach()
        gain = gain.sum()
        return TermOutput(base - (1 - self.smoothing) * gain, base_nll - gain.detach(), by_row)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Targets:
    """The targets to align.

    Attributes:
        ids: `[batch, target]`, without end of sentence.
        lengths: `[batch]`, numbers of tokens without end of sentence.
        frames: `[batch]`, numbers of frames, at least 1.
        counted: `[batch]` bool, False for rows that are all padding.
    """

    ids: Tensor
    lengths: Tensor
    frames: Tensor
    counted: Tensor

    @staticmethod
    def of(batch: Batch, real: Tensor, pad_id: int) -> _Targets:
        counts = batch.target_out.ne(pad_id).sum(1)
        lengths = (counts - 1).clamp(min=0)
        ids = batch.target_out[:, : max(1, batch.target_out.size(1) - 1)]
        return _Targets(ids=ids, lengths=lengths, frames=real.sum(1), counted=counts.gt(0))


def _ratios(model: FrameModel, features: Tensor, targets: _Targets) -> Tensor:
    """Compute the log-ratios of each target piece to the blank, `[batch, frames, target]` float32."""
    weight = model.stack.output_weight
    with torch.autocast(features.device.type, enabled=False):
        contrast = functional.embedding(targets.ids, weight).float() - weight[model.blank_id].float()
        return torch.bmm(features.float(), contrast.transpose(1, 2))


def _glance(
    model: FrameModel, features: Tensor, real: Tensor, targets: _Targets, ratio: float, show: Show
) -> tuple[Tensor, Tensor]:
    """Return the symbol of the best alignment at each frame, and whether the frame is shown; both `[batch, frames]`."""
    ratios = _ratios(model, features, targets)
    aligned = best_alignment(ratios, targets.ids, targets.frames, targets.lengths, model.blank_id)
    counted = real & targets.counted[:, None]
    wrong = torch.zeros_like(counted)
    wrong[counted] = best_pieces(features[counted], model.stack.output_weight).ne(aligned[counted])
    return aligned, show(counted, wrong.sum(1), ratio)


def build(settings: CtcLossSettings, _: Models) -> CtcLoss:
    """Build the term with these settings."""
    return CtcLoss(smoothing=settings.label_smoothing, glancing=settings.glancing)

"""Likelihood over all paths through a directed acyclic graph of pieces (DA-Transformer, Huang et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional

from seqkd.models.nat.output import best_pieces
from seqkd.models.nat.stack import ParallelStack
from seqkd.objectives.base import Batch
from seqkd.objectives.glancing import Glancing, Show, draw_shown
from seqkd.objectives.projection import projected_log_sum_exp
from seqkd.objectives.terms import NOTHING, Forward, Models, TermOutput

_LARGEST_EXPONENT = 700.0  # its exponential is finite in float64


class GraphModel(Protocol):
    """A model whose decoder positions are the vertices of a graph, as in `Dag`."""

    stack: ParallelStack
    pad_id: int

    def vertices(self, source: Tensor) -> Tensor:
        """Return `[batch, vertices]` bool, True at real vertices, which come first in each row."""
        ...

    def inputs(self, memory: Tensor) -> Tensor:
        """Map encoder states to decoder inputs `[batch, vertices, dim]`."""
        ...

    def transitions(self, features: Tensor, real: Tensor) -> Tensor:
        """Compute the transition probabilities `[batch, vertices, vertices]`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DagLossSettings:
    """Settings of `DagLoss`.

    Attributes:
        glancing: See `Glancing`.
    """

    glancing: Glancing = (0.5, 0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DagLoss:
    """Negative log-likelihood of the target, summed over all paths (Huang et al. 2022, section 3.3).

    In training with glancing, loss and `nll` are those of the second pass, to which some target tokens are shown. In
    evaluation nothing is shown, and `nll` is exact.

    Args:
        glancing: Share of wrong target tokens that are shown at their vertices on the best path, at the start and the
            end of training, and linear in between.
        show: Draws the tokens to show.
    """

    reads = NOTHING

    glancing: tuple[float, float] | None
    show: Show = draw_shown

    def count(self, batch: Batch) -> float:
        """Return the number of target tokens, or the sum of their weights."""
        return batch.total

    def __call__(self, forward: Forward) -> TermOutput:
        """Compute the loss of a `GraphModel`."""
        model, batch = forward.model, forward.batch
        graph = cast(GraphModel, model)
        stack = graph.stack
        real = graph.vertices(batch.source)
        memory = stack.encode(batch.source)
        inputs = graph.inputs(memory)
        if self.glancing is not None and model.training:
            start, end = self.glancing
            ratio = start + (end - start) * batch.progress
            with torch.no_grad():
                features = stack.decode(inputs, real, memory, batch.source)
                pieces, visible = _glance(graph, features, real, batch, ratio, self.show)
            inputs = torch.where(visible[..., None], stack.embed_target(pieces), inputs)
        features = stack.decode(inputs, real, memory, batch.source)
        emissions = _emissions(graph, features, real, batch)
        lengths = batch.target_out.ne(graph.pad_id).sum(1)
        sums = log_likelihood(graph.transitions(features, real), emissions, lengths)
        rows = sums if batch.weights is None else sums * batch.weights.rows
        loss = -rows.sum()
        return TermOutput(loss, loss.detach(), -rows.detach() if forward.by_row else None)


def log_likelihood(transitions: Tensor, emissions: Tensor, lengths: Tensor) -> Tensor:
    """Compute the log of the sum over all paths that start at vertex 0 and emit one token at each following vertex.

    A step over the target is a product with the transition matrix, in probabilities that are scaled by the largest one.
    Gradients come from a hand-written backward recursion. Both use float64 because of its range: a path is only lost if
    its probability up to some token is less than 1e-300 of that of the best path.

    Args:
        transitions: `[batch, vertices, vertices]` probabilities, zero except to later vertices.
        emissions: `[batch, target, vertices]`: log-probability of each token at each vertex, -inf if it is not allowed.
        lengths: `[batch]` int64, the number of tokens of each row. A row without tokens has a log-likelihood of 0.

    Returns:
        `[batch]`.
    """
    return cast(Tensor, _LogLikelihood.apply(transitions, emissions, lengths))  # type: ignore[no-untyped-call]


def best_path(transitions: Tensor, emissions: Tensor, lengths: Tensor) -> Tensor:
    """Find the most probable path (Viterbi). The arguments are those of `log_likelihood`.

    Returns:
        `[batch, target]`: the vertex of each token. Values after the length of a row are undefined.
    """
    log_transitions = transitions.log()
    rows = torch.arange(len(lengths), device=lengths.device)
    scores = [log_transitions[:, 0] + emissions[:, 0]]
    for step in range(1, emissions.size(1)):
        reached = (scores[-1][:, :, None] + log_transitions).amax(1)
        scores.append(reached + emissions[:, step])
    path = torch.zeros(emissions.shape[:2], dtype=torch.long, device=lengths.device)
    vertex = torch.zeros_like(lengths)
    for step in range(emissions.size(1) - 1, -1, -1):
        score = scores[step]
        before = (score + log_transitions[rows, :, vertex]).argmax(1)
        vertex = torch.where(lengths - 1 == step, score.argmax(1), before)
        path[:, step] = vertex
    return path


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, transitions: Tensor, emissions: Tensor, lengths: Tensor) -> Tensor:
        batch, target, count = emissions.shape
        ctx.kind = emissions.dtype
        transitions, emissions = transitions.double(), emissions.double()
        steps = emissions.transpose(0, 1)
        # For each prefix of the target, the probability of its paths by their last vertex, divided by the largest of
        # them. The log of the largest is in `scales`.
        reached = emissions.new_zeros(target + 1, batch, count)
        reached[0, :, 0] = 1
        scales = emissions.new_zeros(target + 1, batch)
        for step in range(target):
            logs = torch.bmm(reached[step][:, None], transitions)[:, 0].log_() + steps[step]
            peak = logs.amax(1)
            peak = torch.where(peak.isfinite(), peak, 0.0)
            torch.exp(logs - peak[:, None], out=reached[step + 1])
            torch.add(scales[step], peak, out=scales[step + 1])
        rows = torch.arange(batch, device=lengths.device)
        total = reached[lengths, rows].sum(1).log() + scales[lengths, rows]
        total = torch.where(lengths.gt(0), total, 0.0)
        ctx.save_for_backward(transitions, emissions, lengths, reached, scales, total)
        return total.to(ctx.kind)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        transitions, emissions, lengths, reached, scales, total = ctx.saved_tensors
        (grad,) = grads
        target = emissions.size(1)
        backward = transitions.transpose(1, 2)
        # For each token and vertex, the probability of its emission and of everything after it, divided by the total
        # and multiplied by the scale of `reached`. The product with `reached` is at most one on all possible paths.
        rest = torch.zeros_like(emissions)
        occupied = torch.zeros_like(emissions)
        ahead = torch.full_like(emissions[:, 0], -torch.inf)
        for step in range(target - 1, -1, -1):
            ahead = torch.where((lengths - 1 == step)[:, None], 0.0, ahead)
            logs = ahead + emissions[:, step]
            shifted = logs + (scales[step] - total)[:, None]
            rest[:, step] = shifted.clamp_(max=_LARGEST_EXPONENT).exp_()
            peak = logs.amax(1)
            peak = torch.where(peak.isfinite(), peak, 0.0)
            occupied[:, step] = (
                reached[step + 1] * (ahead + (scales[step + 1] - total)[:, None]).clamp_(max=_LARGEST_EXPONENT).exp_()
            )
            scaled = (logs - peak[:, None]).exp_()
            ahead = torch.bmm(scaled[:, None], backward)[:, 0].log_() + peak[:, None]
        weighted = rest * grad[:, None, None]
        to_transitions = torch.bmm(reached[:-1].permute(1, 2, 0), weighted)
        to_transitions.masked_fill_(transitions.eq(0), 0)  # without a transition the value may overflow float32
        return to_transitions.to(ctx.kind), (occupied * grad[:, None, None]).to(ctx.kind), None


def _allowed(real: Tensor, lengths: Tensor, target: int) -> Tensor:
    """Return `[batch, target, vertices]` bool: whether a token may be at a vertex.

    There must be at least as many vertices as tokens both before and after it. The last token, end of sentence, is at
    the last vertex. Vertices from which a path cannot reach the end are excluded, so that they do not determine the
    scale of a sum.
    """
    vertex = torch.arange(real.size(1), device=real.device)
    step = torch.arange(target, device=real.device)[:, None]
    count, length = real.sum(1)[:, None, None], lengths[:, None, None]
    inside = (vertex > step) & (vertex <= count - length + step) & (step < length)
    return inside & ((step < length - 1) | (vertex == count - 1))


def _emissions(model: GraphModel, features: Tensor, real: Tensor, batch: Batch) -> Tensor:
    """Compute the log-probability of each target token at each vertex, `[batch, target, vertices]` float32."""
    stack, target = model.stack, batch.target_out
    lengths = target.ne(model.pad_id).sum(1)
    sums = projected_log_sum_exp(features.flatten(0, 1), stack.output_weight).view(real.shape)
    with torch.autocast(features.device.type, enabled=False):
        pieces = functional.embedding(target, stack.output_weight).float()
        logits = torch.bmm(pieces, features.float().transpose(1, 2))
    step = torch.arange(target.size(1), device=target.device)
    is_end = (step == lengths[:, None] - 1)[..., None]
    # The last vertex emits the end of sentence with probability 1.
    emissions = (logits - sums[:, None]).masked_fill(is_end, 0.0)
    return emissions.masked_fill(~_allowed(real, lengths, target.size(1)), -torch.inf)


def _glance(
    model: GraphModel, features: Tensor, real: Tensor, batch: Batch, ratio: float, show: Show
) -> tuple[Tensor, Tensor]:
    """Return the target tokens at their vertices on the best path, and whether each is shown; both `[batch, vertices]`.

    Vertices that are not on the path hold id 0.
    """
    target = batch.target_out
    lengths = target.ne(model.pad_id).sum(1)
    emissions = _emissions(model, features, real, batch)
    path = best_path(model.transitions(features, real), emissions, lengths)
    written = torch.arange(target.size(1), device=target.device) < lengths[:, None] - 1
    on_path = features.gather(1, path[..., None].expand(-1, -1, features.size(-1)))
    wrong = torch.zeros_like(written)
    wrong[written] = best_pieces(on_path[written], model.stack.output_weight).ne(target[written])
    visible = show(written, wrong.sum(1), ratio)
    # Places after the last token of a row are written to an additional column, which is then dropped.
    place = torch.where(written, path, real.size(1))
    pieces = torch.zeros(len(real), real.size(1) + 1, dtype=torch.long, device=real.device)
    marks = torch.zeros_like(pieces, dtype=torch.bool)
    pieces.scatter_(1, place, target)
    marks.scatter_(1, place, visible)
    return pieces[:, :-1], marks[:, :-1]


def build(settings: DagLossSettings, _: Models) -> DagLoss:
    """Build the term with these settings."""
    return DagLoss(glancing=settings.glancing)

"""Divergences of a student's distributions from a teacher's: values and gradients by rows of logits, without autograd.

The direction "forward" is the cross-entropy of the student under the teacher, whose gradient is that of KL(teacher ||
student). The direction "reverse" is KL(student || teacher). If the teacher's distribution is only known for k ids and
for all others together (`SoftTargets.tail`), the distributions are compared over these k + 1 events. The student then
learns the teacher's k probabilities and the probability of the rest, but not its distribution over the rest.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from seqkd.objectives.base import SoftTargets

Direction = Literal["forward", "reverse"]


class Mixture(NamedTuple):
    """The mixture of divergence and likelihood in a word-level loss.

    Attributes:
        temperature: T, the temperature of both distributions in the divergence.
        alpha: Share of the divergence.
        smoothing: Label smoothing of the likelihood.
    """

    temperature: float
    alpha: float
    smoothing: float


def full_divergence(student: Tensor, teacher: Tensor, direction: Direction) -> tuple[Tensor, Tensor]:
    """Compute the divergence over the whole vocabulary.

    Args:
        student: `[rows, vocab]` log-probabilities.
        teacher: `[rows, vocab]` log-probabilities.
        direction: See the module.

    Returns:
        `[rows]` values in nats, and `[rows, vocab]` their gradients by the logits that `student` is the log-softmax of.
    """
    p = student.exp()
    if direction == "forward":
        q = teacher.exp()
        return -(q * student).sum(-1), p.sub_(q)
    ratio = student - teacher
    value = (p * ratio).sum(-1)
    return value, p.mul_(ratio.sub_(value[:, None]))


def sparse_divergence(student: Tensor, teacher: SoftTargets, direction: Direction) -> tuple[Tensor, Tensor]:
    """Compute the divergence over the teacher's ids and its tail, if it has one.

    Args:
        student: `[rows, vocab]` log-probabilities.
        teacher: The teacher's distributions for the same rows. The direction reverse needs a tail.
        direction: See the module.

    Returns:
        See `full_divergence`.
    """
    top = student.gather(1, teacher.ids)
    logq = teacher.logprobs.to(student.dtype)
    q, p = logq.exp(), student.exp()
    if teacher.tail is None:
        if direction == "reverse":
            raise ValueError("reverse KL needs a teacher's tail: it is infinite if the teacher's probability is zero")
        value = -(q * top).sum(-1)
        p.mul_(q.sum(-1, keepdim=True))
        return value, p.scatter_add_(1, teacher.ids, -q)
    p_top = top.exp()
    # The tail is a sum of probabilities. One minus the other probabilities would lose the digits of a small tail.
    p_tail = p.scatter_(1, teacher.ids, 0.0).sum(-1, keepdim=True)
    kept_off_zero = p_tail.clamp_min(torch.finfo(p.dtype).tiny)
    log_tail = kept_off_zero.log()
    log_q_tail = teacher.tail.to(student.dtype)[:, None]
    if direction == "forward":
        q_tail = log_q_tail.exp()
        value = -(q * top).sum(-1) - (q_tail * log_tail)[:, 0]
        mass = q.sum(-1, keepdim=True) + q_tail
        p.mul_(mass - q_tail / kept_off_zero)
        return value, p.scatter_(1, teacher.ids, p_top * mass - q)
    ratio = top - logq
    # If `ids` is the whole vocabulary, both tails are empty.
    tail_ratio = torch.where(p_tail == 0, 0.0, log_tail - log_q_tail)
    value = (p_top * ratio).sum(-1, keepdim=True) + p_tail * tail_ratio
    p.mul_(tail_ratio - value)
    return value[:, 0], p.scatter_(1, teacher.ids, p_top * (ratio - value))


def likelihood(student: Tensor, targets: Tensor, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the label-smoothed cross-entropy, as in `projected_nll`.

    Args:
        student: `[rows, vocab]` log-probabilities.
        targets: `[rows]` int64.
        smoothing: Share of the uniform distribution.

    Returns:
        `[rows]` values, their gradients by the logits `[rows, vocab]`, and the unsmoothed values `[rows]`.
    """
    nll = -student.gather(1, targets[:, None])[:, 0]
    grad = student.exp()
    grad.scatter_add_(1, targets[:, None], grad.new_full((len(targets), 1), smoothing - 1))
    if not smoothing:
        return nll, grad, nll
    grad.sub_(smoothing / student.size(1))
    return (1 - smoothing) * nll - smoothing * student.mean(-1), grad, nll


def top_k(logprobs: Tensor, k: int) -> SoftTargets:
    """Return the k likeliest ids of each row, the likeliest first, and the tail.

    Args:
        logprobs: `[rows, vocab]` log-probabilities.
        k: A number from 1 to the size of the vocabulary.
    """
    values, ids = logprobs.topk(k, dim=-1)
    rest = logprobs.scatter(1, ids, -math.inf)
    return SoftTargets(ids, values, rest.logsumexp(-1))

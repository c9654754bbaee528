"""CTC prefix beam search (Graves and Jaitly 2014; Hannun et al. 2014) for a whole batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from seqkd.models.nat.ctc_lattice import log_likelihood
from seqkd.models.nat.output import marked_places
from seqkd.models.nat.stack import DecodingStack

TOP_PIECES = 16  # number of pieces that may extend a prefix at one frame
_MULTIPLIER = 0x5851F42D4C957F2D  # Knuth's multiplier; the hash of a prefix is a polynomial in it, modulo 2**64


class _Beam(NamedTuple):
    """Prefixes and their log-probabilities. All fields are `[batch, beam]`.

    Attributes:
        blank: Log-probability of the alignments that end with a blank; -inf for a missing prefix.
        token: Log-probability of the alignments that end with a piece; -inf for a missing prefix.
        last: The last piece of the prefix, or -1.
        own: The hash of the prefix.
        before: The hash of the prefix without its last piece.
    """

    blank: Tensor
    token: Tensor
    last: Tensor
    own: Tensor
    before: Tensor


def prefix_beam(
    stack: DecodingStack,
    features: Tensor,
    real: Tensor,
    *,
    count: int,
    beam: int,
    blank: int,
    banned: tuple[int, ...],
) -> list[list[tuple[list[int], float]]]:
    """Find the most probable outputs, each summed over its alignments.

    At each frame the `TOP_PIECES` likeliest pieces may extend a prefix, and the best `beam` prefixes are kept. At the
    end the probability of each output is summed over all its alignments, including those that the search dropped.

    Args:
        stack: The stack that computes the output layer.
        features: `[batch, frames, dim]`.
        real: `[batch, frames]`, True at the frames of a row, which come first.
        count: Number of frames of all rows.
        beam: Prefixes for each sentence.
        blank: Id of the blank.
        banned: Ids that are never written.

    Returns:
        For each sentence up to `beam` outputs with their log-probabilities, best first.
    """
    batch, width, _ = features.shape
    device = features.device
    weight, frames = stack.output_weight, real.sum(1)
    places = marked_places(real, count)
    rows = features.flatten(0, 1)[places]
    logits, ids, sums = stack.top_pieces(rows, TOP_PIECES, (*banned, blank))
    blanks = functional.linear(rows, weight[blank]).float()
    pieces = _pad(ids, places, real)
    piece_ratios = _pad(logits - blanks[:, None], places, real)
    contrast = (weight - weight[blank]).float()

    shape = (batch, beam)
    none = torch.full(shape, -torch.inf, device=device)
    zeros = torch.zeros(shape, dtype=torch.long, device=device)
    start = none.clone()
    start[:, 0] = 0
    now = _Beam(start, none, zeros - 1, zeros, zeros - 1)
    parents, added = [], []
    for frame in range(width):
        last_ratio = (contrast[now.last.clamp(min=0)] @ features[:, frame, :, None].float())[..., 0]
        after, parent, piece = _step(now, last_ratio, pieces[:, frame], piece_ratios[:, frame])
        inside = (frames > frame)[:, None]
        now = _Beam(*(torch.where(inside, new, old) for new, old in zip(after, now, strict=True)))
        parents.append(torch.where(inside, parent, torch.arange(beam, device=device)))
        added.append(torch.where(inside, piece, -1))
    outputs = _trace_back(torch.stack(parents).cpu(), torch.stack(added).cpu(), now)
    base = _pad(blanks - sums, places, real).double().sum(1)
    return _sum_alignments(outputs, features, frames, contrast, base)


def _pad(rows: Tensor, places: Tensor, real: Tensor) -> Tensor:
    """Spread the frames of all sentences `[frames, ...]` to `[batch, frames, ...]`, with zeros if `real` is False."""
    padded = rows.new_zeros((real.numel(), *rows.shape[1:]))
    padded[places] = rows
    return padded.view(*real.shape, *rows.shape[1:])


def _step(now: _Beam, last_ratio: Tensor, pieces: Tensor, ratios: Tensor) -> tuple[_Beam, Tensor, Tensor]:
    """Read one frame.

    Log-probabilities are relative to that of the blank, which is the same for all prefixes.

    Returns:
        The new prefixes; for each the number of the old prefix that it continues; and the added piece, -1 for none.
    """
    total = torch.logaddexp(now.blank, now.token)
    # A prefix stays as it is if the frame is a blank or repeats its last piece.
    stay_blank = total
    stay_token = now.token + last_ratio
    # If a prefix extends another prefix of the beam by one piece, it also receives the probability of that extension.
    is_parent = now.before[:, :, None].eq(now.own[:, None]) & total[:, None].gt(-torch.inf)
    is_parent &= now.last[:, :, None].ge(0)
    repeated = now.last[:, :, None].eq(now.last[:, None])
    given = torch.where(repeated, now.blank[:, None], total[:, None]).masked_fill(~is_parent, -torch.inf)
    stay_token = torch.logaddexp(stay_token, given.amax(2) + last_ratio)  # at most one is finite
    # Extensions `[batch, beam, pieces]`, except those that are already in the beam.
    again = pieces[:, None].eq(now.last[:, :, None])
    extended = torch.where(again, now.blank[:, :, None], total[:, :, None]) + ratios[:, None]
    in_beam = (is_parent[..., None] & now.last[:, :, None, None].eq(pieces[:, None, None])).any(1)
    extended = extended.masked_fill(in_beam, -torch.inf)

    beam, count = total.size(1), pieces.size(1)
    scores = torch.cat((torch.logaddexp(stay_blank, stay_token), extended.flatten(1)), 1)
    score, best = scores.topk(beam, dim=1)
    there = score.gt(-torch.inf)  # a missing prefix gets the last piece -1, so that it is no other's extension
    stays = best < beam
    place = (best - beam).clamp(min=0)
    parent = torch.where(stays, best.clamp(max=beam - 1), place // count)
    piece = pieces.gather(1, place % count)
    own = now.own.gather(1, parent)
    after = _Beam(
        blank=torch.where(stays, stay_blank.gather(1, parent), -torch.inf),
        token=torch.where(stays, stay_token.gather(1, parent), extended.flatten(1).gather(1, place)),
        last=torch.where(stays, now.last.gather(1, parent), piece).masked_fill(~there, -1),
        own=torch.where(stays, own, own * _MULTIPLIER + piece + 1),
        before=torch.where(stays, now.before.gather(1, parent), own),
    )
    return after, parent, torch.where(stays, -1, piece)


def _trace_back(parents: Tensor, added: Tensor, now: _Beam) -> list[list[list[int]]]:
    """Return the ids of the existing prefixes of each sentence."""
    place = torch.arange(parents.size(2)).expand(parents.shape[1:])
    columns = []
    for frame in range(len(parents) - 1, -1, -1):
        columns.append(added[frame].gather(1, place))
        place = parents[frame].gather(1, place)
    there = torch.logaddexp(now.blank, now.token).gt(-torch.inf).tolist()
    steps = torch.stack(columns[::-1], 2).tolist()
    return [
        [[piece for piece in row if piece >= 0] for row, real in zip(rows, reals, strict=True) if real]
        for rows, reals in zip(steps, there, strict=True)
    ]


def _sum_alignments(
    outputs: list[list[list[int]]], features: Tensor, frames: Tensor, contrast: Tensor, base: Tensor
) -> list[list[tuple[list[int], float]]]:
    """Return the outputs with the log-probability of all their alignments, best first."""
    if not any(outputs):  # the scores are NaN, so no prefix has been kept
        return [[] for _ in outputs]
    device = features.device
    lengths = torch.tensor([len(ids) for rows in outputs for ids in rows], device=device)
    symbols = torch.zeros(len(lengths), max(1, int(lengths.max())), dtype=torch.long)
    for index, ids in enumerate(ids for rows in outputs for ids in rows):
        symbols[index, : len(ids)] = torch.tensor(ids, dtype=torch.long)
    symbols = symbols.to(device)
    owners = torch.repeat_interleave(torch.tensor([len(rows) for rows in outputs])).to(device)
    ratios = features.float()[owners] @ contrast[symbols].transpose(1, 2)
    logprobs = iter((log_likelihood(ratios, symbols, frames[owners], lengths).double() + base[owners]).tolist())
    found = [[(ids, next(logprobs)) for ids in rows] for rows in outputs]
    return [sorted(rows, key=lambda row: -row[1]) for rows in found]

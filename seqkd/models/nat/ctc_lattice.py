"""Sums and maxima over the alignments of connectionist temporal classification (Graves et al. 2006, section 4.1).

An alignment gives each frame a symbol of the target or the blank. Equal neighbouring frames are one symbol unless a
blank separates them. Every frame of an alignment has exactly one symbol or blank, so the log-probability of the
alignment is the sum of the blank's log-probabilities over all frames, plus the log-ratio to the blank at each frame
with a symbol. The functions here only take these ratios. The caller therefore needs the whole vocabulary for only one
number per frame, and blanks cost nothing.

There are two tables of states: the `lengths + 1` blanks and the symbols. A blank is reached from itself and from the
symbol before it. A symbol is reached from itself, from the blank before it and, unless the two are equal, from the
symbol before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor


def log_likelihood(ratios: Tensor, symbols: Tensor, frames: Tensor, lengths: Tensor) -> Tensor:
    """Compute the log of the sum of the probabilities of all alignments, divided by that of the all-blank alignment.

    The gradient is the probability that a frame is aligned to a symbol, from a hand-written forward-backward pass.

    Args:
        ratios: `[batch, frames, target]`: log-probability of each target symbol minus that of the blank, at each frame.
        symbols: `[batch, target]` ids, with at least one column. Values after the length of a row are ignored.
        frames: `[batch]` int64, the number of frames of each row, at least 1.
        lengths: `[batch]` int64, the number of symbols of each row.

    Returns:
        `[batch]`; -inf without a gradient if a target does not fit into its frames.
    """
    return cast(Tensor, _LogLikelihood.apply(ratios, symbols, frames, lengths))  # type: ignore[no-untyped-call]


def best_alignment(ratios: Tensor, symbols: Tensor, frames: Tensor, lengths: Tensor, blank: int) -> Tensor:
    """Find the most probable alignment (Viterbi). The arguments are those of `log_likelihood` and the id of the blank.

    Returns:
        `[batch, frames]`: the id at each frame, `blank` after the last frame of a row. The ids of a row whose target
        does not fit are undefined.
    """
    blanks, tokens = _recursion(ratios, _repeats(symbols), torch.maximum)
    repeats = _repeats(symbols)
    rows = torch.arange(len(symbols), device=symbols.device)
    last = (lengths - 1).clamp(min=0)
    at_end = tokens[frames, rows, last].masked_fill(lengths.eq(0), -torch.inf)
    on_token = at_end > blanks[frames, rows, lengths]
    place = torch.where(on_token, last, lengths)
    aligned = torch.full(ratios.shape[:2], blank, device=ratios.device)
    for frame in range(ratios.size(1) - 1, -1, -1):
        inside = frames > frame
        column = place.clamp(max=symbols.size(1) - 1)
        aligned[:, frame] = torch.where(inside & on_token, symbols[rows, column], blank)
        before = (place - 1).clamp(min=0)
        own_token, own_blank = tokens[frame, rows, column], blanks[frame, rows, place]
        token_before = tokens[frame, rows, before].masked_fill(place.eq(0), -torch.inf)
        # Predecessors of a token: itself, and the blank and the token before it. Of a blank: itself and the token
        # before it.
        skip = token_before.masked_fill(on_token & repeats[rows, column], -torch.inf)
        stay = torch.where(on_token, own_token, own_blank)
        step = torch.where(on_token, own_blank, torch.full_like(own_blank, -torch.inf))
        choice = torch.stack((stay, step, skip)).argmax(0)
        moved = inside & choice.eq(2)
        place = torch.where(moved, before, place)
        on_token = torch.where(inside & choice.ne(0), choice.eq(2), on_token)
    return aligned


def _repeats(symbols: Tensor) -> Tensor:
    """Return `[batch, target]` bool, True if a symbol equals the symbol before it."""
    repeats = torch.zeros_like(symbols, dtype=torch.bool)
    repeats[:, 1:] = symbols[:, 1:].eq(symbols[:, :-1])
    return repeats


def _recursion(ratios: Tensor, repeats: Tensor, combine: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Compute the values of all states before the first frame and after each frame.

    Returns:
        The values of the blanks, `[frames + 1, batch, target + 1]`, and of the symbols, `[frames + 1, batch, target]`.
        Those after the last symbol or frame of a row are undefined. No other state depends on them.
    """
    batch, frames, target = ratios.shape
    steps = ratios.transpose(0, 1)
    blanks = ratios.new_full((frames + 1, batch, target + 1), -torch.inf)
    blanks[:, :, 0] = 0
    tokens = ratios.new_full((frames + 1, batch, target), -torch.inf)
    for frame in range(frames):
        old_blank, old_token = blanks[frame], tokens[frame]
        new_blank, new_token = blanks[frame + 1], tokens[frame + 1]
        combine(old_blank[:, 1:], old_token, out=new_blank[:, 1:])
        entered = torch.where(repeats, old_blank[:, :-1], new_blank[:, :-1])
        combine(old_token, entered, out=new_token)
        new_token += steps[frame]
    return blanks, tokens


class _LogLikelihood(torch.autograd.Function):
    """The likelihood with its gradient. For the gradient the same recursion also runs over the reversed rows."""

    @staticmethod
    def forward(ctx: Any, ratios: Tensor, symbols: Tensor, frames: Tensor, lengths: Tensor) -> Tensor:
        batch, width, target = ratios.shape
        rows = torch.arange(batch, device=ratios.device)
        both = ctx.needs_input_grad[0]
        if both:
            places = torch.arange(width, device=ratios.device)
            columns = torch.arange(target, device=ratios.device)
            flipped_frames = (frames[:, None] - 1 - places) % width
            flipped_columns = (lengths[:, None] - 1 - columns) % target
            back = ratios.gather(1, flipped_frames[:, :, None].expand_as(ratios))
            back = back.gather(2, flipped_columns[:, None].expand_as(ratios))
            blanks, tokens = _recursion(
                torch.cat((ratios, back)),
                _repeats(torch.cat((symbols, symbols.gather(1, flipped_columns)))),
                torch.logaddexp,
            )
        else:
            blanks, tokens = _recursion(ratios, _repeats(symbols), torch.logaddexp)
        on_token = tokens[frames, rows, (lengths - 1).clamp(min=0)].masked_fill(lengths.eq(0), -torch.inf)
        total = torch.logaddexp(blanks[frames, rows, lengths], on_token)
        if both:
            ahead = tokens[1:, :batch].transpose(0, 1)
            behind = tokens[1:, batch:].transpose(0, 1)
            behind = behind.gather(1, flipped_frames[:, :, None].expand_as(ratios))
            behind = behind.gather(2, flipped_columns[:, None].expand_as(ratios))
            occupied = (ahead + behind - ratios - total[:, None, None]).exp_()
            inside = (places < frames[:, None])[:, :, None] & (columns < lengths[:, None])[:, None]
            occupied.masked_fill_(~inside | total.eq(-torch.inf)[:, None, None], 0)
            ctx.save_for_backward(occupied)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (occupied,) = ctx.saved_tensors
        return occupied * grads[0][:, None, None], None, None, None

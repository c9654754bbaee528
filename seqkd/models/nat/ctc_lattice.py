"""Sums and maxima over the alignments of connectionist temporal classification (Graves et al. 2006, section 4.1).

An alignment gives each frame a symbol of the target or the blank; equal neighbours are one symbol unless a blank stands
between them. Every alignment has exactly one symbol a frame, so its log-probability is the sum of the blank's over all
frames plus, where a symbol stands, that symbol's log-ratio to the blank. The functions here take those ratios alone:
the caller needs the whole vocabulary for one number a frame only, and blanks cost nothing.

States stand in two tables, one of the blanks, `lengths + 1` of them, one of the symbols. A blank is reached from itself
and from the symbol before it; a symbol from itself, from the blank before it and, unless it repeats it, from the symbol
before that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor


def log_likelihood(ratios: Tensor, symbols: Tensor, frames: Tensor, lengths: Tensor) -> Tensor:
    """Log of the sum of all alignments' probabilities, each divided by that of blanks only.

    The gradient is a hand-written forward-backward pass: the probability that a frame is aligned to a symbol.

    Args:
        ratios: `[batch, frames, target]` log-probability of each target symbol less the blank's, at each frame.
        symbols: `[batch, target]` ids, anything after a row's length; at least one column.
        frames: `[batch]` int64, each row's frames, at least 1.
        lengths: `[batch]` int64, each row's symbols.

    Returns:
        `[batch]`, -inf (without gradient) where a target does not fit into its frames.
    """
    return cast(Tensor, _LogLikelihood.apply(ratios, symbols, frames, lengths))  # type: ignore[no-untyped-call]


def best_alignment(ratios: Tensor, symbols: Tensor, frames: Tensor, lengths: Tensor, blank: int) -> Tensor:
    """The most probable alignment (Viterbi); arguments as for `log_likelihood`.

    Returns:
        `[batch, frames]` the id at each frame, `blank` after a row's last; a row that does not fit has any.
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
        # From a token: itself, the blank or the token before it. From a blank: itself, or the token before it.
        skip = token_before.masked_fill(on_token & repeats[rows, column], -torch.inf)
        stay = torch.where(on_token, own_token, own_blank)
        step = torch.where(on_token, own_blank, torch.full_like(own_blank, -torch.inf))
        choice = torch.stack((stay, step, skip)).argmax(0)
        moved = inside & choice.eq(2)
        place = torch.where(moved, before, place)
        on_token = torch.where(inside & choice.ne(0), choice.eq(2), on_token)
    return aligned


def _repeats(symbols: Tensor) -> Tensor:
    """`[batch, target]` bool, where a symbol equals the one before it."""
    repeats = torch.zeros_like(symbols, dtype=torch.bool)
    repeats[:, 1:] = symbols[:, 1:].eq(symbols[:, :-1])
    return repeats


def _recursion(ratios: Tensor, repeats: Tensor, combine: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Values of the blanks, `[frames + 1, batch, target + 1]`, and of the symbols, one less, before and after frames.

    States after a row's last symbol and frame hold something that no earlier one depends on.
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
    """Where a gradient is wanted, the same recursion runs over rows read backwards, beside the others."""

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

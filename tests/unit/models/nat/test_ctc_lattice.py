"""Sums and maxima over alignments, against enumeration and against torch's own loss."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from seqkd.models.nat.ctc_lattice import best_alignment, log_likelihood
from tests.properties import examples

BLANK = 0


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(piece for piece, _ in itertools.groupby(path) if piece != BLANK)


def frames_needed(symbols: Tensor, lengths: Tensor) -> Tensor:
    """Fewest frames of rows `[batch, target]`, as `Ctc.unusable` counts them."""
    rows = [row[:length] for row, length in zip(symbols.tolist(), lengths.tolist(), strict=True)]
    return lengths + torch.tensor([sum(a == b for a, b in itertools.pairwise(row)) for row in rows])


def ratios_of(logprobs: Tensor, symbols: Tensor) -> Tensor:
    """`[batch, frames, vocab]` to log-ratios of the symbols to the blank."""
    index = symbols[:, None].expand(-1, logprobs.size(1), -1)
    return logprobs.gather(2, index) - logprobs[:, :, BLANK, None]


def draw(seed: int, batch: int, frames: int, target: int, vocab: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logprobs = torch.randn(batch, frames, vocab, generator=generator, dtype=torch.float64).mul(2).log_softmax(-1)
    symbols = torch.randint(1, vocab, (batch, target), generator=generator)
    widths = torch.randint(1, frames + 1, (batch,), generator=generator)
    lengths = torch.randint(0, target + 1, (batch,), generator=generator)
    return logprobs, symbols, widths, lengths


@given(seed=st.integers(0, 10_000), frames=st.integers(1, 5), target=st.integers(1, 4), vocab=st.integers(2, 4))
@examples(40)
def test_sum_and_best_alignment_equal_enumeration(seed: int, frames: int, target: int, vocab: int) -> None:
    logprobs, symbols, widths, lengths = draw(seed, 3, frames, target, vocab)
    ratios = ratios_of(logprobs, symbols)
    got = log_likelihood(ratios, symbols, widths, lengths)
    best = best_alignment(ratios, symbols, widths, lengths, BLANK)
    for row, (width, length) in enumerate(zip(widths.tolist(), lengths.tolist(), strict=True)):
        wanted = tuple(symbols[row, :length].tolist())
        table = logprobs[row].tolist()
        scores = {
            path: sum(table[frame][piece] for frame, piece in enumerate(path))
            for path in itertools.product(range(vocab), repeat=width)
            if collapse(path) == wanted
        }
        assert (int(frames_needed(symbols, lengths)[row]) <= width) == bool(scores)
        if not scores:
            assert float(got[row]) == -math.inf
            continue
        blanks = sum(table[frame][BLANK] for frame in range(width))
        total = math.log(sum(math.exp(score) for score in scores.values()))
        assert float(got[row]) + blanks == pytest.approx(total)
        found = tuple(best[row, :width].tolist())
        assert scores[found] == pytest.approx(max(scores.values()))
        assert best[row, width:].eq(BLANK).all()


@given(seed=st.integers(0, 10_000))
@examples(20)
def test_sum_and_gradient_equal_torchs_ctc_loss(seed: int) -> None:
    logprobs, symbols, widths, lengths = draw(seed, 6, 12, 7, 5)
    logits = logprobs.requires_grad_()
    normal = logits.log_softmax(-1)
    options: dict[str, Any] = {"blank": BLANK, "reduction": "none", "zero_infinity": True}
    theirs = -functional.ctc_loss(normal.transpose(0, 1), symbols, widths, lengths, **options)
    inside = torch.arange(12) < widths[:, None]
    mine = log_likelihood(ratios_of(normal, symbols), symbols, widths, lengths)
    fits = frames_needed(symbols, lengths) <= widths
    assert torch.equal(fits, mine.isfinite())
    mine = torch.where(fits, mine + (normal[..., BLANK] * inside).sum(1), 0.0)
    torch.testing.assert_close(mine, theirs)
    weights = torch.arange(1.0, 7.0, dtype=torch.float64)
    got, want = (torch.autograd.grad((value * weights).sum(), logits, retain_graph=True)[0] for value in (mine, theirs))
    torch.testing.assert_close(got, want)


def test_gradient_is_right_and_none_where_nothing_fits() -> None:
    logprobs, symbols, _, _ = draw(3, 3, 6, 3, 4)
    symbols[0] = torch.tensor([1, 1, 2])
    widths, lengths = torch.tensor([6, 5, 2]), torch.tensor([3, 2, 3])

    def total(ratios: Tensor) -> Tensor:
        sums = log_likelihood(ratios, symbols, widths, lengths)
        return torch.where(sums.isfinite(), sums, 0.0)

    ratios = ratios_of(logprobs, symbols).requires_grad_()
    assert torch.autograd.gradcheck(total, (ratios,))
    (grad,) = torch.autograd.grad(total(ratios).sum(), ratios)
    assert not grad[2].any()
    assert grad[0].any()


def test_long_and_extreme_rows_stay_finite() -> None:
    generator = torch.Generator().manual_seed(0)
    ratios = (50 * torch.randn(2, 400, 150, generator=generator)).requires_grad_()
    symbols = torch.randint(1, 50, (2, 150), generator=generator)
    sums = log_likelihood(ratios, symbols, torch.tensor([400, 390]), torch.tensor([150, 140]))
    assert sums.isfinite().all()
    (grad,) = torch.autograd.grad(sums.sum(), ratios)
    assert grad.isfinite().all()
    assert float(grad.sum(2).max()) <= 1.05  # sums of some 20,000 nats, rounded to float32

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from seqkd.models.nat.ctc import Ctc
from seqkd.models.protocol import ParallelSettings
from seqkd.objectives.base import Batch
from seqkd.objectives.ctc import CtcLoss
from seqkd.objectives.glancing import draw_shown
from tests.properties import examples
from tests.unit.models.nat.ctc_dag import BLANK, EOS, PAD, ctc_model, source_of
from tests.unit.models.nat.support import pair_lengths
from tests.unit.objectives.ctc_dag import batch_of, empty_batch
from tests.unit.objectives.support import loss_of

PLAIN = CtcLoss(smoothing=0.0, glancing=None)


def logits_of(model: Ctc, source: Tensor) -> Tensor:
    memory = model.stack.encode(source)
    return model.stack.project(model.stack.decode(model.inputs(memory), model.frames(source), memory, source))


def torchs_own(model: Ctc, batch: Batch, smoothing: float) -> tuple[Tensor, Tensor]:
    """Loss with smoothed frames, and without."""
    logprobs = logits_of(model, batch.source).log_softmax(-1)
    real = model.frames(batch.source)
    targets = batch.target_out.masked_fill(batch.target_out.eq(EOS), PAD)
    lengths = targets.ne(PAD).sum(1)
    options: dict[str, Any] = {"blank": BLANK, "reduction": "sum"}
    nll = functional.ctc_loss(logprobs.transpose(0, 1), targets, real.sum(1), lengths, **options)
    uniform = -(logprobs.mean(-1) * real).sum()
    return (1 - smoothing) * nll + smoothing * uniform, nll


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_torchs_ctc_loss_with_its_gradients(smoothing: float) -> None:
    model = ctc_model()
    batch = batch_of([[5, 6, 7], [7], [9, 9]], [[8, 9, 9, 10], [11, 4], []])
    output = loss_of(CtcLoss(smoothing=smoothing, glancing=None), model, batch)
    loss, nll = torchs_own(model, batch, smoothing)
    torch.testing.assert_close(output.loss, loss)
    torch.testing.assert_close(output.nll, nll.detach())
    assert not output.nll.requires_grad
    assert PLAIN.count(batch) == batch.tokens == 9
    output.loss.backward()  # type: ignore[no-untyped-call]
    got = [weight.grad for weight in model.parameters()]
    for mine, theirs in zip(got, torch.autograd.grad(loss, list(model.parameters())), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_padding_and_company_change_nothing() -> None:
    model = ctc_model()
    rows = [([5, 6, 7], [8, 9, 9]), ([7], [11, 4]), ([4, 4], [])]
    alone = [loss_of(PLAIN, model, batch_of([source], [target])).loss for source, target in rows]
    together = loss_of(
        PLAIN, model, batch_of([row[0] for row in rows], [row[1] for row in rows], source_room=7, room=6)
    )
    torch.testing.assert_close(together.loss, torch.stack(alone).sum())


@given(target=st.lists(st.integers(8, 9), max_size=8), source=st.integers(0, 4))
@examples(40)
def test_the_loss_is_finite_for_all_rows_that_the_model_takes(target: list[int], source: int) -> None:
    model = ctc_model(upsample=2)
    repeats = sum(a == b for a, b in itertools.pairwise(target))
    lengths = pair_lengths(source=[source], target=[len(target)], repeats=[repeats])
    taken = not any(marks.any() for marks in model.unusable(lengths).values())
    batch = batch_of([[5] * source], [target])
    for glancing in (None, (0.5, 0.5)):
        model.train()
        output = loss_of(CtcLoss(smoothing=0.1, glancing=glancing), model, batch)
        assert output.loss.isfinite() == output.nll.isfinite() == taken


@pytest.mark.parametrize("glancing", [None, (1.0, 0.5)])
def test_a_batch_without_tokens_has_no_loss_and_no_gradient(glancing: tuple[float, float] | None) -> None:
    model = ctc_model().train()
    output = loss_of(CtcLoss(smoothing=0.1, glancing=glancing), model, empty_batch())
    assert (output.loss.item(), output.nll.item(), PLAIN.count(empty_batch())) == (0.0, 0.0, 0)
    output.loss.backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())


def test_glancing_shows_the_aligned_symbols_of_wrong_frames() -> None:
    model = ctc_model().train()
    batch = batch_of([[5, 6, 7], [7]], [[8, 9, 9, 10], [11, 4]], progress=0.5)
    asked: list[tuple[Tensor, Tensor, float]] = []
    answered: list[Tensor] = []

    def noted(real: Tensor, distance: Tensor, ratio: float) -> Tensor:
        asked.append((real, distance, ratio))
        answered.append(draw_shown(real, distance, ratio))
        return answered[-1]

    output = loss_of(CtcLoss(smoothing=0.0, glancing=(1.0, 0.5), show=noted), model, batch)
    ((real, distance, ratio),) = asked
    assert ratio == 0.75
    assert torch.equal(real, model.frames(batch.source))
    assert distance.le(real.sum(1)).all()
    assert distance.gt(0).all()
    assert torch.equal(answered[0].sum(1), (0.75 * distance).round().long())
    assert output.loss.item() != pytest.approx(loss_of(PLAIN, model, batch).loss.item(), abs=1e-3)


def test_everything_shown_is_the_alignment_itself() -> None:
    """A model whose decoder copies its input: what is shown comes back, and the loss is nearly none."""
    model = ctc_model(vocab=12).train()
    with torch.no_grad():
        for layer in model.stack.decoder:
            for name, weight in layer.named_parameters():
                if "norm" not in name:
                    weight.zero_()
        model.stack.output_weight.mul_(20)
        model.stack.target_positions.zero_()
    batch = batch_of([[5, 6, 7], [7]], [[8, 9, 9, 10], [11, 4]])
    shown_all = loss_of(CtcLoss(smoothing=0.0, glancing=(1.0, 1.0)), model, batch)
    assert shown_all.nll < 0.3 * loss_of(PLAIN, model, batch).nll


def test_evaluation_is_deterministic_and_shows_nothing() -> None:
    model = ctc_model(dropout=0.3)
    batch = batch_of([[5, 6, 7], [7]], [[8, 9, 9, 10], [11, 4]])
    outputs = [loss_of(CtcLoss(smoothing=0.0, glancing=(1.0, 1.0)), model, batch) for _ in range(2)]
    assert outputs[0].nll.item() == outputs[1].nll.item() == loss_of(PLAIN, model, batch).nll.item()


@pytest.mark.parametrize("glancing", [None, (0.5, 0.3)])
def test_learns_a_few_sentences_by_heart(glancing: tuple[float, float] | None) -> None:
    model = ctc_model(upsample=3).train()
    sources, targets = [[5, 6, 7], [7, 8], [9]], [[8, 9, 9, 10], [11, 4, 5], [6, 6]]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    objective = CtcLoss(smoothing=0.0, glancing=glancing)
    for step in range(150):
        optimizer.zero_grad()
        loss_of(objective, model, batch_of(sources, targets, progress=step / 150)).loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
    for candidates in (1, 4):
        with torch.inference_mode():
            found = model.translate(source_of(*sources), ParallelSettings(candidates=candidates))
        assert [outputs[0].ids for outputs in found] == targets

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from seqkd.models.nat.cmlm import Cmlm
from seqkd.models.protocol import ParallelSettings
from seqkd.models.settings import StackSettings
from seqkd.objectives.base import Batch
from seqkd.objectives.cmlm import CmlmLoss
from tests.unit.models.nat.support import EOS, PAD, SIZES, VOCABS
from tests.unit.objectives.support import batch_of, loss_of
from tests.unit.training.support import VOCAB, TableData, copy_rows, settings, train

PAIRS = [([5, 6, 7], [8, 9, 10, 11]), ([12], [13, 14]), ([15, 16], [17])]
LOSS = CmlmLoss(smoothing=0.1, length_weight=0.5)


class Spied(Cmlm):
    """Remembers what its decoder read."""

    def decode_features(self, inputs: Tensor, real: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        self.read = inputs
        return super().decode_features(inputs, real, memory, source)


def cmlm(**more: Any) -> Spied:
    torch.manual_seed(0)
    return Spied(StackSettings(**{**SIZES, "dropout": 0.0, **more}), **VOCABS)


def definition(model: Spied, batch: Batch, read: Tensor, smoothing: float) -> Tensor:
    """The mean over the masked positions, and the length's, times the batch's tokens."""
    memory, real = model.encode(batch.source), batch.target_out.ne(PAD)
    features = model.stack.decode(model.stack.embed_target(read), real, memory, batch.source)
    masked = read.eq(model.mask_id)
    logits, wanted = model.stack.project(features)[masked], batch.target_out[masked]
    tokens = functional.cross_entropy(logits, wanted, label_smoothing=smoothing)
    both = tokens + 0.5 * model.length_loss(memory, batch.source, real.sum(1))
    return both * float(batch.tokens)


def test_masks_one_to_all_tokens_and_learns_those() -> None:
    model, batch = cmlm(), batch_of(PAIRS)
    inner = batch.target_out.ne(PAD) & batch.target_out.ne(EOS)
    seen: list[set[tuple[bool, ...]]] = [set(), set(), set()]
    for seed in range(200):
        torch.manual_seed(seed)
        output = loss_of(LOSS, model, batch)
        masked = model.read.eq(model.mask_id)
        assert masked.any(1).all()
        assert not (masked & ~inner).any()
        assert torch.equal(model.read[~masked], batch.target_out[~masked])
        for patterns, row in zip(seen, masked.tolist(), strict=True):
            patterns.add(tuple(row))
        if seed < 5:
            torch.testing.assert_close(output.loss, definition(model, batch, model.read, 0.1))
    assert [len(patterns) for patterns in seen] == [15, 3, 1]  # all subsets but the empty one


def test_gradients_are_those_of_the_definition() -> None:
    model, batch = cmlm(embeddings="separate"), batch_of(PAIRS)
    loss_of(LOSS, model, batch).loss.backward()  # type: ignore[no-untyped-call]
    want = definition(model, batch, model.read, 0.1)
    for weight, gradient in zip(model.parameters(), torch.autograd.grad(want, list(model.parameters())), strict=True):
        assert weight.grad is not None
        assert weight.grad.any()
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-5)


def test_evaluation_masks_all_and_repeats() -> None:
    model, batch = cmlm(dropout=0.3).eval(), batch_of(PAIRS)
    output = loss_of(LOSS, model, batch)
    masked = model.read.eq(model.mask_id)
    assert torch.equal(masked, batch.target_out.ne(PAD) & batch.target_out.ne(EOS))
    assert loss_of(LOSS, model, batch).nll == output.nll
    plain = loss_of(CmlmLoss(smoothing=0.0, length_weight=0.0), model, batch)
    torch.testing.assert_close(plain.loss, output.nll)


def test_padding_changes_nothing() -> None:
    model = cmlm().eval()
    pairs = PAIRS[:2]
    means = [float(loss_of(LOSS, model, batch_of([pair])).nll) / (len(pair[1]) + 1) for pair in pairs]
    both = batch_of(pairs)
    assert float(loss_of(LOSS, model, both).nll) / LOSS.count(both) == pytest.approx(
        (4 * means[0] + 2 * means[1]) / 6, abs=1e-5
    )


def test_a_batch_without_tokens_has_no_loss_and_no_gradient() -> None:
    model = cmlm()
    output = loss_of(LOSS, model, batch_of([]))
    assert output.loss.item() == 0.0
    output.loss.backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.parameters())


def test_learns_eight_sentences_by_heart(tmp_path: Path) -> None:
    rows = copy_rows(8)
    torch.manual_seed(1)
    sizes = {**SIZES, "dim": 32, "dropout": 0.0}
    objective = CmlmLoss(smoothing=0.0, length_weight=0.5)
    model, _, _ = train(
        tmp_path,
        settings(400, validate_every=400),
        model=Cmlm(StackSettings(**sizes), source_vocab=VOCAB, target_vocab=VOCAB),
        objective=objective,
        data=TableData(rows, batch_tokens=200),
    )
    assert isinstance(model, Cmlm)
    for iterations in (1, 4):
        for row in rows.column("source_ids").to_pylist():
            (found,) = model.translate(torch.tensor([[*row, 2]]), ParallelSettings(iterations=iterations))
            assert found[0].ids == row, iterations

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from seqkd.models.settings import TransformerSettings
from seqkd.models.transformer import Transformer
from seqkd.objectives.base import Batch
from seqkd.objectives.nll import LabelSmoothedNll
from tests.unit.objectives.support import loss_of


def batch_of(source: list[list[int]], target_out: list[list[int]]) -> Batch:
    out = torch.tensor(target_out)
    target_in = torch.cat([torch.full((len(out), 1), 2), out[:, :-1]], 1)
    target_in[:, 1:][target_in[:, 1:].eq(2)] = 1
    kept = out.flatten().ne(1).nonzero()[:, 0]
    return Batch(np.arange(len(out)), torch.tensor(source), target_in, out, kept, len(kept))


def model_of(*, output_bias: bool = False) -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        TransformerSettings(
            dim=16,
            heads=2,
            ffn_dim=32,
            encoder_layers=1,
            decoder_layers=1,
            dropout=0.0,
            output_bias=output_bias,
        ),
        source_vocab=20,
        target_vocab=20,
    )


@pytest.mark.parametrize("output_bias", [False, True])
def test_equals_cross_entropy_of_the_models_logits(output_bias: bool) -> None:
    model = model_of(output_bias=output_bias)
    if model.output_bias is not None:
        torch.nn.init.normal_(model.output_bias)
    batch = batch_of([[5, 6, 2], [7, 2, 1]], [[8, 9, 10, 2], [11, 2, 1, 1]])
    output = loss_of(LabelSmoothedNll(smoothing=0.1), model, batch)
    logits, targets = model(batch.source, batch.target_in).flatten(0, 1), batch.target_out.flatten()
    options = {"ignore_index": 1, "reduction": "sum"}
    want = functional.cross_entropy(logits, targets, label_smoothing=0.1, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(output.loss, want)
    torch.testing.assert_close(output.nll, functional.cross_entropy(logits, targets, **options).detach())  # type: ignore[arg-type]
    assert LabelSmoothedNll(smoothing=0.1).count(batch) == 6
    output.loss.backward()  # type: ignore[no-untyped-call]
    got = [weight.grad for weight in model.parameters()]
    for mine, theirs in zip(got, torch.autograd.grad(want, list(model.parameters())), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_padding_changes_nothing() -> None:
    model, objective = model_of(), LabelSmoothedNll(smoothing=0.1)
    short, padded = batch_of([[5, 6, 2]], [[8, 2]]), batch_of([[5, 6, 2, 1, 1]], [[8, 2, 1, 1]])
    losses = [loss_of(objective, model, batch).loss for batch in (short, padded)]
    torch.testing.assert_close(*losses)
    assert objective.count(short) == objective.count(padded) == 2


def test_a_batch_without_tokens_has_no_loss_and_no_gradient() -> None:
    model = model_of()
    output = loss_of(LabelSmoothedNll(smoothing=0.1), model, batch_of([[2]], [[1]]))
    assert output.loss.item() == 0.0
    output.loss.backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from seqkd.models.nat.vanilla import CopyFrom, Nat, NatSettings
from seqkd.models.protocol import ParallelSettings
from seqkd.objectives.nat import NatLoss
from tests.unit.models.nat.support import PAD, SIZES, VOCABS
from tests.unit.objectives.support import batch_of, loss_of
from tests.unit.training.support import VOCAB, TableData, copy_rows, settings, train

PAIRS = [([5, 6, 7], [8, 9, 10, 11]), ([12], [13, 14]), ([15, 16], [17])]


def nat(*, copy_from: CopyFrom = "uniform", **more: Any) -> Nat:
    torch.manual_seed(0)
    return Nat(NatSettings(**{**SIZES, "dropout": 0.0, **more}, copy_from=copy_from), **VOCABS)


def loss(**more: Any) -> NatLoss:
    return NatLoss(**{"smoothing": 0.1, "length_weight": 0.5, **more})


@pytest.mark.parametrize("copy_from", ["uniform", "fertility"])
def test_equals_its_definition(copy_from: CopyFrom) -> None:
    model, batch = nat(copy_from=copy_from), batch_of(PAIRS)
    output = loss_of(loss(), model, batch)
    memory = model.encode(batch.source)
    inputs, length = model.copy_source(memory, batch.source, batch.target_out)
    logits = model.stack.project(model.decode(inputs, batch.target_out.ne(PAD), memory, batch.source)).flatten(0, 1)
    targets, options = batch.target_out.flatten(), {"ignore_index": PAD, "reduction": "sum"}
    tokens = functional.cross_entropy(logits, targets, label_smoothing=0.1, **options)  # type: ignore[arg-type]
    want = tokens + 0.5 * 10 * length
    torch.testing.assert_close(output.loss, want)
    torch.testing.assert_close(output.nll, functional.cross_entropy(logits, targets, **options).detach())  # type: ignore[arg-type]
    assert loss().count(batch) == 10
    output.loss.backward()  # type: ignore[no-untyped-call]
    got = [weight.grad for weight in model.parameters()]
    for mine, theirs in zip(got, torch.autograd.grad(want, list(model.parameters())), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("embeddings", ["shared", "decoder"])
@pytest.mark.parametrize("copy_from", ["uniform", "fertility"])
def test_every_weight_has_a_gradient(copy_from: CopyFrom, embeddings: str) -> None:
    model = nat(copy_from=copy_from, embeddings=embeddings, positions="learned")
    loss_of(loss(), model, batch_of(PAIRS)).loss.backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters())


@pytest.mark.parametrize("copy_from", ["uniform", "fertility"])
def test_padding_changes_nothing(copy_from: CopyFrom) -> None:
    model, objective = nat(copy_from=copy_from).eval(), loss()
    alone = [loss_of(objective, model, batch_of([pair])).nll for pair in PAIRS]
    torch.testing.assert_close(loss_of(objective, model, batch_of(PAIRS)).nll, torch.stack(alone).sum())


@pytest.mark.parametrize("glancing", [None, (0.5, 0.5)])
@pytest.mark.parametrize("copy_from", ["uniform", "fertility"])
def test_a_batch_without_tokens_has_no_loss_and_no_gradient(copy_from: CopyFrom, glancing: Any) -> None:
    model = nat(copy_from=copy_from)
    output = loss_of(loss(glancing=glancing), model, batch_of([]))
    assert output.loss.item() == 0.0
    output.loss.backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.parameters())


class Spied(Nat):
    """Remembers what its decoder read."""

    def decode(self, inputs: Tensor, real: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        self.passes = [*getattr(self, "passes", []), inputs.detach()]
        return super().decode(inputs, real, memory, source)


@pytest.mark.parametrize(("glancing", "progress", "ratio"), [((1.0, 0.0), 0.5, 0.5), ((0.2, 0.8), 1.0, 0.8)])
def test_glancing_shows_gold_tokens_and_learns_from_the_others(
    glancing: tuple[float, float], progress: float, ratio: float
) -> None:
    torch.manual_seed(0)
    # With tables of their own a copied token is never what would be shown in its place.
    model = Spied(NatSettings(**{**SIZES, "dropout": 0.0, "embeddings": "decoder"}), **VOCABS)
    batch = batch_of(PAIRS)._replace(progress=progress)
    torch.manual_seed(4)
    output = loss_of(loss(glancing=glancing, length_weight=0.0), model, batch)
    first, second = model.passes
    memory, real = model.encode(batch.source), batch.target_out.ne(PAD)
    written = model.stack.project(model.decode(first, real, memory, batch.source)).argmax(-1)
    distance = (written.ne(batch.target_out) & real).sum(1).tolist()
    shown = second.ne(first).any(-1)
    assert shown.sum(1).tolist() == [round(ratio * count) for count in distance]
    torch.testing.assert_close(second[shown], model.embed_target(batch.target_out)[shown])
    left = real & ~shown
    logits = model.stack.project(model.decode(second, real, memory, batch.source))
    want = functional.cross_entropy(logits[left], batch.target_out[left], label_smoothing=0.1)
    torch.testing.assert_close(output.loss, want * 10)


def test_evaluation_shows_nothing_and_repeats() -> None:
    model, batch = nat(dropout=0.3).eval(), batch_of(PAIRS)
    glancing = loss(glancing=(1.0, 1.0))
    found = [loss_of(term, model, batch).nll for term in (glancing, glancing, loss())]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(("copy_from", "glancing"), [("uniform", None), ("uniform", (0.5, 0.3)), ("fertility", None)])
def test_learns_eight_sentences_by_heart(tmp_path: Path, copy_from: CopyFrom, glancing: Any) -> None:
    rows = copy_rows(8)
    torch.manual_seed(1)
    sizes = {**SIZES, "dim": 32, "dropout": 0.0}
    objective = loss(glancing=glancing, smoothing=0.0)
    model, _, _ = train(
        tmp_path,
        settings(150, validate_every=150),
        model=Nat(NatSettings(**sizes, copy_from=copy_from), source_vocab=VOCAB, target_vocab=VOCAB),
        objective=objective,
        data=TableData(rows),
    )
    assert isinstance(model, Nat)
    for row in rows.column("source_ids").to_pylist():
        (found,) = model.translate(torch.tensor([[*row, 2]]), ParallelSettings())
        assert found[0].ids == row

"""The margin of targets over rivals, against its formula."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from seqkd.config.tables import adapter
from seqkd.models.registry import Traces, build
from seqkd.models.trace import traced
from seqkd.objectives.base import Batch, RowWeights
from seqkd.objectives.margin import Kind, Margin, MarginSettings
from seqkd.objectives.nll import LabelSmoothedNll
from seqkd.objectives.terms import Forward, Term
from seqkd.training.translation import collate
from tests.unit.objectives.support import SPECIAL

ROWS: list[tuple[list[int], list[int], list[int], float]] = [
    ([5, 6], [8, 9, 10], [8, 4], 0.75),
    ([7, 9, 4], [11], [11], 0.0),
    ([12, 13, 14, 15], [4, 5], [4, 5, 6, 7, 8, 9], 0.25),
    ([5], [10, 11], [], 0.5),
]
SIZES = {"dim": 16, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0, "max_positions": 32}
HEADS = {**SIZES, "heads": 2, "ffn_dim": 32}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "transformer": HEADS,
    "biased": {**HEADS, "arch": "transformer", "output_bias": True},
    "lstm": SIZES,
    "sru": HEADS,
}
BOTH = [Margin(kind="ramp"), Margin(kind="hinge", cost=2.0)]


def batch_of(rows: list[tuple[list[int], list[int], list[int], float]]) -> Batch:
    lists = pa.list_(pa.int32())
    columns = {
        "id": pa.array(range(len(rows)), pa.int64()),
        "source_ids": pa.array([row[0] for row in rows], lists),
        "target_ids": pa.array([row[1] for row in rows], lists),
        "rival_ids": pa.array([row[2] for row in rows], lists),
        "rival_margin": pa.array([row[3] for row in rows], pa.float32()),
    }
    return collate(pa.table(columns), SPECIAL)


def model_of(name: str) -> nn.Module:
    settings = dict(ARCHITECTURES[name])
    torch.manual_seed(3)
    model: nn.Module = build(str(settings.pop("arch", name)), settings, source_vocab=20, target_vocab=20)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model.train()


def score(model: nn.Module, source: list[int], target: list[int]) -> Tensor:
    """Mean log-probability of the tokens of one target, end of sentence included."""
    logits = model(torch.tensor([[*source, 2]]), torch.tensor([[2, *target]]))
    found: Tensor = logits.log_softmax(-1)[0].gather(1, torch.tensor([*target, 2])[:, None])
    return found.mean()


def expected_rows(model: nn.Module, kind: Kind, cost: float) -> list[Tensor]:
    found = []
    for source, target, rival, margin in ROWS:
        apart = score(model, source, target) - score(model, source, rival)
        found.append(-apart if kind == "ramp" else torch.clamp(cost * margin - apart, min=0.0))
    found[1] = torch.zeros(())  # its rival is its target
    return found


@pytest.mark.parametrize("term", BOTH, ids=["ramp", "hinge"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_value_and_gradient_are_those_of_the_formula(name: str, term: Margin) -> None:
    model, batch = model_of(name), batch_of(ROWS)
    weights = torch.tensor([0.5, 1.0, 2.0, 1.0])
    for given in (None, RowWeights(weights, 1.0)):
        rows = expected_rows(model, term.kind, term.cost)
        rows = rows if given is None else [row * weight for row, weight in zip(rows, weights, strict=True)]
        output = term(Forward(model, batch._replace(weights=given), by_row=True))
        assert output.rows is not None
        assert output.nll is None
        torch.testing.assert_close(output.rows, torch.stack(rows).detach(), rtol=1e-4, atol=1e-5)
        total = torch.stack(rows).sum()
        torch.testing.assert_close(output.loss, total, rtol=1e-4, atol=1e-5)
        assert term.count(batch._replace(weights=given)) == (4 if given is None else 4.5)
        wanted = torch.autograd.grad(total, list(model.parameters()))
        found = torch.autograd.grad(output.loss, list(model.parameters()))
        assert any(float(grad.abs().max()) > 1e-3 for grad in wanted)
        for got, want in zip(found, wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("term", BOTH, ids=["ramp", "hinge"])
@pytest.mark.parametrize("kind", ["equal", "idle", "no rivals"])
def test_rows_without_a_rival_contribute_nothing_and_touch_all_weights(term: Margin, kind: str) -> None:
    rows = [] if kind == "idle" else [ROWS[1]]
    model, batch = model_of("transformer"), batch_of(rows)
    batch = batch._replace(rivals=None) if kind == "no rivals" else batch
    output = term(Forward(model, batch, by_row=True))
    assert output.loss.item() == 0.0
    assert output.rows is not None
    assert output.rows.tolist() == [0.0]
    assert term.count(batch) == len(rows)
    used = torch.autograd.grad(output.loss, list(model.parameters()))
    assert not any(grad.any() for grad in used)


def test_a_hinge_that_is_met_costs_nothing() -> None:
    model, batch = model_of("transformer"), batch_of(ROWS)
    assert batch.rivals is not None
    met = batch._replace(rivals=batch.rivals._replace(margins=torch.full((4,), -100.0)))
    assert Margin(kind="hinge")(Forward(model, met)).loss.item() == 0.0


def test_the_trace_of_other_terms_stays_that_of_the_targets() -> None:
    model, batch = model_of("transformer"), batch_of(ROWS)
    wanted = Traces(hidden=("decoder",), attention=("cross",))
    with traced(model, wanted) as alone:
        _ = Forward(model, batch, trace=alone).features
    orders: list[list[Term]] = [
        [Margin(), LabelSmoothedNll(smoothing=0.0)],
        [LabelSmoothedNll(smoothing=0.0), Margin()],
    ]
    for terms in orders:
        with traced(model, wanted) as trace:
            forward = Forward(model, batch, trace=trace)
            for term in terms:
                term(forward)
            torch.testing.assert_close(forward.trace.hidden, alone.hidden)
            torch.testing.assert_close(forward.trace.attention, alone.attention)


def test_a_ramp_has_no_cost() -> None:
    read = adapter("seqkd.objectives.margin:MarginSettings").validate_python
    with pytest.raises(ValidationError, match="cost: is for"):
        read({"kind": "ramp", "cost": 2.0})
    assert read({}) == MarginSettings(kind="hinge", cost=1.0)

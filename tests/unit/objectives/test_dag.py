from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seqkd.models.nat.dag import Dag
from seqkd.models.protocol import ParallelSettings
from seqkd.objectives import dag as module
from seqkd.objectives.dag import DagLoss, best_path, log_likelihood
from seqkd.objectives.glancing import draw_shown
from tests.properties import examples
from tests.unit.models.nat.ctc_dag import dag_model, source_of
from tests.unit.models.nat.support import pair_lengths
from tests.unit.objectives.ctc_dag import batch_of, empty_batch
from tests.unit.objectives.support import loss_of

PLAIN = DagLoss(glancing=None)


def draw(seed: int, batch: int, target: int, count: int, scale: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """Transitions, emissions with holes, lengths; every row has a path."""
    generator = torch.Generator().manual_seed(seed)
    later = torch.ones(count, count, dtype=torch.bool).triu(1)
    logits = scale * torch.randn(batch, count, count, generator=generator, dtype=torch.float64)
    transitions = logits.masked_fill(~later, -1e9).softmax(-1).masked_fill(~later, 0)
    emissions = scale * torch.randn(batch, target, count, generator=generator, dtype=torch.float64) - 3
    lengths = torch.randint(1, target + 1, (batch,), generator=generator)
    vertex, step = torch.arange(count), torch.arange(target)[:, None]
    keep = (vertex > step) & (vertex <= count - lengths[:, None, None] + step)
    return transitions, emissions.masked_fill(~keep, -torch.inf), lengths


def paths_of(transitions: Tensor, emissions: Tensor, length: int) -> dict[tuple[int, ...], float]:
    """Log-probability of every path of one row."""
    scores = {}
    for path in itertools.combinations(range(1, transitions.size(0)), length):
        total = 1.0
        for step, (before, vertex) in enumerate(zip((0, *path), path, strict=False)):
            total *= float(transitions[before, vertex]) * math.exp(float(emissions[step, vertex]))
        if total:
            scores[path] = math.log(total)
    return scores


@given(seed=st.integers(0, 10_000), target=st.integers(1, 4), more=st.integers(1, 4))
@examples(40)
def test_sum_and_best_path_equal_enumeration(seed: int, target: int, more: int) -> None:
    transitions, emissions, lengths = draw(seed, 3, target, target + more)
    sums = log_likelihood(transitions, emissions, lengths)
    best = best_path(transitions, emissions, lengths)
    for row, length in enumerate(lengths.tolist()):
        scores = paths_of(transitions[row], emissions[row], length)
        assert float(sums[row]) == pytest.approx(math.log(sum(map(math.exp, scores.values()))))
        assert scores[tuple(best[row, :length].tolist())] == pytest.approx(max(scores.values()))


@given(seed=st.integers(0, 10_000))
@examples(10)
def test_gradients_equal_finite_differences(seed: int) -> None:
    transitions, emissions, lengths = draw(seed, 2, 3, 6)
    transitions.requires_grad_()
    emissions.requires_grad_()
    (grad,) = torch.autograd.grad(log_likelihood(transitions, emissions, lengths).sum(), emissions, retain_graph=True)
    # What a token's vertices are worth adds up to one.
    torch.testing.assert_close(grad.sum(2), (torch.arange(3) < lengths[:, None]).double())
    step = 1e-6
    (to_transitions,) = torch.autograd.grad(log_likelihood(transitions, emissions, lengths).sum(), transitions)
    with torch.no_grad():
        for tensor, gradient in ((transitions, to_transitions), (emissions, grad)):
            for place in tensor.gt(0 if tensor is transitions else -torch.inf).nonzero()[::7].tolist():
                value = tensor[tuple(place)].item()
                sides = []
                for moved in (value + step, value - step):
                    tensor[tuple(place)] = moved
                    sides.append(float(log_likelihood(transitions, emissions, lengths).sum()))
                tensor[tuple(place)] = value
                expected = (sides[0] - sides[1]) / (2 * step)
                assert float(gradient[tuple(place)]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_long_targets_and_unlikely_transitions_stay_finite() -> None:
    """float32 against float64, with transitions of which most are as good as impossible."""
    transitions, emissions, lengths = draw(1, 2, 60, 90, scale=12.0)
    transitions = transitions.clamp(min=1e-26).masked_fill(transitions.eq(0) & transitions.tril().eq(0), 0).triu(1)
    exact = log_likelihood(transitions, emissions, lengths)
    low, marks = transitions.float().requires_grad_(), emissions.float().requires_grad_()
    sums = log_likelihood(low, marks, lengths)
    torch.testing.assert_close(sums.double(), exact, rtol=1e-4, atol=1e-3)
    for gradient in torch.autograd.grad(sums.sum(), (low, marks)):
        assert gradient.isfinite().all()


def brute_force(model: Dag, source: list[int], target: list[int]) -> float:
    """Negative log-likelihood from the model's own transitions and its whole output layer."""
    ids = source_of(source)
    with torch.no_grad():
        real, memory = model.vertices(ids), model.stack.encode(ids)
        features = model.stack.decode(model.inputs(memory), real, memory, ids)
        going = model.transitions(features, real)[0].double()
        pieces = model.stack.project(features)[0].double().softmax(-1)
    end = real.size(1) - 1
    total = 0.0
    for path in itertools.combinations(range(1, end), len(target)):
        product = 1.0
        for before, vertex in zip((0, *path), (*path, end), strict=True):
            product *= float(going[before, vertex])
        for vertex, piece in zip(path, target, strict=True):
            product *= float(pieces[vertex, piece])
        total += product
    return -math.log(total)


def test_equals_the_sum_over_all_paths() -> None:
    model = dag_model(upsample=3)
    rows = [([5, 6], [8, 9, 9]), ([7], [11, 4, 6, 5]), ([4], []), ([9], [8])]
    batch = batch_of([row[0] for row in rows], [row[1] for row in rows])
    output = loss_of(PLAIN, model, batch)
    assert output.nll.item() == pytest.approx(sum(brute_force(model, *row) for row in rows), rel=1e-4)
    assert output.loss.item() == output.nll.item()
    assert not output.nll.requires_grad
    assert PLAIN.count(batch) == 12


@given(target=st.integers(0, 9), source=st.integers(0, 4))
@examples(40)
def test_the_loss_is_finite_for_all_rows_that_the_model_takes(target: int, source: int) -> None:
    model = dag_model(upsample=2)
    taken = not any(marks.any() for marks in model.unusable(pair_lengths(source=[source], target=[target])).values())
    batch = batch_of([[5] * source], [[8] * target])
    for glancing in (None, (0.5, 0.5)):
        output = loss_of(DagLoss(glancing=glancing), model.train(), batch)
        assert output.loss.isfinite() == output.nll.isfinite() == taken


def test_gradients_of_the_whole_model() -> None:
    model = dag_model(upsample=2)
    batch = batch_of([[5, 6], [7]], [[8, 9, 9], [11]])
    names = ["stack.target_embedding", "query_key.weight", "gate.weight", "split.weight"]
    grads = torch.autograd.grad(loss_of(PLAIN, model, batch).loss, [model.get_parameter(name) for name in names])
    exact = model.double()
    generator = torch.Generator().manual_seed(0)
    for name, grad in zip(names, grads, strict=True):
        weight = exact.get_parameter(name)
        way, start, sides = torch.randn(grad.shape, generator=generator).double(), weight.detach().clone(), []
        for step in (1e-3, -1e-3):
            with torch.no_grad():
                weight.copy_(start + step * way)
                sides.append(loss_of(PLAIN, exact, batch).loss.item())
                weight.copy_(start)
        assert float((grad * way).sum()) == pytest.approx((sides[0] - sides[1]) / 2e-3, rel=1e-3, abs=1e-3)


def test_padding_and_company_change_nothing() -> None:
    model = dag_model()
    rows = [([5, 6, 7], [8, 9, 9]), ([7], [11, 4]), ([4, 4], [])]
    alone = [loss_of(PLAIN, model, batch_of([source], [target])).loss for source, target in rows]
    together = loss_of(
        PLAIN, model, batch_of([row[0] for row in rows], [row[1] for row in rows], source_room=7, room=6)
    )
    torch.testing.assert_close(together.loss, torch.stack(alone).sum(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("glancing", [None, (1.0, 0.5)])
def test_a_batch_without_tokens_has_no_loss_and_no_gradient(glancing: tuple[float, float] | None) -> None:
    model = dag_model().train()
    output = loss_of(DagLoss(glancing=glancing), model, empty_batch())
    assert (output.loss.item(), output.nll.item(), PLAIN.count(empty_batch())) == (0.0, 0.0, 0)
    output.loss.backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())


def test_glancing_shows_wrong_tokens_on_the_best_path() -> None:
    model = dag_model().train()
    batch = batch_of([[5, 6, 7], [7]], [[8, 9, 9, 10], [11, 4]], progress=0.5)
    asked: list[tuple[Tensor, Tensor, float]] = []

    def noted(real: Tensor, distance: Tensor, ratio: float) -> Tensor:
        asked.append((real, distance, ratio))
        return draw_shown(real, distance, ratio)

    output = loss_of(DagLoss(glancing=(1.0, 0.5), show=noted), model, batch)
    ((real, distance, ratio),) = asked
    assert ratio == 0.75
    assert real.sum(1).tolist() == [4, 2]
    assert distance.gt(0).all()
    assert distance.le(real.sum(1)).all()
    assert output.loss.item() != pytest.approx(loss_of(PLAIN, model, batch).loss.item(), abs=1e-3)


def test_what_is_shown_stands_at_increasing_vertices() -> None:
    model = dag_model().train()
    batch = batch_of([[5, 6, 7], [7]], [[8, 9, 9, 10], [11, 4]])
    real = model.vertices(batch.source)
    memory = model.stack.encode(batch.source)
    features = model.stack.decode(model.inputs(memory), real, memory, batch.source)
    pieces, visible = module._glance(model, features, real, batch, 1.0, lambda written, *_: written)
    assert [pieces[row][visible[row]].tolist() for row in range(2)] == [[8, 9, 9, 10], [11, 4]]
    assert not visible[:, 0].any()
    assert not (visible & ~real).any()


def test_evaluation_is_deterministic_and_shows_nothing() -> None:
    model = dag_model(dropout=0.3)
    batch = batch_of([[5, 6, 7], [7]], [[8, 9, 9, 10], [11, 4]])
    outputs = [loss_of(DagLoss(glancing=(1.0, 1.0)), model, batch) for _ in range(2)]
    assert outputs[0].nll.item() == outputs[1].nll.item() == loss_of(PLAIN, model, batch).nll.item()


@pytest.mark.parametrize("glancing", [None, (0.5, 0.1)])
def test_learns_a_few_sentences_by_heart(glancing: tuple[float, float] | None) -> None:
    model = dag_model().train()
    sources, targets = [[5, 6, 7], [7, 8], [9]], [[8, 9, 9, 10], [11, 4, 5], [6, 6]]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(150):
        optimizer.zero_grad()
        loss_of(DagLoss(glancing=glancing), model, batch_of(sources, targets, progress=step / 150)).loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
    for strategy in ("greedy", "lookahead"):
        with torch.inference_mode():
            settings = ParallelSettings(strategy=strategy, drop_repeats=False)  # two of the targets repeat a piece
            found = model.translate(source_of(*sources), settings)
        assert [outputs[0].ids for outputs in found] == targets

"""The DA-Transformer's transitions and decoding."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import pytest
import torch
from torch import Tensor

from seqkd.models.nat.dag import TOO_MANY, Dag
from seqkd.models.protocol import TOO_LONG, Output, ParallelModel, ParallelSettings
from tests.unit.models.nat.ctc_dag import EOS, PAD, dag_model, source_of
from tests.unit.models.nat.support import pair_lengths

Strategy = Literal["auto", "greedy", "lookahead"]


def graph(model: Dag, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Real vertices, transitions, and log-probabilities of all pieces at each vertex."""
    with torch.no_grad():
        real = model.vertices(source)
        memory = model.stack.encode(source)
        features = model.stack.decode(model.inputs(memory), real, memory, source)
        return real, model.transitions(features, real), model.stack.project(features).log_softmax(-1)


def translate(model: Dag, source: Tensor, strategy: Strategy, *, drop_repeats: bool = True) -> list[list[Output]]:
    with torch.inference_mode():
        return model.translate(source, ParallelSettings(strategy=strategy, drop_repeats=drop_repeats))


def test_it_is_a_parallel_model() -> None:
    model = dag_model()
    assert isinstance(model, ParallelModel)
    assert set(model.strategies()) == {"greedy", "lookahead"}


def test_rows_that_need_more_vertices_have_a_reason() -> None:
    model = dag_model(upsample=2)
    reasons = model.unusable(pair_lengths(source=[3, 3, 16, 1], target=[6, 7, 2, 15]))
    assert list(reasons) == [TOO_LONG, TOO_MANY]
    assert reasons[TOO_LONG].tolist() == [False, False, True, False]
    assert reasons[TOO_MANY].tolist() == [False, True, False, True]


def test_transitions_are_probabilities_of_later_real_vertices() -> None:
    model = dag_model(seed=1)
    real, transitions, _ = graph(model, source_of([4, 5, 6], [7]))
    for row, count in enumerate(real.sum(1).tolist()):
        table = transitions[row]
        torch.testing.assert_close(table[: count - 1].sum(1), torch.ones(count - 1))
        assert not table[count - 1 :].any()
        assert not table[:, count:].any()
        assert not table.tril().any()
        assert table[:count, :count].triu(1)[torch.ones(count, count).triu(1).bool()].gt(0).all()


def test_far_apart_scores_leave_every_later_vertex_a_chance() -> None:
    model = dag_model(seed=1)
    with torch.no_grad():
        model.query_key.weight.mul_(100.0)
    real, transitions, _ = graph(model, source_of([4, 5, 6]))
    assert transitions[0][torch.ones(12, 12).triu(1).bool()].gt(0).all()
    assert real.all()


@pytest.mark.parametrize("strategy", ["greedy", "lookahead"])
def test_decoding_follows_the_best_vertex(strategy: Strategy) -> None:
    model = dag_model(vocab=9, seed=2)
    for row in ([4, 5, 6], [7], [8, 4, 4, 5, 6]):
        source = source_of(row)
        _, transitions, pieces = graph(model, source)
        table = pieces[0].clone()
        table[:, [PAD, EOS]] = -torch.inf
        best, written = table.max(1)
        end = len(best) - 1
        ids, vertex, score = [], 0, 0.0
        while vertex != end:
            going = transitions[0, vertex].log()
            gain = going + torch.where(torch.arange(end + 1) == end, 0.0, best)
            vertex = int((going if strategy == "greedy" else gain).argmax())
            score += float(gain[vertex])
            if vertex != end:
                ids.append(int(written[vertex]))
        ((found,),) = translate(model, source, strategy, drop_repeats=False)
        assert found.ids == ids
        assert found.score == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("strategy", ["greedy", "lookahead"])
def test_batched_equals_single_and_padding_changes_nothing(strategy: Strategy) -> None:
    model = dag_model(vocab=12, seed=1)
    rows = [[4, 5, 6, 7, 8], [8, 9], [10, 11, 4], [5]]
    for row, (found,) in zip(rows, translate(model, source_of(*rows, room=9), strategy), strict=True):
        ((alone,),) = translate(model, source_of(row), strategy)
        assert found.ids == alone.ids
        assert found.score == pytest.approx(alone.score, abs=1e-4)


@pytest.mark.parametrize("strategy", ["greedy", "lookahead"])
def test_equal_pieces_in_a_row_are_one_unless_they_are_to_be_kept(strategy: Strategy) -> None:
    repeated = 0
    for seed in range(6):
        model = dag_model(vocab=7, seed=seed)
        source = source_of([4, 5, 6, 5, 4], [6, 6, 6])
        whole = translate(model, source, strategy, drop_repeats=False)
        for (kept,), (found,) in zip(whole, translate(model, source, strategy), strict=True):
            expected = [piece for index, piece in enumerate(kept.ids) if not index or piece != kept.ids[index - 1]]
            assert found.ids == expected
            assert found.score == kept.score  # that of the path
            repeated += any(one == two for one, two in pairwise(kept.ids))
    assert repeated


def test_lookahead_is_the_default() -> None:
    model = dag_model(vocab=12, seed=1)
    source = source_of([4, 5, 6, 7, 8], [8, 9])
    assert translate(model, source, "auto") == translate(model, source, "lookahead")

"""The host asks a GPU seldom and reads its answers late: results must not depend on when."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seqkd.search import BeamSearch, BeamSettings, Hypothesis, SearchModel
from seqkd.search.cpu.engine import NativeModel
from seqkd.search.cpu.weights import usable
from seqkd.search.gpu.engine import GraphTransformer
from seqkd.search.gpu.operations import PLAIN
from seqkd.search.pace import PACES, Pace, Transfer, send
from seqkd.search.plain.lstm import IncrementalLstm
from tests.unit.search.gpu.support import DEVICE
from tests.unit.search.support import Broken, Small, decode, engine, engine_model, sentences, tiny_lstm, tiny_model

LATE = [Pace(1, 1), Pace(4, 1), Pace(2, 3)]


def same(found: dict[int, list[Hypothesis]], expected: dict[int, list[Hypothesis]]) -> None:
    assert found.keys() == expected.keys()
    for row, hypotheses in expected.items():
        assert [(h.ids, h.ended) for h in found[row]] == [(h.ids, h.ended) for h in hypotheses]
        assert [h.score for h in found[row]] == pytest.approx([h.score for h in hypotheses], abs=1e-5)


@pytest.mark.parametrize("late", LATE, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"beam": 4, "nbest": 4},
        {"beam": 3, "nbest": 3, "stopping": "exact", "length_penalty": 0.6, "min_length": 2},
        {"beam": 4, "nbest": 4, "sampling": True, "seed": 3, "top_p": 0.9},
        {"beam": 2, "no_repeat_ngram_size": 2},
        {"beam": 3, "unk_penalty": 0.5, "max_length_ratio": 0.5, "max_length_extra": 1},
    ],
    ids=str,
)
def test_results_are_those_of_a_host_that_looks_at_once(options: dict[str, Any], late: Pace) -> None:
    rows = sentences(30)
    prefix = {row: [9, 8, 7][: row % 4] for row, _ in rows[::3]}
    chosen = BeamSettings(**options)
    models: list[SearchModel] = [
        engine(tiny_model(end_bias=0.1)),
        GraphTransformer(tiny_model(end_bias=0.1), operations=PLAIN),
    ]
    for opening in ({}, prefix):
        # A small budget brings refills; one for all sentences, smaller batches.
        expected = decode(models[0], chosen, rows, 60, opening)
        for model in models:
            for budget in (60, 400):
                same(decode(model, chosen, rows, budget, opening, late), expected)


@pytest.mark.parametrize("kind", ["lstm", "native"])
def test_every_engine_idles_safely(kind: str) -> None:
    plain = engine_model(dim=32, ffn_dim=64, encoder_layers=1)
    if kind == "native" and not usable(plain):
        pytest.skip("no C++ compiler here")
    # Sentences end at the model's last position, and steps go on.
    rows = [(row, [5 + row % 30] * (1 + 4 * (row % 16))) for row in range(40)]
    chosen = BeamSettings(beam=3, nbest=3, max_length_extra=60)

    def made() -> SearchModel:
        if kind == "lstm":
            return IncrementalLstm(tiny_lstm(end_bias=0.2))
        return NativeModel(plain, "float32")

    expected = decode(made(), chosen, rows, 300)
    same(decode(made(), chosen, rows, 300, pace=Pace(4, 2)), expected)


@pytest.mark.parametrize("late", LATE, ids=str)
def test_broken_rows_are_retried_once(late: Pace) -> None:
    rows = [(row, source) for row, source in sentences(20) if 39 not in source]
    rows += [(1001, [5, 39]), (1002, [39, 6, 7])]
    chosen = BeamSettings(beam=3, nbest=3)
    sound = engine(tiny_model(end_bias=0.1))
    expected = decode(sound, chosen, rows)
    search = BeamSearch([Broken(float("nan"))], chosen, fallback=lambda: [sound], pace=late)
    found = list(search.decode(rows, batch_tokens=60))
    assert search.retried == [1001, 1002]
    assert len(found) == len(rows)
    same(dict(found), expected)


@pytest.mark.parametrize("late", LATE, ids=str)
@pytest.mark.parametrize("steps", [3, 9, 10, 14, 17])
def test_nothing_is_lost_when_memory_runs_out(late: Pace, steps: int) -> None:
    rows = sentences(40)
    chosen = BeamSettings(beam=3, nbest=3)
    expected = decode(engine(tiny_model(end_bias=0.1)), chosen, rows)
    small = Small(4, late=True)
    small.steps = 3 - steps
    found = list(BeamSearch([small], chosen, pace=late).decode(rows, batch_tokens=100))
    assert small.refused
    assert len(found) == len(rows)
    same(dict(found), expected)


@pytest.mark.parametrize("late", [Pace(4, 1), Pace(2, 3), Pace(1, 5)], ids=str)
def test_an_answer_is_read_when_the_next_groups_are_queued(late: Pace) -> None:
    def steps_of(source: list[int], pace: Pace) -> tuple[int, int]:
        """The steps that the search takes for a sentence alone, and the length of its longest hypothesis."""
        model = Small(1, late=True)
        ((_, found),) = BeamSearch([model], BeamSettings(beam=3, nbest=3), pace=pace).decode(
            [(0, source)], batch_tokens=60
        )
        return model.steps, max(len(hypothesis.ids) for hypothesis in found) + 1

    for _, source in sentences(10):
        needed, longest = steps_of(source, Pace(1, 0))
        assert needed >= longest
        groups = -(-needed // late.steps)
        # The sentence is done in the last of these groups; the answer about it is read `lag` groups later.
        assert steps_of(source, late)[0] == (groups + late.lag) * late.steps


def test_only_a_host_that_is_the_device_looks_at_once() -> None:
    assert PACES["cpu"] == Pace(steps=1, lag=0)
    assert PACES["cuda"].lag > 0


def test_what_is_sent_comes_back() -> None:
    tensor = torch.randn(50, generator=torch.Generator().manual_seed(1))
    there = send(tensor, DEVICE)
    assert there.device.type == DEVICE.type
    fetched = Transfer([there + 1, there[:3] > 0])
    first, second = fetched.wait()
    assert first.device.type == second.device.type == "cpu"
    assert torch.equal(first, tensor + 1)
    assert torch.equal(second, tensor[:3] > 0)

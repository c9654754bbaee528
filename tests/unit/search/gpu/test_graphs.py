"""When functions are run, captured and replayed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch

from seqkd.search.gpu.graphs import Recorder


class FakeGraph:
    """Counts; the real one is used where there is a GPU."""

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


class FakeCuda:
    """Stands for `torch.cuda`, and remembers which graphs were captured."""

    CUDAGraph = FakeGraph
    graph_pool_handle = object

    def __init__(self) -> None:
        self.graphs: list[FakeGraph] = []

    @contextmanager
    def graph(self, graph: FakeGraph, **_: Any) -> Iterator[None]:
        self.graphs.append(graph)
        yield

    def device(self, _: torch.device) -> AbstractContextManager[None]:
        return nullcontext()


def test_first_run_is_ordinary_the_second_captured_the_others_replayed() -> None:
    cuda = FakeCuda()
    recorder = Recorder(torch.device("cuda"), enabled=True, cuda=cuda)
    calls: list[str] = []

    def work() -> str:
        calls.append("run")
        return f"result {len(calls)}"

    assert recorder.run("one", work) == "result 1"
    assert recorder.run("two", work) == "result 2"
    assert recorder.run("one", work) == "result 3"
    assert recorder.run("one", work) == "result 3"
    assert len(calls) == 3
    assert [graph.replays for graph in cuda.graphs] == [2]


@pytest.mark.parametrize(("device", "enabled"), [("cpu", True), ("cuda", False)])
def test_without_graphs_every_run_is_ordinary(device: str, enabled: bool) -> None:
    recorder = Recorder(torch.device(device), enabled=enabled, cuda=FakeCuda())
    calls: list[int] = []
    for _ in range(3):
        recorder.run("one", lambda: calls.append(1))
    assert len(calls) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_captured_function_moves_on_once_a_run() -> None:
    recorder = Recorder(torch.device("cuda"), enabled=True)
    count = torch.zeros(1, device="cuda")
    for run in range(1, 6):
        assert recorder.run("count", lambda: count.add_(1)).item() == run

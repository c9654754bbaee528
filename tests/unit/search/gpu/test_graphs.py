"""When functions are run, captured and replayed, and whose memory graphs use."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch

from seqkd.search.gpu.graphs import ORDINARY_RUNS, GraphPool, Recorder

DEVICE = torch.device("cuda")


class FakePool:
    """The memory of graphs, which is freed with the last of them; torch then refuses it."""

    graphs: weakref.WeakSet[FakeGraph] | None = None


class FakeStream:
    def __init__(self, cuda: FakeCuda, device: torch.device | None) -> None:
        self.cuda, self.device = cuda, device

    def wait_stream(self, other: FakeStream) -> None:
        assert other is self.cuda.current
        self.cuda.calls.append("wait")


class FakeGraph:
    """Remembers whose memory the products in it work in."""

    cuda: FakeCuda

    def __init__(self) -> None:
        self.replays = 0
        self.workspaces: list[weakref.ref[FakePool]] = []

    def capture_begin(self, *, pool: FakePool, capture_error_mode: str) -> None:
        assert capture_error_mode == "thread_local"
        assert pool.graphs is None or pool.graphs, "the pool is freed"
        pool.graphs = weakref.WeakSet((*(pool.graphs or ()), self))
        self.pool, self.cuda.capturing = pool, self
        self.cuda.graphs.append(weakref.ref(self))
        self.cuda.calls.append("begin")

    def capture_end(self) -> None:
        self.cuda.capturing = None
        self.cuda.calls.append("end")
        if self.cuda.broken:
            raise RuntimeError("the capture is invalid")

    def replay(self) -> None:
        self.replays += 1
        self.cuda.calls.append("replay")
        assert all(memory() is not None for memory in self.workspaces), "a graph works in memory that is freed"


class FakeCuda:
    """Stands for `torch.cuda`: as torch does, it keeps one workspace a stream, in the memory of the first that asks.

    It has no `synchronize`, so a capture cannot call it.
    """

    graph_pool_handle = FakePool

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.graphs: list[weakref.ref[FakeGraph]] = []
        self.streams: list[torch.device | None] = []
        self.capturing: FakeGraph | None = None
        self.broken = False
        self.current = FakeStream(self, None)
        self.shared = FakeStream(self, None)
        self.workspaces: dict[int, weakref.ref[FakePool]] = {}
        self.CUDAGraph = type("Graph", (FakeGraph,), {"cuda": self})

    def Stream(self, device: torch.device) -> FakeStream:  # noqa: N802
        self.streams.append(device)
        return self.shared  # torch hands out a few streams in turn, so two recorders can get the same one

    def current_stream(self, _: torch.device) -> FakeStream:
        return self.current

    def device(self, _: torch.device) -> AbstractContextManager[None]:
        return nullcontext()

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def product(self) -> None:
        """Work in the workspace of the current stream."""
        if self.capturing is not None:
            own = weakref.ref(self.capturing.pool)
            self.capturing.workspaces.append(self.workspaces.setdefault(id(self.current), own))
        self.calls.append("work")

    def clear_workspaces(self) -> None:
        self.workspaces.clear()
        self.calls.append("clear")

    def empty_cache(self) -> None:
        assert self.capturing is None
        self.calls.append("empty")

    def pool(self) -> GraphPool:
        return GraphPool(DEVICE, enabled=True, cuda=self, clear_workspaces=self.clear_workspaces)

    def recorder(self) -> Recorder:
        return Recorder(self.pool())


def test_a_key_is_captured_in_its_fourth_run_and_replayed_from_then_on() -> None:
    cuda = FakeCuda()
    recorder = cuda.recorder()
    calls: list[str] = []

    def work() -> str:
        calls.append("run")
        return f"result {len(calls)}"

    assert [recorder.run("one", work) for _ in range(3)] == ["result 1", "result 2", "result 3"]
    assert recorder.run("two", work) == "result 4"
    assert not cuda.graphs
    assert [recorder.run("one", work) for _ in range(3)] == ["result 5"] * 3
    assert len(calls) == 5
    assert [graph.replays for made in cuda.graphs if (graph := made())] == [3]
    assert recorder.run("two", work) == "result 6"


def test_a_capture_waits_for_nothing_on_the_host_and_is_made_in_this_order() -> None:
    cuda = FakeCuda()
    recorder = cuda.recorder()
    for _ in range(ORDINARY_RUNS):
        recorder.run("one", cuda.product)
    cuda.calls.clear()
    for _ in range(2):
        recorder.run("one", cuda.product)
    assert cuda.calls == ["wait", "clear", "begin", "work", "end", "clear", "replay", "replay"]
    for _ in range(ORDINARY_RUNS + 1):
        recorder.run("two", cuda.product)
    assert cuda.streams == [DEVICE]


def test_graphs_do_not_work_in_memory_that_leaves_with_another_recorder() -> None:
    cuda = FakeCuda()
    first, second = cuda.recorder(), cuda.recorder()
    for recorder in (first, second):
        for key in ("one", "two"):
            for _ in range(ORDINARY_RUNS + 1):
                recorder.run(key, cuda.product)
    del first, recorder
    gc.collect()
    for key in ("one", "two"):
        second.run(key, cuda.product)
    assert cuda.calls.count("replay") == 6


def test_recorders_of_one_pool_share_memory_and_stream_and_leave_apart() -> None:
    cuda = FakeCuda()
    pool = cuda.pool()
    first, second = Recorder(pool), Recorder(pool)
    for recorder in (first, second):
        for _ in range(ORDINARY_RUNS + 1):
            recorder.run("one", cuda.product)
    one, other = (graph() for graph in cuda.graphs)
    assert one is not None
    assert other is not None
    assert one.pool is other.pool
    assert cuda.streams == [DEVICE]
    memory = weakref.ref(other.pool)
    del first, recorder, one, other
    gc.collect()
    second.run("one", cuda.product)
    assert [graph() is None for graph in cuda.graphs] == [True, False]
    # Once all graphs are gone, the next ones get other memory.
    del second
    gc.collect()
    third = Recorder(pool)
    for _ in range(ORDINARY_RUNS + 1):
        third.run("one", cuda.product)
    assert memory() is None


@pytest.mark.parametrize("broken", [False, True])
def test_a_failed_capture_is_ended_and_its_own_error_is_told(broken: bool) -> None:
    cuda = FakeCuda()
    recorder, outside = cuda.recorder(), cuda.current
    for _ in range(ORDINARY_RUNS):
        recorder.run("one", cuda.product)

    def fail() -> None:
        raise RuntimeError("shapes differ")

    cuda.broken = broken
    with pytest.raises(RuntimeError, match="shapes differ"):
        recorder.run("one", fail)
    assert cuda.calls[-3:] == ["begin", "end", "clear"]
    assert cuda.capturing is None
    assert cuda.current is outside
    cuda.broken = False
    recorder.run("one", cuda.product)
    assert cuda.calls[-1] == "replay"


@pytest.mark.parametrize("enough", [False, True])
def test_a_capture_that_lacks_memory_is_tried_once_more_after_the_cache_is_emptied(enough: bool) -> None:
    cuda = FakeCuda()
    recorder = cuda.recorder()
    for _ in range(ORDINARY_RUNS):
        recorder.run("one", cuda.product)
    cuda.calls.clear()

    def work() -> None:
        if not enough or "empty" not in cuda.calls:
            raise torch.AcceleratorError("CUDA error: out of memory")

    with nullcontext() if enough else pytest.raises(torch.AcceleratorError):
        recorder.run("one", work)
    failed = ["wait", "clear", "begin", "end", "clear"]
    assert cuda.calls == [*failed, "empty", *failed, *(["replay"] if enough else [])]


@pytest.mark.parametrize(("device", "enabled"), [("cpu", True), ("cuda", False)])
def test_without_graphs_every_run_is_ordinary(device: str, enabled: bool) -> None:
    cuda: Any = FakeCuda()
    recorder = Recorder(GraphPool(torch.device(device), enabled=enabled, cuda=cuda))
    calls: list[int] = []
    for _ in range(ORDINARY_RUNS + 2):
        recorder.run("one", lambda: calls.append(1))
    assert len(calls) == ORDINARY_RUNS + 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_captured_function_moves_on_once_a_run() -> None:
    recorder = Recorder(GraphPool(DEVICE, enabled=True))
    count = torch.zeros(1, device=DEVICE)
    for run in range(1, 8):
        assert recorder.run("count", lambda: count.add_(1)).item() == run


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_products_stay_the_same_when_another_recorder_is_gone() -> None:
    layer = torch.nn.Linear(8192, 512, device=DEVICE, dtype=torch.bfloat16)  # few rows: the product is split
    x = torch.randn(40, 8192, device=DEVICE, dtype=torch.bfloat16)
    with torch.inference_mode():
        first, second = (Recorder(GraphPool(DEVICE, enabled=True)) for _ in range(2))
        for recorder in (first, second):
            for _ in range(ORDINARY_RUNS + 1):
                found = recorder.run("product", lambda: layer(x))
        expected = found.clone()
        del first, recorder
        gc.collect()
        torch.cuda.empty_cache()
        other = [torch.full((1 << 20,), float("nan"), device=DEVICE) for _ in range(64)]
        for _ in range(100):
            found = second.run("product", lambda: layer(x))
        assert torch.equal(found, expected)
        assert all(bool(memory.isnan().all()) for memory in other)

"""CUDA graphs of functions that work in place."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, TypeVar

import torch

from seqkd.search.intake import out_of_memory

Result = TypeVar("Result")

# Runs of a key before its graph is captured. The first run compiles kernels and sets up libraries. A capture costs
# several ordinary runs, and sizes that are met only while a batch empties are met a few times.
ORDINARY_RUNS = 3


def clear_workspaces() -> None:
    """Make torch forget the memory that cuBLAS works in; it allocates that anew at the next product."""
    torch._C._cuda_clearCublasWorkspaces()


class GraphPool:
    """Captures CUDA graphs that share their memory: what a graph returns is good until the next run of any of them.

    Pools share no memory with each other. torch keeps one cuBLAS workspace for each stream, in the memory of the graph
    that was captured first, and frees it with that graph although graphs of others use it. So the workspaces are
    cleared around each capture. Each pool also captures on a stream of its own, because torch's common one belongs to
    one device.

    Args:
        device: Where the buffers are.
        enabled: Without it, or without CUDA, nothing is captured.
        cuda: What makes, captures and replays graphs: `torch.cuda`.
        clear_workspaces: What clears cuBLAS' workspaces.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        enabled: bool,
        cuda: Any = torch.cuda,
        clear_workspaces: Callable[[], None] = clear_workspaces,
    ) -> None:
        self.device, self.cuda = device, cuda
        self.enabled = enabled and device.type == "cuda"
        self._clear_workspaces = clear_workspaces
        self._stream: torch.cuda.Stream | None = None
        self._handle: Any = None
        self._graphs: weakref.WeakSet[Any] = weakref.WeakSet()

    def capture(self, function: Callable[[], Result]) -> tuple[torch.cuda.CUDAGraph, Result]:
        """Capture a graph, if need be once more after the memory is freed that torch keeps for ordinary runs.

        During a capture torch itself does not free it.
        """
        try:
            return self._capture(function)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        self.cuda.empty_cache()
        return self._capture(function)

    def _capture(self, function: Callable[[], Result]) -> tuple[torch.cuda.CUDAGraph, Result]:
        """Capture a graph while the device goes on working.

        `torch.cuda.graph` would wait for the device and hand all free memory, also that of the host, back to the system
        before each capture.
        """
        if self._stream is None:
            self._stream = self.cuda.Stream(self.device)
        if not self._graphs:  # torch frees a pool with the last of its graphs, and then refuses its number
            self._handle = self.cuda.graph_pool_handle()
        graph = self.cuda.CUDAGraph()
        self._stream.wait_stream(self.cuda.current_stream(self.device))
        self._clear_workspaces()
        try:
            with self.cuda.stream(self._stream):
                # Other threads may go on using the device: only this one must keep to what can be captured.
                graph.capture_begin(pool=self._handle, capture_error_mode="thread_local")
                try:
                    result = function()
                except BaseException:
                    # A capture that has failed must be ended; that this fails, too, says less than the first error.
                    with suppress(RuntimeError):
                        graph.capture_end()
                    raise
                graph.capture_end()
        finally:
            self._clear_workspaces()
        self._graphs.add(graph)
        return graph, result


class Recorder:
    """Runs functions of fixed buffers, and replays them as CUDA graphs once each has had a few ordinary runs.

    Capturing runs nothing, so no function is ever run for warming up, which would move its buffers on.

    Args:
        pool: Where the graphs lie. They go when the recorder goes.
    """

    def __init__(self, pool: GraphPool) -> None:
        self._pool = pool
        self._runs: dict[Hashable, int] = {}
        self._recorded: dict[Hashable, tuple[torch.cuda.CUDAGraph, Any]] = {}

    def run(self, key: Hashable, function: Callable[[], Result]) -> Result:
        """Run it; `key` tells apart what may differ between runs: shapes, and anything else that is no tensor."""
        pool = self._pool
        if pool.device.type != "cuda":
            return function()
        # Triton launches on the current device, which need not be that of the tensors.
        with pool.cuda.device(pool.device):
            return self._run(key, function) if pool.enabled else function()

    def _run(self, key: Hashable, function: Callable[[], Result]) -> Result:
        runs = self._runs.get(key, 0)
        if runs < ORDINARY_RUNS:
            self._runs[key] = runs + 1
            return function()
        if key not in self._recorded:
            self._recorded[key] = self._pool.capture(function)
        graph, result = self._recorded[key]
        graph.replay()
        return result  # type: ignore[no-any-return]

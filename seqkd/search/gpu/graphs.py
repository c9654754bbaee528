"""CUDA graphs of functions that work in place."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


class Recorder:
    """Runs functions of fixed buffers, and replays them as CUDA graphs from their second run on.

    The first run is an ordinary one: it compiles kernels and sets up libraries, and a shape that is met once is not
    worth a graph. Capturing runs nothing, so no function is ever run for warming up, which would move its buffers on.

    The graphs share their memory. What a run returns is good until the next run of any of them.

    Args:
        device: Where the buffers are.
        enabled: Without it, or without CUDA, every run is an ordinary one.
        cuda: What makes, captures and replays graphs: `torch.cuda`.
    """

    def __init__(self, device: torch.device, *, enabled: bool, cuda: Any = torch.cuda) -> None:
        self.device = device
        self._cuda = cuda
        self.enabled = enabled and device.type == "cuda"
        self._pool = cuda.graph_pool_handle() if self.enabled else None
        self._met: set[Hashable] = set()
        self._recorded: dict[Hashable, tuple[torch.cuda.CUDAGraph, Any]] = {}

    def run(self, key: Hashable, function: Callable[[], Result]) -> Result:
        """Run it; `key` tells apart what may differ between runs: shapes, and anything else that is no tensor."""
        if self.device.type != "cuda":
            return function()
        # Triton launches on the current device, which need not be that of the tensors.
        with self._cuda.device(self.device):
            return self._run(key, function) if self.enabled else function()

    def _run(self, key: Hashable, function: Callable[[], Result]) -> Result:
        if key not in self._met:
            self._met.add(key)
            return function()
        if key not in self._recorded:
            self._recorded[key] = self._capture(function)
        graph, result = self._recorded[key]
        graph.replay()
        return result  # type: ignore[no-any-return]

    def _capture(self, function: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
        graph = self._cuda.CUDAGraph()
        # Other threads may go on using the device: only this one must keep to what can be captured.
        with self._cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = function()
        return graph, result

"""The local executor: this process or several processes of this machine make the shards."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from seqkd.corpus.records import ShardInfo
from seqkd.errors import WorkError
from seqkd.executors.work import Done, Piece, ShardWork
from seqkd.stopping import StopRequest


def count_cores() -> int:
    """Count the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def run_shards(
    work: ShardWork[Piece, Done], shards: Sequence[int], *, processes: int, stop: StopRequest
) -> Iterator[tuple[int, ShardInfo]]:
    """Do the work and yield the shards in order as they are finished.

    Args:
        work: The work.
        shards: Numbers of the shards.
        processes: Number of processes that share the work; 0 for this process alone.
        stop: The request to stop. Once it is made, no further shard is begun.

    Raises:
        WorkError: A process died.
        SeqkdError: The work raised it.
    """
    if not processes:
        do = None
        for shard in shards:
            if stop.made:
                return
            do = do or work.start()
            yield shard, work.finish(shard, [do(piece) for piece in work.pieces(shard)])
        return
    with worker_pool(processes, work.start) as pool:
        # The number of shards in work is bounded, because results wait in memory until their shard is complete.
        waiting = deque(shards)
        queue: deque[tuple[int, list[Future[Done]]]] = deque()
        while waiting or queue:
            while waiting and not stop.made and sum(len(parts) for _, parts in queue) < 3 * processes:
                shard = waiting.popleft()
                queue.append((shard, [pool.submit(_piece, piece) for piece in work.pieces(shard)]))
            if not queue:
                return
            shard, parts = queue.popleft()
            if stop.made and any(part.cancel() for part in parts):
                return  # the shard was not begun, or not completely
            try:
                done = [part.result() for part in parts]
            except BrokenProcessPool:
                raise WorkError(
                    "a worker process died, possibly because memory ran out",
                    where=f"shard {shard}",
                    hint="run the same command again, which continues after the finished shards; fewer `workers` or a "
                    "smaller `batch_tokens` need less memory",
                ) from None
            yield shard, work.finish(shard, done)


@contextmanager
def worker_pool(workers: int, start: Callable[[], Callable[[Any], Any]]) -> Iterator[ProcessPoolExecutor]:
    """Start fresh worker processes, not copies of this one. They are ended when the block is left."""
    context = multiprocessing.get_context("spawn")
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(start,))
    try:
        yield pool
    finally:
        # The workers ignore the executor's own SIGTERM. Killing them is safe: complete files are renamed into place.
        for process in set(multiprocessing.active_children()) - before:
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


def belong_to_parent() -> None:
    """Set up a worker: ignore SIGTERM and Ctrl-C, which the parent handles, and end with the parent."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid != os.getppid():
        os._exit(1)  # the parent died before the call, so no signal would come and the worker would wait for ever


_start: Callable[[], Callable[[Any], Any]] | None = None
_do: Callable[[Any], Any] | None = None


def _begin(start: Callable[[], Callable[[Any], Any]]) -> None:
    global _start
    belong_to_parent()
    _start = start


def _piece(piece: Any) -> Any:
    """Do a piece. The first call starts the work: an error then reaches the caller, unlike in an initializer."""
    global _do
    if _do is None:
        assert _start is not None
        _do = _start()
    return _do(piece)

"""Shards done by this process, or by several of this machine."""

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


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def run_shards(
    work: ShardWork[Piece, Done], shards: Sequence[int], *, processes: int, stop: StopRequest
) -> Iterator[tuple[int, ShardInfo]]:
    """Do the work and yield the shards in order as they are finished.

    Args:
        work: What is to be done.
        shards: Numbers of the shards.
        processes: How many share the work; 0: this process does it.
        stop: Once it is made, no other shard is begun.

    Raises:
        WorkError: A process died.
        SeqkdError: What the work raises.
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
        # A bounded number of shards is under way: results wait in memory until their shard is whole.
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
                return  # it had not been begun, or not by all it needs
            try:
                done = [part.result() for part in parts]
            except BrokenProcessPool:
                raise WorkError(
                    "a worker process died, perhaps killed for want of memory",
                    where=f"shard {shard}",
                    hint="run the same command again: it goes on after the finished shards; fewer `workers` or a "
                    "smaller `batch_tokens` need less memory",
                ) from None
            yield shard, work.finish(shard, done)


@contextmanager
def worker_pool(workers: int, start: Callable[[], Callable[[Any], Any]]) -> Iterator[ProcessPoolExecutor]:
    """Processes of their own, not copies of this one. When the block is left they end, whatever they are doing."""
    context = multiprocessing.get_context("spawn")
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(start,))
    try:
        yield pool
    finally:
        # They do not hear the executor's own SIGTERM. What they write is renamed into place whole.
        for process in set(multiprocessing.active_children()) - before:
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


def belong_to_parent() -> None:
    """Of a worker: leave SIGTERM and Ctrl-C, which may reach all processes, to the parent, and never outlive it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid != os.getppid():
        os._exit(1)  # it had died before we asked: nobody would ever tell us, and we would wait for work for ever


_start: Callable[[], Callable[[Any], Any]] | None = None
_do: Callable[[Any], Any] | None = None


def _begin(start: Callable[[], Callable[[Any], Any]]) -> None:
    global _start
    belong_to_parent()
    _start = start


def _piece(piece: Any) -> Any:
    """Do a piece; before the first one, start: there, unlike in an initializer, an error is the caller's."""
    global _do
    if _do is None:
        assert _start is not None
        _do = _start()
    return _do(piece)

"""The local executor: this process or several processes of this machine make the shards.

A single process completes a piece and writes its shard in a second thread while the next piece is done. Several
processes each complete their own pieces, and the parent writes the shards while they do the next ones.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

from seqkd.corpus.records import ShardInfo
from seqkd.errors import WorkError
from seqkd.executors.work import Completion, Done, Piece, ShardWork, Waits
from seqkd.stopping import StopRequest


def count_cores() -> int:
    """Count the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def run_shards(
    work: ShardWork[Piece, Done], shards: Sequence[int], *, processes: int, stop: StopRequest, waits: Waits
) -> Generator[tuple[int, ShardInfo], None, None]:
    """Do the work and yield the shards in order as they are finished.

    When the generator ends or is closed, no thread or process of it is left.

    Args:
        work: The work.
        shards: Numbers of the shards.
        processes: Number of processes that share the work; 0 for this process alone.
        stop: The request to stop. Once it is made, no further shard is begun.
        waits: Gets the time in which no piece was done because results were being completed or written.

    Raises:
        WorkError: A process died.
        SeqkdError: The work raised it.
    """
    waits.seconds = 0.0
    if processes:
        yield from _spread(work, shards, processes, stop, waits)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="writing") as writing:
        before: Future[tuple[int, ShardInfo] | None] | None = None
        for rest in chain(_do_pieces(work, shards, stop), [None]):
            # At most one piece waits here until the thread is done with the one before.
            if before is not None:
                begun = time.monotonic()
                written = before.result()
                waits.seconds += time.monotonic() - begun
                if written is not None:
                    yield written
            before = None if rest is None else writing.submit(rest)


def _do_pieces(
    work: ShardWork[Piece, Done], shards: Sequence[int], stop: StopRequest
) -> Iterator[Callable[[], tuple[int, ShardInfo] | None]]:
    """Do piece after piece, and yield for each the rest of the work, which the writing thread does."""
    do = None
    for shard in shards:
        if stop.made:
            return
        do = do or work.start()
        completed: list[Done] = []
        pieces = work.pieces(shard)
        for piece in pieces[:-1]:
            yield partial(_complete, do(piece), completed)
        yield partial(_write, work, shard, [do(piece) for piece in pieces[-1:]], completed)  # a shard may have no rows


def _complete(completion: Completion[Done], completed: list[Done]) -> None:
    completed.append(completion())


def _write(
    work: ShardWork[Piece, Done], shard: int, last: list[Completion[Done]], completed: list[Done]
) -> tuple[int, ShardInfo]:
    """Complete the last piece of a shard, and write the shard."""
    return shard, work.finish(shard, [*completed, *(completion() for completion in last)])


def _spread(
    work: ShardWork[Piece, Done], shards: Sequence[int], processes: int, stop: StopRequest, waits: Waits
) -> Iterator[tuple[int, ShardInfo]]:
    """Do the work by several processes; see `run_shards`."""
    with worker_pool(processes, work.start) as pool:
        # The number of shards in work is bounded, because results wait in memory until their shard is complete.
        waiting = deque(shards)
        queue: deque[tuple[int, list[Future[tuple[Done, float]]]]] = deque()
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
            waits.seconds = (waits.seconds or 0.0) + sum(seconds for _, seconds in done) / processes
            yield shard, work.finish(shard, [completed for completed, _ in done])


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


_start: Callable[[], Callable[[Any], Completion[Any]]] | None = None
_do: Callable[[Any], Completion[Any]] | None = None


def _begin(start: Callable[[], Callable[[Any], Completion[Any]]]) -> None:
    global _start
    belong_to_parent()
    _start = start


def _piece(piece: Any) -> tuple[Any, float]:
    """Do and complete a piece; return it with the seconds that its completion took.

    The first call starts the work: an error then reaches the caller, unlike in an initializer.
    """
    global _do
    if _do is None:
        assert _start is not None
        _do = _start()
    completion = _do(piece)
    begun = time.monotonic()
    completed = completion()
    return completed, time.monotonic() - begun

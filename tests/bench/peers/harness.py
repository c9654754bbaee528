"""Runs one peer: load, warm up, decode under the clock, write what came out.

`python -m tests.bench.peers.<peer> WORK SETTINGS.json OUTPUTS.json` prints one JSON line. The clock starts when every
worker has loaded and warmed up, and stops when the last one is done.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import multiprocessing
import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from tests.bench.settings import Settings

# Ids without end of sentence, and the length-normalised score.
Scored = tuple[list[int], float]
Decoder = Callable[[Sequence[list[int]]], list[list[Scored]]]
Load = Callable[[Path, Settings], Decoder]

WARM_UP = 48
PATIENCE = 1800.0


def main(peer: str) -> None:
    """Run the peer `tests.bench.peers.<peer>`, whose `load(work, settings)` gives a decoder.

    A peer whose library runs workers of its own says so with `OWN_WORKERS = True`.
    """
    work, settings = Path(sys.argv[1]), Settings(**json.loads(Path(sys.argv[2]).read_text()))
    outputs = Path(sys.argv[3])
    sources: list[list[int]] = json.loads((work / "sources.json").read_text())
    own = bool(getattr(importlib.import_module(f"tests.bench.peers.{peer}"), "OWN_WORKERS", False))
    workers = 1 if own else settings.processes
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(workers + 1)
    queue: Queue[Any] = context.Queue()
    values = dataclasses.asdict(settings)
    jobs = [
        context.Process(target=_work, args=(peer, work, values, rows, barrier, queue), daemon=True)
        for rows in _shares(sources, workers)
    ]
    for job in jobs:
        job.start()
    _meet(barrier, queue)
    started = time.perf_counter()
    _meet(barrier, queue)
    seconds = time.perf_counter() - started
    found: dict[int, list[Scored]] = {}
    peak = 0.0
    for _ in jobs:
        rows, memory = _answer(queue)
        found.update(rows)
        peak += memory
    for job in jobs:
        job.join()
    kbest = [found[row] for row in range(len(sources))]
    outputs.write_text(json.dumps(kbest))
    tokens = sum(len(hypotheses[0][0]) + 1 for hypotheses in kbest)
    report = {"seconds": seconds, "sentences": len(sources), "tokens": tokens, "peak_rss_mb": round(peak)}
    print(json.dumps(report | {"outputs": str(outputs)}))


def _work(
    peer: str,
    work: Path,
    values: dict[str, Any],
    rows: list[tuple[int, list[int]]],
    barrier: Barrier,
    queue: Queue[Any],
) -> None:
    try:
        settings = Settings(**values)
        load: Load = importlib.import_module(f"tests.bench.peers.{peer}").load
        decode = load(work, settings)
        sources = [source for _, source in rows]
        decode(sources[:: max(1, len(sources) // WARM_UP)])
        barrier.wait(PATIENCE)
        found = decode(sources)
        barrier.wait(PATIENCE)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        queue.put(({row: found[index] for index, (row, _) in enumerate(rows)}, memory))
    except BaseException as error:
        if not isinstance(error, threading.BrokenBarrierError):  # that one only tells of another's failure
            queue.put(f"{type(error).__name__}: {error}")
        barrier.abort()
        raise


def _shares(sources: list[list[int]], workers: int) -> list[list[tuple[int, list[int]]]]:
    """Deal the sentences out by length, so that every worker has the same work."""
    order = sorted(range(len(sources)), key=lambda row: -len(sources[row]))
    return [[(row, sources[row]) for row in order[first::workers]] for first in range(workers)]


def _meet(barrier: Barrier, queue: Queue[Any]) -> None:
    try:
        barrier.wait(PATIENCE)
    except threading.BrokenBarrierError:
        _answer(queue)
        raise


def _answer(queue: Queue[Any]) -> Any:
    """A worker's result, or its error."""
    answer = queue.get(timeout=PATIENCE)
    if isinstance(answer, str):
        raise SystemExit(f"a worker failed: {answer}")
    return answer

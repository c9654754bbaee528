"""What `test_ray` lets a cluster's workers do; light, because each of them imports it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from seqkd.corpus.records import ShardInfo, shard_name
from seqkd.errors import ModelError
from seqkd.executors.work import Completion


def start(folder: Path, slow: float) -> Callable[[int], Completion[str]]:
    return partial(note, folder, slow)


def note(folder: Path, slow: float, shard: int) -> Completion[str]:
    time.sleep(slow)
    (folder / f"done-{shard}-{os.getpid()}").touch()
    return partial(str, shard)


def unloadable(folder: Path) -> Callable[[int], Completion[str]]:
    raise ModelError("damaged", where=str(folder))


def deadly(folder: Path) -> Callable[[int], Completion[str]]:
    return partial(die, folder)


def die(folder: Path, shard: int) -> Completion[str]:
    if shard == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return note(folder, 0.0, shard)


def hang_elsewhere(folder: Path, head: str) -> Callable[[int], Completion[str]]:
    """Start on the head once the other node is dead; elsewhere, never finish starting."""
    import ray

    if ray.get_runtime_context().get_node_id() != head:
        (folder / f"hangs-{os.getpid()}").touch()
    until = time.monotonic() + 90
    while not (folder / "dead").exists() and time.monotonic() < until:
        time.sleep(0.01)
    return partial(note, folder, 0.2)


def pieces(shard: int) -> list[int]:
    return [shard, shard]


def finish(shard: int, parts: list[str]) -> ShardInfo:
    assert parts == [str(shard)] * 2
    return ShardInfo(name=shard_name(shard), rows=1, sha256="0" * 64, bytes=1)

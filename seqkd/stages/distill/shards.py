"""Shards that several machines may make together: what distill and select have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass

from seqkd.corpus.locks import Part
from seqkd.corpus.manifest import ShardInfo, StageOutput
from seqkd.executors import local
from seqkd.executors.work import Done, Piece, Scale, ShardWork
from seqkd.progress import Progress, say
from seqkd.stopping import StopRequest

_NAMED = 10  # shards in a message


@dataclass(frozen=True, slots=True)
class Made:
    """What a run has made.

    Attributes:
        shards: Those of its part, with the ones that earlier runs had finished.
        rows: Of the shards that this run made itself.
        seconds: That it took.
    """

    shards: dict[int, ShardInfo]
    rows: int
    seconds: float


def make_shards(
    output: StageOutput,
    work: ShardWork[Piece, Done],
    *,
    label: str,
    unit: str,
    rows: Sequence[int],
    finished: Callable[[Container[int]], dict[int, ShardInfo]],
    scale: Scale,
    processes: int,
    workers: int,
    gpu: bool,
) -> Made:
    """Make those shards of this run's part that are missing.

    Args:
        output: The folder, open.
        work: How a shard is made.
        label: What progress is called.
        unit: What it counts.
        rows: Of each shard that is read.
        finished: Gives those of some shards that are made.
        scale: Where the work is done, and which part of it.
        processes: Of this machine, for the local engine; 0: this one.
        workers: Of a Ray cluster; 0: all it has.
        gpu: A worker of a Ray cluster has a GPU.

    Raises:
        WorkError: The run was stopped, a worker died, the system refuses.
        InputError: There is no Ray.
    """
    mine = list(range(len(rows))) if scale.part is None else scale.part.shards(len(rows))
    started, shards = time.monotonic(), finished(set(mine))
    todo = [shard for shard in mine if shard not in shards]
    before = sum(rows[shard] for shard in shards)
    with StopRequest() as stop, Progress(label, sum(rows[shard] for shard in mine), unit, done=before) as progress:
        if not todo:
            made: Iterable[tuple[int, ShardInfo]] = ()
        elif scale.engine == "ray":
            from seqkd.executors import ray  # its package is an extra

            made = ray.run_shards(work, todo, workers=workers, gpu=gpu, folder=output.path, stop=stop)
        else:
            made = local.run_shards(work, todo, processes=processes, stop=stop)
        for shard, info in made:
            shards[shard] = info
            progress.advance(rows[shard])
        if len(shards) < len(mine):
            stop.check(f"after {len(shards):,} of {len(mine):,} shards")
    return Made(shards, sum(rows[shard] for shard in todo), time.monotonic() - started)


def all_shards(
    output: StageOutput,
    made: dict[int, ShardInfo],
    *,
    label: str,
    total: int,
    finished: Callable[[Container[int]], dict[int, ShardInfo]],
    part: Part | None,
) -> list[ShardInfo] | None:
    """All shards, if the folder is this process's to finish.

    Args:
        output: The folder, open.
        made: The shards of this run's part.
        label: What messages begin with.
        total: How many shards there will be.
        finished: Gives those of some shards that are made.
        part: Which part it was.

    Returns:
        None if other workers are still at work, or have left shards that are missing; it has been said which.
    """
    if part is not None and not output.last():
        say(f"{label}: part {part} is done, other workers are still at work; the last one finishes {output.path}")
        return None
    others = {shard for shard in range(total) if shard not in made}
    shards = made | (finished(others) if others else {})
    missing = [shard for shard in range(total) if shard not in shards]
    if missing:
        named = ", ".join(map(str, missing[:_NAMED])) + (", ..." if len(missing) > _NAMED else "")
        say(f"{label}: part {part} is done, but not yet shard {named} of other parts; then {output.path} is finished")
        return None
    return [shards[shard] for shard in range(total)]

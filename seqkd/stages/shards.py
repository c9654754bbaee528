"""The runner of all stages that write a folder shard by shard: prepare, distill, select and soft targets.

A stage defines how one shard is made. The runner finds the shards that earlier runs have finished, distributes the
others over this process, several processes or a Ray cluster, handles requests to stop, shows progress, and decides
which of several workers finishes the folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic

from seqkd.corpus.locks import Part
from seqkd.corpus.manifest import ShardInfo, StageOutput
from seqkd.corpus.writer import finished_shards
from seqkd.executors import local
from seqkd.executors.work import HERE, Done, Piece, Scale, ShardWork, Waits
from seqkd.progress import Progress, say
from seqkd.stopping import StopRequest

if TYPE_CHECKING:
    import torch

_NAMED = 10  # shards in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardJob(Generic[Piece, Done]):
    """How a stage makes its shards.

    A shard's bytes must depend on that shard of the inputs and on the settings alone. Then they are the same whoever
    makes it, and however often a run is interrupted.

    Attributes:
        label: The name at the beginning of progress lines and messages.
        unit: The unit of progress, in the plural.
        rows: Number of rows of each shard that is read, one entry for each shard that is written.
        work: The work that makes one shard.
        keeps: Whether an intact shard of an earlier run stays, given its number and its entry for the manifest. None if
            it always stays.
        processes: Processes of this machine that share the work under the local executor; 0 for this process alone.
        workers: Workers of a Ray cluster; 0 for as many as it has room for.
        gpu: Whether a worker of a Ray cluster needs a GPU.
    """

    label: str
    unit: str
    rows: Sequence[int]
    work: ShardWork[Piece, Done]
    keeps: Callable[[int, ShardInfo], bool] | None = None
    processes: int = 0
    workers: int = 0
    gpu: bool = False

    def finished(self, folder: Path, wanted: set[int]) -> dict[int, ShardInfo]:
        """Return those of the shards `wanted` that earlier runs have finished, by number."""
        found = finished_shards(folder, wanted) if wanted else {}
        return {shard: info for shard, info in found.items() if self.keeps is None or self.keeps(shard, info)}

    def make(
        self, output: StageOutput, shards: list[int], scale: Scale, stop: StopRequest, waits: Waits
    ) -> Generator[tuple[int, ShardInfo], None, None]:
        """Make these shards, and yield them as they are finished."""
        if not shards:
            return
        if scale.executor == "ray":
            from seqkd.executors import ray  # its package is an extra

            yield from ray.run_shards(
                self.work, shards, workers=self.workers, gpu=self.gpu, folder=output.path, stop=stop
            )
        else:
            yield from local.run_shards(self.work, shards, processes=self.processes, stop=stop, waits=waits)


@dataclass(frozen=True, slots=True)
class FinishedShards:
    """The shards of a folder that are all made, so that this process finishes the folder.

    Attributes:
        shards: All shards, in order.
        rows: Rows of the shards that this run has made.
        seconds: The time that it took to make them.
    """

    shards: list[ShardInfo]
    rows: int
    seconds: float


def make_shards(
    output: StageOutput,
    job: ShardJob[Piece, Done],
    *,
    scale: Scale = HERE,
    stop: StopRequest | None = None,
    note: Callable[[int, float, float | None], None] | None = None,
) -> FinishedShards | None:
    """Make the missing shards of this run's part.

    Args:
        output: The opened output folder.
        job: The definition of the shards.
        scale: The executor and the part of the work.
        stop: The caller's own request to stop, or None if the caller has none.
        note: Called with the rows that this run has made, the seconds that it took, and the seconds of `Waits`, once
            its part is done and before other workers can finish the folder.

    Returns:
        All shards if this process is to finish the folder. None if other workers are still working or shards of other
        parts are missing, which a message names.

    Raises:
        WorkError: The run was stopped, a worker died, or a file cannot be read or written.
        InputError: Ray is not installed, or its cluster cannot be used.
        SeqkdError: The work raised it.
    """
    rows = job.rows
    if scale.executor == "ray":
        output.leave_out_cost("workers of the Ray cluster")
    mine = list(range(len(rows))) if scale.part is None else scale.part.shards(len(rows))
    started, shards, waits = time.monotonic(), job.finished(output.path, set(mine)), Waits()
    todo = [shard for shard in mine if shard not in shards]
    before = sum(rows[shard] for shard in shards)
    with (
        StopRequest() if stop is None else nullcontext(stop) as request,
        Progress(job.label, sum(rows[shard] for shard in mine), job.unit, done=before) as progress,
        # Whatever ends this block, no thread or process goes on writing into a folder that others may then hold.
        closing(job.make(output, todo, scale, request, waits)) as making,
    ):
        for shard, info in making:
            shards[shard] = info
            progress.advance(rows[shard])
        if len(shards) < len(mine):
            request.check(f"after {len(shards):,} of {len(mine):,} shards of {output.path.name}")
    made, seconds = sum(rows[shard] for shard in todo), time.monotonic() - started
    if note is not None:
        note(made, seconds, waits.seconds)
    if scale.part is not None:
        if not output.last():
            say(
                f"{job.label}: part {scale.part} is done; other workers are still working, and the last one finishes "
                f"{output.path}"
            )
            return None
        shards |= job.finished(output.path, set(range(len(rows))) - set(mine))
        if len(shards) < len(rows):
            _name_missing(output, job.label, scale.part, [n for n in range(len(rows)) if n not in shards])
            return None
    return FinishedShards([shards[shard] for shard in range(len(rows))], made, seconds)


def _name_missing(output: StageOutput, label: str, part: Part, missing: list[int]) -> None:
    named = ", ".join(map(str, missing[:_NAMED])) + (", ..." if len(missing) > _NAMED else "")
    say(f"{label}: part {part} is done, but shards {named} of other parts are missing; {output.path} is not finished")


def own_device(device: torch.device, scale: Scale) -> str:
    """Return the device that this process itself works on; on a Ray cluster the workers have the GPUs."""
    return "cpu" if scale.executor == "ray" else str(device)


def stage_device(device: str, scale: Scale) -> torch.device:
    """Return the device of a stage's models: on this machine, or on each worker of a Ray cluster.

    Args:
        device: auto, cpu, cuda or cuda:N; on a Ray cluster auto, cpu or cuda.
        scale: The executor and the part of the work.

    Raises:
        InputError: The device does not exist, or Ray is not installed.
    """
    import torch  # not loaded by stages that need no model

    if scale.executor == "ray":
        from seqkd.executors import ray  # its package is an extra

        return torch.device(ray.cluster_device(device))
    from seqkd.search.loading import resolve_device

    return resolve_device(device)

"""The Ray executor: the nodes of a Ray cluster make the shards.

Each worker is an actor with one GPU or one CPU core and makes one shard at a time, from reading to writing. Corpora are
folders that all nodes see under the same path. If an actor or a node dies, only its current shard is lost, and another
worker makes it again.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from seqkd import __version__
from seqkd.corpus.manifest import PARTIAL
from seqkd.corpus.records import ShardInfo
from seqkd.errors import InputError, SeqkdError, WorkError
from seqkd.executors.work import Completion, Done, Piece, ShardWork
from seqkd.progress import say
from seqkd.stopping import StopRequest

MOST_DEATHS = 5
LOOK_SECONDS = 2.0
_WAIT_SECONDS = 60.0  # seconds without any worker until a message is printed


def connect() -> None:
    """Join the cluster at RAY_ADDRESS or the one on this machine, or start a cluster here if there is none.

    Raises:
        InputError: Ray is not installed, or the cluster does not answer.
    """
    try:
        import ray
    except ImportError:
        raise InputError(
            "--executor ray needs Ray, which is not installed", hint="pip install 'seqkd[ray]', on all nodes"
        ) from None
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"no Ray cluster can be joined or started: {error}",
            where=f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS', '')}",
            hint="`ray status` shows whether a cluster is running; unset RAY_ADDRESS to start one on this machine",
        ) from error
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray has replaced the handler


def cluster_device(device: str) -> str:
    """Return the kind of device of the workers; `auto` is CUDA if any node has a GPU.

    Raises:
        InputError: The device has a number, although Ray assigns devices; or Ray cannot be used, see `connect`.
    """
    connect()
    if device == "auto":
        device = "cuda" if _slots(gpu=True) else "cpu"
    if device not in ("cpu", "cuda"):
        raise InputError(
            f"device {device!r} cannot be used with --executor ray",
            expected="auto, cpu or cuda, because Ray assigns a device to each worker",
        )
    return device


def run_shards(
    work: ShardWork[Piece, Done],
    shards: Sequence[int],
    *,
    workers: int,
    gpu: bool,
    folder: Path,
    stop: StopRequest,
    look_seconds: float = LOOK_SECONDS,
    most_deaths: int = MOST_DEATHS,
) -> Generator[tuple[int, ShardInfo], None, None]:
    """Do the work and yield the shards as they are finished, in any order.

    Args:
        work: The work.
        shards: Numbers of the shards.
        workers: Number of workers; 0 for as many as the cluster has GPUs (or cores), and more when nodes join.
        gpu: Whether each worker gets a GPU instead of a CPU core.
        folder: The output folder of the shards.
        stop: The request to stop. Once it is made, no further shard is begun.
        look_seconds: Seconds between checks whether the cluster has grown.
        most_deaths: Number of workers that may die in a row with the same shard, or before they get one.

    Raises:
        InputError: The cluster has no GPU, a node does not see the folder or has another version of seqkd, or the
            cluster cannot be used, see `connect`.
        WorkError: Workers die repeatedly.
        SeqkdError: The work raised it.
    """
    connect()
    if gpu and not workers and not _slots(gpu=True):
        raise InputError("no node of the Ray cluster has a GPU", expected="--device cpu, or nodes with a GPU")
    crew = _Crew(work, shards, workers, gpu, (folder / PARTIAL).resolve(), look_seconds, most_deaths)
    try:
        yield from crew.work(stop)
    finally:
        crew.dismiss()


def _slots(*, gpu: bool) -> int:
    """Count the workers for which the cluster has room in total."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(resources.get("GPU" if gpu else "CPU", 0))


class _Worker:
    """The actor. It returns its errors instead of raising them, because Ray would wrap them."""

    def __init__(self, work: ShardWork[Any, Any], cwd: str, note: str, expected: bytes) -> None:
        self.work, self.cwd, self.note, self.expected = work, cwd, Path(note), expected
        self.do: Callable[[Any], Completion[Any]] | None = None

    def ready(self) -> SeqkdError | None:
        """Check that this node can do the work, and start the work."""
        where = f"node {os.uname().nodename}"
        try:
            found = self.note.read_bytes()
            os.chdir(self.cwd)  # settings may contain relative paths
        except OSError as error:
            return InputError(
                f"does not see {error.filename}",
                where=where,
                expected="folders of inputs and outputs that all nodes share under the same paths",
            )
        if found != self.expected:
            return InputError(
                f"sees another folder {self.note.parent}, or has another version of seqkd (here {__version__})",
                where=where,
                expected="a shared file system and the same version of seqkd on all nodes",
            )
        try:
            self.do = self.work.start()
        except SeqkdError as error:
            return error
        return None

    def shard(self, shard: int) -> ShardInfo | SeqkdError:
        """Make a shard."""
        assert self.do is not None
        try:
            return self.work.finish(shard, [self.do(piece)() for piece in self.work.pieces(shard)])
        except SeqkdError as error:
            return error


class _Crew:
    """The workers. They are hired as there is room, get one shard at a time, and are replaced when they die."""

    def __init__(
        self,
        work: ShardWork[Any, Any],
        shards: Sequence[int],
        workers: int,
        gpu: bool,
        note: Path,
        look_seconds: float,
        most_deaths: int,
    ) -> None:
        import ray

        self.waiting = deque(shards)
        self.wanted, self.gpu = workers, gpu
        self.look_seconds, self.most_deaths = look_seconds, most_deaths
        actor: Any = ray.remote(_Worker)
        self.actor = actor.options(num_cpus=0 if gpu else 1, num_gpus=1 if gpu else 0, max_restarts=0)
        self.arguments = (ray.put(work), str(Path.cwd()), str(note), note.read_bytes())
        self.starting: dict[Any, tuple[Any, int]] = {}  # expected answers, each with its actor and its generation
        self.idle: list[Any] = []
        self.busy: dict[Any, tuple[Any, int]] = {}
        self.deaths: Counter[int | None] = Counter()
        self.generation = 0  # a worker that dies as it starts begins a new one
        self.looked = self.heard = time.monotonic()
        self.room = _slots(gpu=gpu)

    def work(self, stop: StopRequest) -> Iterator[tuple[int, ShardInfo]]:
        """Yield the shards as they are finished. After a request to stop, only the begun shards are finished."""
        import ray

        while self.waiting or self.busy:
            if stop.made:
                self.waiting.clear()
            self._hire()
            while self.idle and self.waiting:
                actor, shard = self.idle.pop(), self.waiting.popleft()
                self.busy[actor.shard.remote(shard)] = (actor, shard)
            answers = [*self.busy, *(self.starting if self.waiting else ())]
            if not answers:
                continue
            for answer in ray.wait(answers, timeout=self.look_seconds)[0]:
                yield from self._take(answer)
            self._grumble()

    def dismiss(self) -> None:
        """End all workers, whatever they are doing."""
        import ray

        for actor in (*self.idle, *(actor for actor, _ in (*self.starting.values(), *self.busy.values()))):
            ray.kill(actor)

    def _hire(self) -> None:
        now = time.monotonic()
        if now - self.looked > self.look_seconds:
            self.looked, self.room = now, _slots(gpu=self.gpu)
        crew = len(self.starting) + len(self.idle) + len(self.busy)
        for _ in range(min(self.wanted or self.room, len(self.waiting) + len(self.busy)) - crew):
            actor = self.actor.remote(*self.arguments)
            self.starting[actor.ready.remote()] = (actor, self.generation)

    def _take(self, answer: Any) -> Iterator[tuple[int, ShardInfo]]:
        """Handle an answer of a worker that is ready, has finished its shard, or has died."""
        import ray

        generation, shard = self.generation, None
        if answer in self.busy:
            actor, shard = self.busy.pop(answer)
        else:
            actor, generation = self.starting.pop(answer)
        try:
            found = ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error  # an unexpected error is a bug and keeps its traceback
        except ray.exceptions.RayError as error:
            self._bury(actor, shard, generation, error)
            return
        self.heard = time.monotonic()
        if isinstance(found, SeqkdError):
            raise found
        self.deaths[shard] = 0
        self.idle.append(actor)
        if shard is not None:
            yield shard, found

    def _bury(self, actor: Any, shard: int | None, generation: int, error: Exception) -> None:
        import ray

        ray.kill(actor)  # it may only be out of reach, and come back
        if shard is None and generation < self.generation:
            return  # it was hired together with one that has died, perhaps on the same node: no second failure in a row
        self.deaths[shard] += 1
        self.generation += shard is None
        task = "as it started" if shard is None else f"at shard {shard}"
        if self.deaths[shard] >= self.most_deaths:
            raise WorkError(
                f"{self.most_deaths} workers in a row have died {task}: {str(error).splitlines()[0]}",
                hint="run the same command again to continue after the finished shards; if memory ran out, a smaller "
                "`batch_tokens` needs less",
            )
        say(f"a worker of the Ray cluster has died {task}; another worker replaces it")
        if shard is not None:
            self.waiting.appendleft(shard)

    def _grumble(self) -> None:
        if self.busy or self.idle:
            self.heard = time.monotonic()
        elif time.monotonic() - self.heard > _WAIT_SECONDS:
            self.heard = time.monotonic()
            kind = "GPU" if self.gpu else "CPU core"
            say(f"waiting until the Ray cluster has room for a worker; each worker needs one {kind}")

"""Shards done by the nodes of a Ray cluster.

Each worker is an actor with one GPU or one CPU core, and does a whole shard at a time, from reading to writing: corpora
are folders that all nodes see under the same path. What dies with an actor or a node is the shard in its hand, and that
goes to another one.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from seqkd import __version__
from seqkd.corpus.manifest import PARTIAL
from seqkd.corpus.records import ShardInfo
from seqkd.errors import InputError, SeqkdError, WorkError
from seqkd.executors.work import Done, Piece, ShardWork
from seqkd.progress import say
from seqkd.stopping import StopRequest

MOST_DEATHS = 5
LOOK_SECONDS = 2.0
_WAIT_SECONDS = 60.0  # without any worker before a word is said


def connect() -> None:
    """Join the cluster of RAY_ADDRESS or the one that runs on this machine; where there is none, start one here.

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
            hint="`ray status` shows whether a cluster runs; without RAY_ADDRESS one is started on this machine",
        ) from error
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray puts one of its own there


def cluster_device(device: str) -> str:
    """The kind of device that workers have; `auto` is CUDA if any node has a GPU.

    Raises:
        InputError: A device by number, which is Ray's to give; or no Ray (see `connect`).
    """
    connect()
    if device == "auto":
        device = "cuda" if _slots(gpu=True) else "cpu"
    if device not in ("cpu", "cuda"):
        raise InputError(
            f"device {device!r} with --executor ray", expected="auto, cpu or cuda: Ray gives each worker its own"
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
) -> Iterator[tuple[int, ShardInfo]]:
    """Do the work and yield the shards as they are finished, in any order.

    Args:
        work: What is to be done.
        shards: Numbers of the shards.
        workers: How many share the work; 0: as many as the cluster has GPUs (or cores), more when nodes join.
        gpu: Each worker has a GPU; else a CPU core.
        folder: Where the shards are written: a stage's output under way.
        stop: Once it is made, no other shard is begun.
        look_seconds: How often the cluster is asked whether it has grown.
        most_deaths: Workers that may die in a row with the same shard in hand, or before they had one.

    Raises:
        InputError: The cluster has no GPU; a node does not see the folder or has another seqkd; see also `connect`.
        WorkError: Workers die again and again.
        SeqkdError: What the work raises.
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
    """How many workers the cluster has room for in all."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(resources.get("GPU" if gpu else "CPU", 0))


class _Worker:
    """The actor. What it raises it returns: Ray would wrap it."""

    def __init__(self, work: ShardWork[Any, Any], cwd: str, note: str, expected: bytes) -> None:
        self.work, self.cwd, self.note, self.expected = work, cwd, Path(note), expected
        self.do: Callable[[Any], Any] | None = None

    def ready(self) -> SeqkdError | None:
        """Check that this node is one to work on, and load what the work needs."""
        where = f"node {os.uname().nodename}"
        try:
            found = self.note.read_bytes()
            os.chdir(self.cwd)  # settings may hold relative paths
        except OSError as error:
            return InputError(
                f"does not see {error.filename}",
                where=where,
                expected="all nodes share the folders of inputs and outputs, under the same paths",
            )
        if found != self.expected:
            return InputError(
                f"sees another {self.note.parent}, or has another seqkd (here {__version__})",
                where=where,
                expected="one shared file system and one version of seqkd on all nodes",
            )
        try:
            self.do = self.work.start()
        except SeqkdError as error:
            return error
        return None

    def shard(self, shard: int) -> ShardInfo | SeqkdError:
        """Do a shard."""
        assert self.do is not None
        try:
            return self.work.finish(shard, [self.do(piece) for piece in self.work.pieces(shard)])
        except SeqkdError as error:
            return error


class _Crew:
    """The workers: hired as there is room, given one shard at a time, replaced when they die."""

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
        self.starting: dict[Any, Any] = {}  # answers to come, each with the actor it comes from
        self.idle: list[Any] = []
        self.busy: dict[Any, tuple[Any, int]] = {}
        self.deaths: Counter[int | None] = Counter()
        self.looked = self.heard = time.monotonic()
        self.room = _slots(gpu=gpu)

    def work(self, stop: StopRequest) -> Iterator[tuple[int, ShardInfo]]:
        """Yield the shards as they are finished; once a stop is made, those that are begun."""
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

        for actor in (*self.starting.values(), *self.idle, *(actor for actor, _ in self.busy.values())):
            ray.kill(actor)

    def _hire(self) -> None:
        now = time.monotonic()
        if now - self.looked > self.look_seconds:
            self.looked, self.room = now, _slots(gpu=self.gpu)
        crew = len(self.starting) + len(self.idle) + len(self.busy)
        for _ in range(min(self.wanted or self.room, len(self.waiting) + len(self.busy)) - crew):
            actor = self.actor.remote(*self.arguments)
            self.starting[actor.ready.remote()] = actor

    def _take(self, answer: Any) -> Iterator[tuple[int, ShardInfo]]:
        """Take an answer that has come: of a worker that is ready, has finished its shard, or is dead."""
        import ray

        actor, shard = self.busy.pop(answer, (None, None))
        if actor is None:
            actor = self.starting.pop(answer)
        try:
            found = ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error  # not expected: a bug, to be seen as what it is
        except ray.exceptions.RayError as error:
            self._bury(actor, shard, error)
            return
        self.heard = time.monotonic()
        if isinstance(found, SeqkdError):
            raise found
        self.deaths[shard] = 0
        self.idle.append(actor)
        if shard is not None:
            yield shard, found

    def _bury(self, actor: Any, shard: int | None, error: Exception) -> None:
        import ray

        ray.kill(actor)  # it may be out of reach only, and come back
        self.deaths[shard] += 1
        task = "as it started" if shard is None else f"at shard {shard}"
        if self.deaths[shard] >= self.most_deaths:
            raise WorkError(
                f"{self.most_deaths} workers in a row have died {task}: {str(error).splitlines()[0]}",
                hint="run the same command again: it goes on after the finished shards; if memory ran out, a smaller "
                "`batch_tokens` needs less",
            )
        say(f"a worker of the Ray cluster has died {task}; another one takes its place")
        if shard is not None:
            self.waiting.appendleft(shard)

    def _grumble(self) -> None:
        if self.busy or self.idle:
            self.heard = time.monotonic()
        elif time.monotonic() - self.heard > _WAIT_SECONDS:
            self.heard = time.monotonic()
            kind = "GPU" if self.gpu else "CPU core"
            say(f"waiting for the Ray cluster to have room for a worker, with a {kind} each")

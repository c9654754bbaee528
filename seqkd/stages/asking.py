"""External workers in stages: checks before the work, notes beside shards, and facts for the manifest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqkd.corpus.locks import Part
from seqkd.corpus.manifest import atomic_write
from seqkd.corpus.records import WORKERS
from seqkd.errors import InputError
from seqkd.executors.work import Scale
from seqkd.interop.asking.desk import Desk, find_desk, use_desk
from seqkd.interop.workers import Role, WorkerSettings, check_worker
from seqkd.progress import say
from seqkd.stopping import StopRequest

Workers = Mapping[Role, WorkerSettings]
Notes = dict[Role, dict[str, Any]]  # facts about answers by role; see `seqkd.interop.asking.asker.Notes`


def find_workers(settings: Mapping[Role, Any]) -> Workers:
    """Return the external workers among the settings of a stage's sources, scorers and filters."""
    return {role: values for role, values in settings.items() if isinstance(values, WorkerSettings)}


def check_workers(workers: Workers, processes: int, scale: Scale) -> None:
    """Check that all workers can be asked, before any work starts.

    Args:
        workers: The workers.
        processes: The number of processes in the stage file; 0 for the default.
        scale: The executor and the part of the work.

    Raises:
        InputError: A worker cannot be started or reached without a key, or several processes would ask it.
    """
    for settings in workers.values():
        if scale.executor == "ray":
            raise InputError(
                "is asked by a single process on each machine, so a Ray cluster cannot share the work",
                where=f"worker {settings.label}",
                hint="leave --executor out; several machines share the work with --worker i/n",
            )
        if processes > 1:
            raise InputError(
                f"workers = {processes}: an external worker is asked by a single process",
                where=f"worker {settings.label}",
                hint="leave `workers` out, and set `parallel`, the number of requests at a time, for the worker",
            )
        check_worker(settings)


@dataclass(frozen=True, slots=True)
class Asking:
    """The workers of a running stage.

    Attributes:
        workers: The workers by role; none if the stage asks none.
        desk: The desk at which they are asked.
        stop: The request to stop, which also ends the work between two requests; None without workers.
    """

    workers: Workers
    desk: Desk
    stop: StopRequest | None

    def finish(self) -> None:
        """Ask the canary rows once more; called when this process has made its part of the shards."""
        self.desk.finish(self.workers)


def take_notes() -> Notes:
    """Return the notes about the answers since the last call, by role; empty in a stage that asks no worker."""
    desk = find_desk()
    return {} if desk is None else desk.take_notes()


def note_answers(out: Path, shard: int, notes: Sequence[Notes]) -> None:
    """Write down the notes about the answers in a shard. This happens before the shard is written.

    Raises:
        WorkError: The file cannot be written, for example because the disk is full.
    """
    if any(notes):
        atomic_write(out / f"asked-{shard:05}.json", json.dumps(notes, ensure_ascii=False).encode())


@contextmanager
def ask_workers(workers: Workers, out: Path, scale: Scale) -> Iterator[Asking]:
    """Open the desk of a stage, and end its workers when the block is left."""
    if not workers:
        yield Asking(workers, Desk(out), None)
        return
    with StopRequest() as stop, use_desk(Desk(out, part=scale.part, halted=lambda: stop.made)) as desk:
        yield Asking(workers, desk, stop)


@contextmanager
def estimate_workers(label: str, out: Path, part: Part | None) -> Iterator[None]:
    """Count the questions of the block in place of asking them, and say what a run would ask and cost."""
    with use_desk(Desk(out, part=part, dry=True)) as desk:
        yield
        for line in desk.describe() or ["no external worker is asked"]:
            say(f"{label} --dry-run: {line}")


def read_refused(out: Path) -> dict[int, str]:
    """Return the rows that workers refused, with the reasons, over all shards."""
    return {
        int(row): reason
        for notes in _read_notes(out)
        for facts in notes.values()
        for row, reason in facts["rejected"].items()
    }


def describe_workers(workers: Workers, out: Path) -> dict[str, Any]:
    """Return the facts about the workers for the manifest's `extra`: names, versions, times and counts."""
    found = []
    notes = list(_read_notes(out))
    for role, settings in workers.items():
        facts = [shard[role] for shard in notes if role in shard and shard[role]["answers"]]
        rejected = Counter(reason.partition(":")[0] for one in facts for reason in one["rejected"].values())
        reasons: Counter[str] = Counter()
        for one in facts:
            reasons.update(one["reasons"])
        canary: Counter[str] = Counter()
        for path in sorted(out.glob(f"canary-found-{role}-*.json")):
            canary.update(json.loads(path.read_text()))
        found.append(
            {
                "role": role,
                "name": settings.label,
                "version": settings.version,
                "first": min((one["first"] for one in facts), default=""),
                "last": max((one["last"] for one in facts), default=""),
                "answers": sum(one["answers"] for one in facts),
                **({"refused": dict(sorted(rejected.items()))} if rejected else {}),
                **({"reasons": dict(sorted(reasons.items()))} if reasons else {}),
                **({"canary": {"different": 0, **canary}} if canary else {}),
            }
        )
    return {WORKERS: found} if found else {}


def discard_notes(out: Path) -> None:
    """Delete the notes of a folder whose manifest holds them."""
    for pattern in ("asked-*.json", "canary-*.json"):
        for path in out.glob(pattern):
            path.unlink(missing_ok=True)


def _read_notes(out: Path) -> Iterator[Notes]:
    """Yield the notes of all pieces of all shards."""
    for path in sorted(out.glob("asked-*.json")):
        yield from json.loads(path.read_text(encoding="utf-8"))

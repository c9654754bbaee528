"""The cost of a folder: time, CPU time, memory and energy, over all attempts and workers.

A process that works in a folder notes its cost there, in a file of its own, every `NOTE_SECONDS` and when it ends. The
next attempt continues from that note. The process that finishes the folder adds up all notes for the manifest and
deletes them. Notes are never a reason for a stage to fail: a note that cannot be written or read is left out.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from seqkd.corpus.files import atomic_write
from seqkd.corpus.sensors import Sensors
from seqkd.errors import SeqkdError

COST = "cost.json"  # beside the manifest, whose bytes do not depend on the run
NOTE_SECONDS = 30.0  # energy counters of large machines start again after a few minutes

_NOTE = ".cost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of one process, or of several, on a folder.

    Attributes:
        seconds: Wall-clock time from the opening of the folder to its end, summed over attempts and workers.
        cpu_seconds: User and system time of the processes and of those that they started.
        peak_memory_bytes: The most resident memory of any one process; 0 if it is not known.
        peak_memory_process: Which one that was: `main`, or a `worker` that it started; "" if it is not known.
        joules: By source; a source that could not be read all the time is left out.
        begun: How often a process has opened the folder to work in it.
        cut: How many of these were killed; their cost after the last note is missing.
        uncounted: Processes that worked for this one and whose cost is not known; "" if there are none.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    peak_memory_process: str = ""
    joules: dict[str, float] = field(default_factory=dict)
    begun: int = 0
    cut: int = 0
    uncounted: str = ""

    def __add__(self, other: Cost) -> Cost:
        """Both together; the peak is the larger one."""
        largest = max(self, other, key=lambda cost: cost.peak_memory_bytes)
        return Cost(
            seconds=self.seconds + other.seconds,
            cpu_seconds=self.cpu_seconds + other.cpu_seconds,
            peak_memory_bytes=largest.peak_memory_bytes,
            peak_memory_process=largest.peak_memory_process,
            joules={
                source: self.joules.get(source, 0.0) + other.joules.get(source, 0.0)
                for source in dict.fromkeys((*self.joules, *other.joules))
                if self._knows(source) and other._knows(source)
            },
            begun=self.begun + other.begun,
            cut=self.cut + other.cut,
            uncounted=self.uncounted or other.uncounted,
        )

    def _knows(self, source: str) -> bool:
        """Whether a sum with this cost is right for a source: it was read, or there was no time to spend it in."""
        return source in self.joules or not self.seconds

    def to_json(self) -> dict[str, Any]:
        """As a manifest has it."""
        values: dict[str, Any] = {"seconds": round(self.seconds, 3), "cpu_seconds": round(self.cpu_seconds, 3)}
        if self.peak_memory_bytes:
            values |= {
                "peak_memory_bytes": self.peak_memory_bytes,
                "peak_memory_process": self.peak_memory_process,
            }
        if self.joules:
            values["joules"] = {source: round(value, 3) for source, value in self.joules.items()}
        values["attempts"] = {"begun": self.begun, "cut": self.cut}
        return values | ({"uncounted": self.uncounted} if self.uncounted else {})

    def facts(self) -> dict[str, int | float | str]:
        """For people to read, by name."""
        found: dict[str, int | float | str] = {"seconds": self.seconds, "CPU seconds": self.cpu_seconds}
        if self.peak_memory_bytes:
            found["peak memory"] = f"{self.peak_memory_bytes / 1e6:,.1f} MB, {self.peak_memory_process} process"
        found |= {f"joules, {source}": value for source, value in self.joules.items()}
        cut = f", {self.cut} of them killed" if self.cut else ""
        found["attempts"] = f"{self.begun}{cut}"
        return found | ({"not counted": self.uncounted} if self.uncounted else {})

    @staticmethod
    def from_json(values: object) -> Cost | None:
        """Read a manifest's entry; None if there is none, or if it is not as this version writes it."""
        if not isinstance(values, Mapping) or not isinstance(attempts := values.get("attempts"), Mapping):
            return None
        flat = {**values, **attempts}
        return _read({entry.name: flat[entry.name] for entry in fields(Cost) if entry.name in flat})


def write_cost(folder: Path, cost: Cost) -> None:
    """Write the cost of a folder into it."""
    atomic_write(folder / COST, (json.dumps(cost.to_json(), indent=2) + "\n").encode())


def read_cost(folder: Path) -> Cost | None:
    """Read the cost of a folder; None if it was not recorded, or if the file is not as this version writes it."""
    try:
        return Cost.from_json(json.loads((folder / COST).read_bytes()))
    except (OSError, ValueError):
        return None


def total(costs: Iterable[Cost]) -> Cost:
    """All costs together."""
    return sum(costs, start=Cost())


class Meter:
    """Measures the cost of this process from now on, and keeps a note of it in the folder until it is closed.

    Args:
        folder: The folder.
        sensors: Of this process.
        name: Tells this process from others that work there, such as "2-of-4"; "" if it is the only one.
        attempts: Whether this process counts as an attempt of its own. One that helps another process does not, and
            its wall-clock time is the other one's.
        note_seconds: Time between two notes.
    """

    def __init__(
        self,
        folder: Path,
        sensors: Sensors,
        *,
        name: str = "",
        attempts: bool = True,
        note_seconds: float = NOTE_SECONDS,
    ) -> None:
        self._folder = folder
        self._path = folder / (f"{_NOTE}-{name}.json" if name else f"{_NOTE}.json")
        self._sensors = sensors
        self._helps = not attempts
        self._uncounted = ""
        self._reading = threading.Lock()
        self._started = sensors.clock(), sensors.processor(), self._joules()
        self._earlier = _read_note(self._path) + Cost(begun=int(attempts))
        self._stopped = threading.Event()
        self._note(running=attempts)
        self._thread = threading.Thread(target=self._keep_noting, args=(note_seconds,), name="cost", daemon=True)
        self._thread.start()

    def leave_out(self, workers: str) -> None:
        """Say that other processes work for this one and are not measured."""
        self._uncounted = workers

    def spent(self) -> Cost:
        """Return the cost of this process and of its earlier attempts so far."""
        with self._reading:
            seconds, processor, joules = self._started
            peak = self._sensors.peak()
            now = Cost(
                seconds=0.0 if self._helps else self._sensors.clock() - seconds,
                cpu_seconds=max(self._sensors.processor() - processor, 0.0),
                peak_memory_bytes=0 if peak is None else peak.bytes,
                peak_memory_process="" if peak is None else "worker" if peak.worker else "main",
                joules={source: value - joules[source] for source, value in self._joules().items() if source in joules},
                uncounted=self._uncounted,
            )
            return self._earlier + now

    def all_spent(self) -> Cost:
        """Return that cost with the notes of all other processes, which must have ended."""
        others = [path for path in self._folder.iterdir() if is_note(path.name) and path != self._path]
        return total([self.spent(), *map(_read_note, sorted(others))])

    def close(self, *, keep: bool = True) -> None:
        """Write no further note. The cost can still be read.

        Args:
            keep: Whether to leave a last note behind for the next attempt; otherwise there is none any more.
        """
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._thread.join()
        if keep:
            self._note(running=False)
        else:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _keep_noting(self, seconds: float) -> None:
        while not self._stopped.wait(seconds):
            self._note(running=not self._helps)

    def _note(self, *, running: bool) -> None:
        values = {**asdict(self.spent()), "running": running}
        with contextlib.suppress(SeqkdError, OSError):
            atomic_write(self._path, (json.dumps(values) + "\n").encode())

    def _joules(self) -> dict[str, float]:
        found = {}
        for source, read in self._sensors.energy.items():
            with contextlib.suppress(Exception):  # a device that has gone; its library's errors are of its own kind
                found[source] = read()
        return found


def is_note(name: str) -> bool:
    """Whether `name` is that of a note."""
    return name == f"{_NOTE}.json" or (name.startswith(f"{_NOTE}-") and name.endswith(".json"))


def _read_note(path: Path) -> Cost:
    """Read the note of a process. A process that was killed counts among those that were cut."""
    try:
        values = json.loads(path.read_bytes())
        running = values.pop("running")
    except FileNotFoundError:
        return Cost()
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return Cost(begun=1, cut=1)
    found = _read(values)
    if found is None:
        return Cost(begun=1, cut=1)
    return replace(found, cut=found.cut + 1) if running is True else found


def _read(values: Mapping[str, Any]) -> Cost | None:
    """Make a cost of its fields; None if they have other names or types."""
    kinds: dict[str, Any] = {
        "seconds": (int, float),
        "cpu_seconds": (int, float),
        "peak_memory_bytes": int,
        "peak_memory_process": str,
        "joules": dict,
        "begun": int,
        "cut": int,
        "uncounted": str,
    }
    if any(name not in kinds or not isinstance(value, kinds[name]) for name, value in values.items()):
        return None
    if not all(isinstance(value, (int, float)) for value in values.get("joules", {}).values()):
        return None
    return Cost(**values)

"""Sensors of a process: the time, memory and energy that it uses."""

from __future__ import annotations

import importlib
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

PROC = Path("/proc")
POWERCAP = Path("/sys/class/powercap")
PACKAGES, GPU = "packages", "gpu"  # sources of energy

_ZONE = re.compile(r"^intel-rapl:\d+$")  # parts of a package, such as its cores, have a second number
_TICK = 1.0 / os.sysconf("SC_CLK_TCK")  # seconds, the unit of times in /proc


@dataclass(frozen=True, slots=True)
class Peak:
    """The most memory that a process has had.

    Attributes:
        bytes: Resident memory.
        worker: Whether it is a process that this one has started.
    """

    bytes: int
    worker: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensors:
    """The sensors that a `Meter` reads. All values but the peak rise from a start of their own.

    Attributes:
        clock: Seconds.
        processor: CPU seconds, user and system, of this process and of the processes that it has started.
        peak: The largest of these processes so far; None if the system does not tell.
        energy: By source of energy, a counter in joules; a source that cannot be read is left out.
    """

    clock: Callable[[], float]
    processor: Callable[[], float]
    peak: Callable[[], Peak | None]
    energy: dict[str, Callable[[], float]]


def sensors(device: str, *, packages: bool = True) -> Sensors:
    """Return the sensors of this process.

    Args:
        device: Where the stage works, such as "cpu" or "cuda:1".
        packages: Whether to read the energy of the CPU packages, which is the whole machine's.
    """
    energy: dict[str, Callable[[], float]] = {}
    zones = package_zones(POWERCAP) if packages else []
    if zones:
        energy[PACKAGES] = partial(_sum, [PackageEnergy(zone) for zone in zones])
    gpu = gpu_energy(device)
    if gpu is not None:
        energy[GPU] = gpu
    return Sensors(clock=time.monotonic, processor=processor_seconds, peak=peak_memory, energy=energy)


def processor_seconds(proc: Path = PROC) -> float:
    """CPU seconds of this process, of the children that have ended, and of those that are running."""
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    running = sum(sum(map(int, fields[11:15])) for _, fields in _children(proc))  # utime, stime, cutime, cstime
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime + running * _TICK


def peak_memory(proc: Path = PROC) -> Peak | None:
    """The largest resident memory of this process or of one that it has started, over their whole lives."""
    own = _high_water(proc / "self")
    if own is None:
        return None
    ended = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    workers = max([ended, *(_high_water(folder) or 0 for folder, _ in _children(proc))])
    return Peak(workers, worker=True) if workers > own else Peak(own, worker=False)


def package_zones(powercap: Path) -> list[Path]:
    """The zones of CPU packages whose energy this process may read."""
    zones = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if _ZONE.match(zone.name)]
    return [zone for zone in zones if _is_package(zone)]


class PackageEnergy:
    """The energy of one CPU package, in joules since it was first read.

    The counter starts again at zero after `max_energy_range_uj`; it must be read more often than that happens.

    Args:
        zone: Its folder under /sys/class/powercap.
    """

    def __init__(self, zone: Path) -> None:
        self._zone = zone
        self._range = _microjoules(zone, "max_energy_range_uj")
        self._last = _microjoules(zone, "energy_uj")
        self._sum = 0

    def __call__(self) -> float:
        """Read the counter."""
        now = _microjoules(self._zone, "energy_uj")
        self._sum += now - self._last if now >= self._last else now + self._range - self._last
        self._last = now
        return self._sum / 1e6


def gpu_energy(
    device: str, *, library: Any = None, uuid: Callable[[str], str] | None = None
) -> Callable[[], float] | None:
    """The energy counter of a GPU, in joules; None without a GPU, without pynvml, or if the GPU has no counter.

    Args:
        device: Such as "cuda" or "cuda:1".
        library: pynvml; imported if None.
        uuid: Gives the identity of a device; None to ask torch, which numbers GPUs in another way than NVML.
    """
    if not device.startswith("cuda"):
        return None
    try:
        if library is None:
            library = importlib.import_module("pynvml")  # not among the dependencies
        library.nvmlInit()
        handle = library.nvmlDeviceGetHandleByUUID((uuid or _torch_uuid)(device))
        library.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:
        return None
    return lambda: library.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3


def _torch_uuid(device: str) -> str:
    torch: Any = sys.modules["torch"]  # loaded by whoever works on a GPU
    return f"GPU-{torch.cuda.get_device_properties(torch.device(device)).uuid}"


def _sum(counters: Sequence[Callable[[], float]]) -> float:
    return sum(counter() for counter in counters)


def _is_package(zone: Path) -> bool:
    try:
        name = (zone / "name").read_text()
        _microjoules(zone, "energy_uj")
        _microjoules(zone, "max_energy_range_uj")
    except (OSError, ValueError):  # most systems let root alone read it
        return False
    return name.startswith("package")


def _microjoules(zone: Path, name: str) -> int:
    return int((zone / name).read_text())


def _children(proc: Path) -> list[tuple[Path, list[str]]]:
    """Processes that this one has started and that are running: their folders, and `stat` from the state on."""
    parent, found = str(os.getpid()), []
    try:
        numbers = [entry.name for entry in proc.iterdir() if entry.name.isdecimal()]
    except OSError:
        return []
    for number in numbers:
        try:
            with open(f"{proc}/{number}/stat") as file:  # noqa: PTH123  (there may be many thousands)
                fields = file.read().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if len(fields) > 15 and fields[1] == parent:
            found.append((proc / number, fields))
    return found


def _high_water(folder: Path) -> int | None:
    """A process' largest resident memory, in bytes. Unlike getrusage's it does not begin with that of its parent."""
    try:
        lines = (folder / "status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)

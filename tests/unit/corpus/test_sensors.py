"""Sensors, over made-up folders of the system and a made-up library of the GPU."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from seqkd.corpus.sensors import (
    PackageEnergy,
    gpu_energy,
    package_zones,
    peak_memory,
    processor_seconds,
    sensors,
)


def write_zone(powercap: Path, zone: str, name: str, microjoules: int, most: int = 1_000_000) -> Path:
    folder = powercap / zone
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder


def test_energy_is_that_of_packages_alone(tmp_path: Path) -> None:
    package = write_zone(tmp_path, "intel-rapl:0", "package-0", 5)
    write_zone(tmp_path, "intel-rapl:0:0", "core", 5)
    write_zone(tmp_path, "intel-rapl:1", "psys", 5)
    other = write_zone(tmp_path, "intel-rapl:2", "package-1", 5)
    (write_zone(tmp_path, "intel-rapl:3", "package-2", 5) / "energy_uj").unlink()  # not readable
    (write_zone(tmp_path, "intel-rapl:4", "package-3", 5) / "max_energy_range_uj").write_text("")
    (tmp_path / "intel-rapl").mkdir()
    assert package_zones(tmp_path) == [package, other]
    assert package_zones(tmp_path / "none") == []


def test_a_counter_that_starts_again_goes_on(tmp_path: Path) -> None:
    zone = write_zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    energy = PackageEnergy(zone)
    read = []
    for value in (950_000, 20_000, 20_000, 990_000, 0):
        write_zone(tmp_path, "intel-rapl:0", "package-0", value)
        read.append(energy())
    assert read == pytest.approx([0.05, 0.12, 0.12, 1.09, 1.1])


def test_the_counter_of_a_gpu() -> None:
    millijoules = iter((10_000, 12_500, 15_000))
    library = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID={"GPU-cuda:1": "handle"}.__getitem__,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(millijoules) if handle == "handle" else 0,
    )
    energy = gpu_energy("cuda:1", library=library, uuid=lambda device: f"GPU-{device}")
    assert energy is not None
    assert (energy(), energy()) == (12.5, 15.0)
    assert gpu_energy("cpu", library=library) is None


def test_a_gpu_without_a_counter_has_no_energy() -> None:
    def unsupported(_: object) -> int:
        raise RuntimeError("Not Supported")

    library = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=unsupported,
    )
    assert gpu_energy("cuda", library=library, uuid=str) is None


def _burn(seconds: float, done: object, leave: object) -> None:
    while time.process_time() < seconds:
        pass
    done.set()  # type: ignore[attr-defined]
    leave.wait(60)  # type: ignore[attr-defined]


def test_workers_count_while_they_run_and_after_their_end() -> None:
    context = multiprocessing.get_context("fork")
    done, leave = context.Event(), context.Event()
    before = processor_seconds()
    worker = context.Process(target=_burn, args=(0.3, done, leave))
    worker.start()
    assert done.wait(60)
    running = processor_seconds() - before
    assert running > 0.25
    leave.set()
    worker.join()
    assert processor_seconds() - before >= running - 0.05


def test_own_memory_and_time(tmp_path: Path) -> None:
    peak = peak_memory()
    assert peak is not None
    assert 10_000_000 < peak.bytes < 1 << 42
    assert peak_memory(tmp_path) is None  # a system without /proc
    before = processor_seconds()
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    assert 0.04 < processor_seconds() - before < 30


def test_children_are_found_by_their_parent(tmp_path: Path) -> None:
    def stat(pid: int, parent: int, user: int) -> None:
        (tmp_path / str(pid)).mkdir()
        rest = " ".join(["S", str(parent), *["0"] * 9, str(user), "0", "0", "0", "0"])
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a) name) {rest}")
        (tmp_path / str(pid) / "status").write_text(f"VmPeak: 9 kB\nVmHWM:\t{user * 1000} kB\n")

    stat(100, os.getpid(), 1000)
    stat(101, 1, 5000)
    (tmp_path / "102").mkdir()  # it has just ended
    none = processor_seconds(tmp_path / "none")
    assert processor_seconds(tmp_path) - none == pytest.approx(1000 / os.sysconf("SC_CLK_TCK"), abs=0.5)
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").write_text("VmHWM: 7 kB\n")
    peak = peak_memory(tmp_path)
    assert peak is not None
    assert peak.worker
    assert peak.bytes >= 1_000_000 * 1024


def test_this_machine_has_a_clock_and_a_processor() -> None:
    found = sensors("cpu", packages=False)
    assert found.energy == {}
    assert found.clock() <= found.clock()

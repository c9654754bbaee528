"""What a folder cost: over attempts, workers and helpers, by a made-up clock and made-up counters."""

from __future__ import annotations

import dataclasses
import json
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from seqkd.corpus.cost import COST, Cost, Meter, is_note, total
from seqkd.corpus.locks import Part
from seqkd.corpus.manifest import Manifest, StageOutput, read_manifest
from seqkd.corpus.sensors import Peak, Sensors
from seqkd.errors import WorkError
from tests.events import before
from tests.unit.corpus.test_output import made_by

MADE_BY = made_by()


MAIN = Peak(100, worker=False)


@dataclasses.dataclass
class Machine:
    """A machine whose counters the test sets."""

    seconds: float = 1000.0
    cpu: float = 50.0
    peak: Peak | None = MAIN
    energy: dict[str, float] = dataclasses.field(default_factory=dict)

    def sensors(self, _: str = "cpu") -> Sensors:
        return Sensors(
            clock=lambda: self.seconds,
            processor=lambda: self.cpu,
            peak=lambda: self.peak,
            energy={source: partial(self.energy.__getitem__, source) for source in self.energy},
        )

    def work(self, seconds: float, cpu: float, **joules: float) -> None:
        self.seconds += seconds
        self.cpu += cpu
        for source, value in joules.items():
            self.energy[source] += value


def open_output(out: Path, machine: Machine, part: str | None = None, *, overwrite: bool = False) -> StageOutput:
    return StageOutput.open(
        out,
        "corpus",
        MADE_BY,
        overwrite=overwrite,
        part=None if part is None else Part.parse(part),
        measure=machine.sensors,
    )


def manifest() -> Manifest:
    return Manifest(kind="corpus", fingerprint=MADE_BY.fingerprint)


def cost_of(out: Path) -> dict[str, Any]:
    cost: dict[str, Any] = json.loads((out / COST).read_text())
    return cost


def copy_of_notes(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in out.iterdir() if is_note(path.name)}


def kill(output: StageOutput, out: Path) -> None:
    """End the work without a last note."""
    notes = copy_of_notes(out)
    output.close()
    for name, text in notes.items():
        (out / name).write_text(text)


def test_one_attempt(tmp_path: Path) -> None:
    machine = Machine(energy={"packages": 7.0})
    with open_output(tmp_path, machine) as output:
        machine.work(12.5, 20.25, packages=33.0)
        machine.peak = Peak(250, worker=True)
        output.commit(manifest())
    assert cost_of(tmp_path) == {
        "seconds": 12.5,
        "cpu_seconds": 20.25,
        "peak_memory_bytes": 250,
        "peak_memory_process": "worker",
        "joules": {"packages": 33.0},
        "attempts": {"begun": 1, "cut": 0},
    }
    assert output.manifest == read_manifest(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", "cost.json"}


def test_without_sensors_fields_are_absent(tmp_path: Path) -> None:
    machine = Machine(peak=None)
    with open_output(tmp_path, machine) as output:
        machine.work(1.0, 1.0)
        output.commit(manifest())
    assert cost_of(tmp_path) == {"seconds": 1.0, "cpu_seconds": 1.0, "attempts": {"begun": 1, "cut": 0}}


def test_the_cost_is_no_part_of_the_contents(tmp_path: Path) -> None:
    made = []
    for name, seconds in (("a", 1.0), ("b", 99.0)):
        machine = Machine()
        with open_output(tmp_path / name, machine) as output:
            machine.work(seconds, seconds)
            output.commit(manifest())
        made.append((tmp_path / name / "manifest.json").read_bytes())
    assert cost_of(tmp_path / "a") != cost_of(tmp_path / "b")
    assert made[0] == made[1]
    assert StageOutput.up_to_date(tmp_path / "a", "corpus", MADE_BY, overwrite=False)


def test_attempts_that_stopped_are_added_up(tmp_path: Path) -> None:
    machine = Machine(energy={"packages": 0.0})
    for _ in range(2):
        with open_output(tmp_path, machine):
            machine.work(10.0, 5.0, packages=100.0)
        machine.work(1000.0, 1000.0, packages=1000.0)  # between them
    machine.peak = Peak(60, worker=False)
    with open_output(tmp_path, machine) as output:
        machine.work(1.0, 2.0, packages=3.0)
        output.commit(manifest())
    cost = cost_of(tmp_path)
    assert (cost["seconds"], cost["cpu_seconds"], cost["joules"]) == (21.0, 12.0, {"packages": 203.0})
    assert cost["peak_memory_bytes"] == 100
    assert cost["attempts"] == {"begun": 3, "cut": 0}


def test_an_attempt_that_was_killed_counts_up_to_its_last_note(tmp_path: Path) -> None:
    machine = Machine()
    noted = threading.Event()
    output = open_output(tmp_path, machine)
    machine.work(30.0, 30.0)
    # The note that is written now and then.
    meter = Meter(tmp_path, machine.sensors(), name="1-of-1", note_seconds=0.01)
    machine.work(4.0, 4.0)

    def see(_: object, target: Any, *__: object) -> None:
        if Path(target).name == ".cost-1-of-1.json":
            noted.set()

    with before("os.rename", see):
        assert noted.wait(30)
        noted.clear()
        assert noted.wait(30)
    notes = copy_of_notes(tmp_path)
    meter.close()
    assert json.loads(notes[".cost-1-of-1.json"])["seconds"] == 4.0
    kill(output, tmp_path)  # its only note is that of its start
    for name, text in notes.items():
        (tmp_path / name).write_text(text)
    with open_output(tmp_path, machine) as output:
        machine.work(1.0, 1.0)
        output.commit(manifest())
    cost = cost_of(tmp_path)
    assert cost["seconds"] == 4.0 + 1.0
    assert cost["attempts"] == {"begun": 3, "cut": 2}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"running": 1, "seconds": "x"}', '{"running": false, "more": 1}'])
def test_a_damaged_note_is_an_attempt_whose_cost_is_lost(tmp_path: Path, text: str) -> None:
    machine = Machine()
    open_output(tmp_path, machine).close()
    (tmp_path / ".cost.json").write_text(text)
    with open_output(tmp_path, machine) as output:
        machine.work(1.0, 1.0)
        output.commit(manifest())
    assert cost_of(tmp_path)["attempts"] == {"begun": 2, "cut": 1}
    assert cost_of(tmp_path)["seconds"] == 1.0


def test_starting_anew_counts_anew(tmp_path: Path) -> None:
    machine = Machine()
    with open_output(tmp_path, machine):
        machine.work(10.0, 10.0)
    with open_output(tmp_path, machine, overwrite=True) as output:
        machine.work(1.0, 1.0)
        output.commit(manifest())
    assert cost_of(tmp_path)["attempts"] == {"begun": 1, "cut": 0}
    assert cost_of(tmp_path)["seconds"] == 1.0


def test_workers_are_summed_by_the_last_one(tmp_path: Path) -> None:
    first, second = Machine(energy={"packages": 0.0}), Machine(energy={"packages": 0.0}, peak=Peak(900, worker=True))
    one, two = open_output(tmp_path, first, "1/2"), open_output(tmp_path, second, "2/2")
    with one, two:
        first.work(10.0, 20.0, packages=5.0)
        second.work(100.0, 200.0, packages=50.0)
        assert not one.last()
        first.work(1000.0, 1000.0)
        one.close()
        assert two.last()
        two.commit(manifest())
    cost = cost_of(tmp_path)
    assert (cost["seconds"], cost["cpu_seconds"], cost["joules"]) == (110.0, 220.0, {"packages": 55.0})
    assert (cost["peak_memory_bytes"], cost["peak_memory_process"]) == (900, "worker")
    assert cost["attempts"] == {"begun": 2, "cut": 0}
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", "cost.json"}


def test_energy_that_one_worker_cannot_read_is_not_given(tmp_path: Path) -> None:
    """The sum would be that of a part and look like the whole."""
    first, second = Machine(energy={"packages": 0.0}), Machine()
    with open_output(tmp_path, first, "1/2") as one, open_output(tmp_path, second, "2/2") as two:
        first.work(10.0, 20.0, packages=5.0)
        second.work(1.0, 1.0)
        assert not one.last()
        assert two.last()
        two.commit(manifest())
    assert "joules" not in cost_of(tmp_path)


def test_a_helper_adds_its_processor_and_no_time(tmp_path: Path) -> None:
    """Processes of one training run work at the same time; their first one has the clock."""
    machine, other = Machine(energy={"gpu": 0.0}), Machine(energy={"gpu": 0.0})
    with open_output(tmp_path, machine) as output:
        helper = Meter(tmp_path, other.sensors(), name="rank-1-of-2", attempts=False)
        machine.work(10.0, 9.0, gpu=100.0)
        other.work(10.0, 8.0, gpu=50.0)
        helper.close()
        output.commit(manifest())
    cost = cost_of(tmp_path)
    assert (cost["seconds"], cost["cpu_seconds"], cost["joules"]) == (10.0, 17.0, {"gpu": 150.0})
    assert cost["attempts"] == {"begun": 1, "cut": 0}


def test_workers_that_are_not_measured_are_named(tmp_path: Path) -> None:
    machine = Machine()
    with open_output(tmp_path, machine) as output:
        output.leave_out_cost("workers of a cluster")
        output.commit(manifest())
    assert cost_of(tmp_path)["uncounted"] == "workers of a cluster"


def test_a_note_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    machine = Machine()

    def refuse(_: object, target: Any, *__: object) -> None:
        if is_note(Path(target).name):
            raise PermissionError(13, "no", str(target))

    with before("os.rename", refuse), open_output(tmp_path, machine) as output:
        machine.work(2.0, 2.0)
        output.commit(manifest())
    assert cost_of(tmp_path)["seconds"] == 2.0


def test_a_failed_commit_is_an_attempt(tmp_path: Path) -> None:
    machine = Machine()

    def refuse(_: object, target: Any, *__: object) -> None:
        if Path(target).name == "manifest.json":
            raise OSError(28, "No space left", str(target))

    output = open_output(tmp_path, machine)
    machine.work(2.0, 2.0)
    with before("os.rename", refuse), output, pytest.raises(WorkError):
        output.commit(manifest())
    with open_output(tmp_path, machine) as output:
        output.commit(manifest())
    assert cost_of(tmp_path)["seconds"] == 2.0


def test_a_cost_comes_back() -> None:
    cost = Cost(
        seconds=1.5,
        cpu_seconds=2.5,
        peak_memory_bytes=3,
        peak_memory_process="main",
        joules={"gpu": 4.0},
        begun=2,
        cut=1,
    )
    assert Cost.from_json(json.loads(json.dumps(cost.to_json()))) == cost
    assert Cost.from_json(None) is None
    assert Cost.from_json({"seconds": 1.0}) is None
    assert Cost.from_json({**cost.to_json(), "seconds": "long"}) is None
    assert total([]) == Cost()
    assert total([cost, cost]).joules == {"gpu": 8.0}

"""The local executor: shards in order, by one process or several, and what happens when it is stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from seqkd.corpus.records import ShardInfo, shard_name
from seqkd.errors import ModelError, WorkError
from seqkd.executors.local import run_shards
from seqkd.executors.work import Completion, ShardWork, Waits
from seqkd.stopping import StopRequest

Answer = tuple[int, int, int, bool]


def start(folder: Path, slow: float = 0.0) -> Callable[[tuple[int, int]], Completion[Answer]]:
    (folder / f"started-{os.getpid()}").touch()
    return partial(answer, slow)


def answer(slow: float, piece: tuple[int, int]) -> Completion[Answer]:
    time.sleep(slow)
    ignored = all(signal.getsignal(number) == signal.SIG_IGN for number in (signal.SIGINT, signal.SIGTERM))
    return lambda: (*piece, os.getpid(), ignored)


def slow_completion(_: Path) -> Callable[[tuple[int, int]], Completion[Answer]]:
    return lambda piece: partial(slow_answer, piece)


def slow_answer(piece: tuple[int, int]) -> Answer:
    return answer(0.02, piece)()


def fail(_: Path) -> Callable[[tuple[int, int]], Completion[Answer]]:
    raise ModelError("cannot be loaded")


def die(_: Path) -> Callable[[tuple[int, int]], Completion[Answer]]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def pieces(shard: int) -> list[tuple[int, int]]:
    return [(shard, piece) for piece in range(3)]


def finish(folder: Path, shard: int, parts: list[Answer]) -> ShardInfo:
    assert [part[:2] for part in parts] == pieces(shard)
    with (folder / "finished").open("a") as file:
        file.writelines(f"{shard} {process} {ignored}\n" for _, _, process, ignored in parts)
    return ShardInfo(name=shard_name(shard), rows=3, sha256="0" * 64, bytes=1)


def work(
    folder: Path, begin: Callable[[Path], Callable[[tuple[int, int]], Completion[Answer]]] = start
) -> ShardWork[tuple[int, int], Answer]:
    return ShardWork(start=partial(begin, folder), pieces=pieces, finish=partial(finish, folder))


def lines(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "finished").read_text().splitlines()]


@pytest.mark.parametrize("processes", [0, 2])
def test_shards_come_in_order_with_their_pieces(tmp_path: Path, processes: int) -> None:
    shards = [0, 2, 3, 7]
    with StopRequest() as stop:
        made = list(run_shards(work(tmp_path), shards, processes=processes, stop=stop, waits=Waits()))
    assert [shard for shard, _ in made] == shards
    assert [info.name for _, info in made] == [shard_name(shard) for shard in shards]
    found = {process for _, process, _ in lines(tmp_path)}
    assert (found == {str(os.getpid())}) == (processes == 0)
    # Signals that reach all processes are the parent's to answer.
    assert {ignored for _, _, ignored in lines(tmp_path)} == {str(processes > 0)}
    assert len(list(tmp_path.glob("started-*"))) == len(found)  # once in each process


@pytest.mark.parametrize("processes", [0, 2])
def test_a_stop_finishes_what_is_in_hand(tmp_path: Path, processes: int) -> None:
    made = []
    with StopRequest() as stop:
        for shard, _ in run_shards(
            work(tmp_path, partial(start, slow=0.05)), range(40), processes=processes, stop=stop, waits=Waits()
        ):
            made.append(shard)
            if shard == 1:
                os.kill(os.getpid(), signal.SIGTERM)
    assert made == list(range(len(made)))
    assert 2 <= len(made) < 10  # some may have been begun by processes
    assert len(lines(tmp_path)) == 3 * len(made)


@dataclass
class Log:
    """Work on shards of two pieces that notes its steps and completes each piece in `slow` seconds.

    Attributes:
        slow: The time that the completion of a piece takes.
        full: The shard that cannot be written.
        steps: Names of finished steps and pieces or shards, in order.
        threads: Names of the threads of each step.
    """

    slow: float = 0.02
    full: int | None = None
    steps: list[tuple[str, int]] = field(default_factory=list)
    threads: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def note(self, step: str, number: int) -> None:
        self.steps.append((step, number))
        self.threads[step].add(threading.current_thread().name)

    def do(self, piece: int) -> Completion[int]:
        self.note("done", piece)
        return partial(self.complete, piece)

    def complete(self, piece: int) -> int:
        time.sleep(self.slow)
        self.note("completed", piece)
        return piece

    def finish(self, shard: int, parts: list[int]) -> ShardInfo:
        assert parts == [2 * shard, 2 * shard + 1]
        if shard == self.full:
            raise WorkError("no space")
        self.note("written", shard)
        return ShardInfo(name=shard_name(shard), rows=2, sha256="0" * 64, bytes=1)

    def run(self, shards: int, waits: Waits) -> Generator[tuple[int, ShardInfo], None, None]:
        work = ShardWork(start=lambda: self.do, pieces=lambda shard: [2 * shard, 2 * shard + 1], finish=self.finish)
        return run_shards(work, range(shards), processes=0, stop=StopRequest(), waits=waits)


def test_pieces_are_completed_behind_the_one_that_is_done_and_at_most_one_waits() -> None:
    log, waits = Log(), Waits()
    assert [shard for shard, _ in log.run(3, waits)] == [0, 1, 2]
    # Piece n is done while the piece before it is being completed, and no earlier.
    completed = 0
    for step, number in log.steps:
        completed += step == "completed"
        if step == "done":
            assert completed == max(0, number - 1)
    assert [number for step, number in log.steps if step == "written"] == [0, 1, 2]
    assert log.threads["done"] == {threading.current_thread().name}
    assert log.threads["completed"] == log.threads["written"] == {"writing_0"}
    # Doing takes no time here, so the work waits for every completion.
    assert waits.seconds is not None
    assert waits.seconds == pytest.approx(6 * log.slow, rel=0.5)


def test_work_that_is_slower_than_writing_does_not_wait() -> None:
    log, waits = Log(slow=0.0), Waits()
    for _ in log.run(3, waits):
        pass
    assert waits.seconds is not None
    assert waits.seconds < 0.05


def test_an_error_of_the_writing_thread_is_the_callers() -> None:
    log, made = Log(full=1), list[int]()
    with pytest.raises(WorkError, match="no space"):
        made.extend(shard for shard, _ in log.run(5, Waits()))
    # The piece after the shard that could not be written was being done, and no other one is.
    assert [number for step, number in log.steps if step == "done"] == [0, 1, 2, 3, 4]
    assert [number for step, number in log.steps if step == "written"] == made == [0]


def test_a_run_that_is_given_up_leaves_no_thread() -> None:
    log = Log()
    making = log.run(5, Waits())
    next(making)
    making.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("writing")]
    assert log.steps[-1] == ("written", 0)


def test_processes_measure_the_completion_of_their_pieces(tmp_path: Path) -> None:
    waits = Waits()
    with StopRequest() as stop:
        list(run_shards(work(tmp_path, slow_completion), [0], processes=1, stop=stop, waits=waits))
    assert waits.seconds is not None
    assert 0.06 <= waits.seconds < 1.0  # three pieces


@pytest.mark.parametrize("processes", [0, 1])
def test_an_error_is_the_callers(tmp_path: Path, processes: int) -> None:
    with StopRequest() as stop, pytest.raises(ModelError, match="cannot be loaded"):
        list(run_shards(work(tmp_path, fail), [0], processes=processes, stop=stop, waits=Waits()))


def test_a_dead_process_is_told_and_the_others_end(tmp_path: Path) -> None:
    with StopRequest() as stop, pytest.raises(WorkError, match="shard 0: a worker process died") as raised:
        list(run_shards(work(tmp_path, die), [0, 1], processes=2, stop=stop, waits=Waits()))
    assert "same command" in raised.value.hint


PARENT = """
import sys
from pathlib import Path
from seqkd.executors.local import run_shards
from seqkd.executors.work import Waits
from seqkd.stopping import StopRequest
from tests.unit.executors.test_local import start, work
from functools import partial
if __name__ == "__main__":
    with StopRequest() as stop:
        list(run_shards(work(Path(sys.argv[1]), partial(start, slow=60.0)), [0], processes=2, stop=stop, waits=Waits()))
"""


@pytest.mark.parametrize("delay", [0.0, 0.15, 0.4, 3.0])
def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path, delay: float) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    root = str(Path(__file__).parents[3])
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": root},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )

    def family() -> set[int]:
        """All that run in the parent's session."""
        found = set()
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, _, session, *_ = path.read_text().rpartition(")")[2].split()
                if int(session) == parent.pid and state != "Z":
                    found.add(int(path.parent.name))
        return found

    until = time.monotonic() + 60
    while len(family()) < 2 and time.monotonic() < until:
        time.sleep(0.005)
    assert len(family()) >= 2
    time.sleep(delay)
    parent.kill()
    parent.wait()
    while family() and time.monotonic() < until:
        time.sleep(0.05)
    assert not family()


def cores_when_allowed(processors: set[int]) -> int:
    """Return the result of `count_cores` in a process that may use only these processors."""
    code = (
        f"import os; os.sched_setaffinity(0, {processors}); "
        "from seqkd.executors import local; print(local.count_cores())"
    )
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def test_cores_are_those_that_this_process_may_use() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    assert cores_when_allowed({allowed[-1]}) == 1  # however many the machine has
    assert cores_when_allowed(set(allowed[:2])) == len(allowed[:2])

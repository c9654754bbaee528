"""Kill stages at random moments and start them again: `python -m tests.torture.kills FOLDER MOMENTS WORKERS STAGE...`.

A process of its own, without threads, that has loaded everything: its children are forked and start at once. Prints
what happened as JSON.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from seqkd.corpus.files import is_temporary
from seqkd.corpus.reader import Corpus
from tests.torture import stages

CROWD = "workers"
WORKERS = 3
TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds, what the system counts a process' time in
TRIES = 20  # for a moment: the process may be over before it comes


@dataclass(slots=True)
class Result:
    """What came of one stage and signal.

    Attributes:
        moments: How often it was killed, gone on with, and found to give the same bytes, each row once.
        good_ends: How often it ended by itself, with the work in hand done.
        shards: How many were there, each time.
    """

    moments: int = 0
    good_ends: int = 0
    shards: list[int] = field(default_factory=list)


def forked(work: Callable[[], int]) -> int:
    """Do it in a child, whose process number this is."""
    child = os.fork()
    if child:
        return child
    os.setpgid(0, 0)
    code = 1
    try:
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def code_of(child: int) -> int:
    """Wait for its end; -9 if it was killed by SIGKILL."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def work_until(child: int, seconds: float) -> None:
    """Wait until it has worked so long, or is over: its own time, in which other processes do not count."""
    while True:
        state, *rest = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        if state == "Z" or (int(rest[10]) + int(rest[11])) * TICK >= seconds:
            return
        time.sleep(0.001)


def work_until_shards(child: int, out: Path, count: int) -> None:
    """Wait until so many shards are there, or it is over."""
    while True:
        state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z" or sum(1 for _ in out.rglob("shard-*.arrow")) >= count:
            return
        time.sleep(0.001)


def main(folder: Path, moments: int, workers: int, names: Sequence[str]) -> dict[str, dict[str, Result]]:
    """By stage and signal, what came of killing it, each time in a new folder, and starting it again."""
    inputs = folder / "inputs"
    assert code_of(forked(lambda: stages.build_inputs(inputs, workers=workers))) == 0
    return {
        name: crowd(inputs, folder / name, moments) if name == CROWD else torment(name, inputs, folder / name, moments)
        for name in names
    }


def crowd(inputs: Path, folder: Path, moments: int) -> dict[str, Result]:
    """Distill by several workers: one is killed and started again, one is started twice."""
    assert code_of(forked(lambda: stages.run("distill", inputs, folder / "whole"))) == 0
    expected = stages.contents(folder / "whole")
    draw = random.Random(CROWD)
    found = Result()
    for _ in range(moments):
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)

        def worker(part: int) -> int:
            return forked(lambda: stages.run("distill", inputs, out, "--worker", f"{part}/{WORKERS}"))  # noqa: B023

        workers = [worker(part) for part in (1, 2, 3, 3)]
        work_until(workers[0], draw.uniform(0, 1.0))
        os.kill(workers[0], signal.SIGKILL)
        codes = [code_of(child) for child in workers]
        assert codes[1] == 0
        # Of the two with one part the second was refused, or found the part or the folder done.
        assert sorted(codes[2:]) in ([0, 0], [0, 2])
        found.shards.append(len(stages.shards(out)))
        if codes[0] != 0:
            assert not (out / "manifest.json").exists()
            assert code_of(worker(1)) == 0
        assert stages.contents(out) == expected
        found.moments += 1
        found.good_ends += 2 in codes
    return {"SIGKILL": found}


def torment(stage: str, inputs: Path, folder: Path, moments: int) -> dict[str, Result]:
    """Kill a stage at so many moments, by SIGKILL and SIGTERM in turn.

    Two are drawn from its whole time, the next two, where it makes shards, from the time after some of them are there.
    """
    _, status, usage = os.wait4(forked(lambda: stages.run(stage, inputs, folder / "whole")), 0)
    assert status == 0
    seconds = usage.ru_utime + usage.ru_stime
    expected = stages.contents(folder / "whole")
    draw = random.Random(stage)
    found = {number.name: Result() for number in (signal.SIGKILL, signal.SIGTERM)}
    for moment, number in enumerate([signal.SIGKILL, signal.SIGTERM] * (moments // 2)):
        for _ in range(TRIES):
            out = folder / "out"
            shutil.rmtree(out, ignore_errors=True)
            child = forked(lambda: stages.run(stage, inputs, out))  # noqa: B023
            if stage != "train" and moment % 4 >= 2:
                work_until_shards(child, out, draw.randint(1, stages.SHARDS - 1))
            else:
                work_until(child, draw.uniform(0, seconds))
            time.sleep(draw.uniform(0, TICK))
            os.kill(child, number)
            code = code_of(child)
            if code != 0:
                break
        else:
            raise AssertionError("it is always over before its moment")
        there = stages.shards(out)
        if code != -number:  # it came to a good end
            assert code == 1, code
            assert not [path for path in out.rglob("*") if is_temporary(path.name)]
        assert code_of(forked(lambda: stages.run(stage, inputs, out))) == 0  # noqa: B023
        assert stages.contents(out) == expected, f"other bytes, killed with {len(there)} shards"
        after = stages.shards(out)
        assert {name: after[name] for name in there} == there, "a finished shard was made again"
        for path in out.rglob("manifest.json"):
            if any(path.parent.glob("shard-*")):
                ids = [row for table in Corpus.open(path.parent).tables(["id"]) for row in table["id"].to_pylist()]
                assert len(set(ids)) == len(ids), "a row came twice"
        found[number.name].moments += 1
        found[number.name].good_ends += code == 1
        found[number.name].shards.append(len(there))
    return found


if __name__ == "__main__":
    results = main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    plain = {stage: {name: asdict(result) for name, result in each.items()} for stage, each in results.items()}
    print(json.dumps(plain))

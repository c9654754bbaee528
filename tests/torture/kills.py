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
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from seqkd.corpus.files import is_temporary
from seqkd.corpus.reader import Corpus
from seqkd.corpus.records import shard_name
from seqkd.extensions import resolve
from seqkd.stages import registry
from tests.events import before
from tests.torture import stages

# Children would otherwise import these modules, each again, and most moments would lie before any work.
for _name in stages.STAGES:
    resolve(registry.STAGES[_name].run)

CROWD = "workers"
WORKERS = 3
TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds, what the system counts a process' time in
TRIES = 20  # for a moment: the process may be over before it comes
PIECE_SECONDS = 0.05  # about the time that a shard's decoding takes


@dataclass(slots=True)
class Result:
    """What came of one stage and signal.

    Attributes:
        moments: How often it was killed, gone on with, and found to give the same bytes, each row once.
        good_ends: How often it ended by itself, with the work in hand done.
        shards: How many were there, each time.
        both: How often a shard was being written and the next one decoded.
    """

    moments: int = 0
    both: int = 0
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


def within(context: AbstractContextManager[None], work: Callable[[], int]) -> int:
    """Do the work within a context."""
    with context:
        return work()


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


@contextmanager
def struck_while_writing(number: int, shard: int, seconds: float) -> Iterator[None]:
    """Within, send this process a signal when a shard is put in its place while the next one is being decoded.

    Args:
        number: The signal.
        shard: Number of the shard.
        seconds: How long the writing thread is held up before, in which the decoding goes on.
    """

    def strike(_: object, target: Any, *__: object) -> None:
        if Path(target).name == shard_name(shard):
            assert threading.current_thread() is not threading.main_thread(), "the search waits for writing"
            time.sleep(seconds)
            os.kill(os.getpid(), number)

    with before("os.rename", strike):
        yield


def main(folder: Path, moments: int, workers: int, names: Sequence[str]) -> dict[str, dict[str, Result]]:
    """By stage and signal, what came of killing it, each time in a new folder, and starting it again."""
    inputs = folder / "inputs"
    assert code_of(forked(lambda: stages.build_inputs(inputs, workers=workers))) == 0
    return {
        name: crowd(inputs, folder / name, moments)
        if name == CROWD
        else torment(name, inputs, folder / name, moments, overlapping=name == "distill" and workers == 1)
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


def torment(stage: str, inputs: Path, folder: Path, moments: int, *, overlapping: bool) -> dict[str, Result]:
    """Kill a stage at so many moments, by SIGKILL and SIGTERM in turn.

    If a thread of it writes while it decodes (`overlapping`), two moments are drawn from the time in which both happen.
    The next two are drawn from its whole time, and two more, where it makes shards, from the time after some of them
    are there.
    """
    kinds = [*(["both"] if overlapping else []), "any time", *(["after a shard"] if stage != "train" else [])]
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
            kind = kinds[moment // 2 % len(kinds)]
            if kind == "both":
                # The next shard is decoded meanwhile, and there is another one, so that the run is not over after it.
                shard, held = draw.randrange(stages.SHARDS - 2), draw.uniform(0, PIECE_SECONDS)
                strike = struck_while_writing(number, shard, held)
                child = forked(lambda: within(strike, lambda: stages.run(stage, inputs, out)))  # noqa: B023
            else:
                child = forked(lambda: stages.run(stage, inputs, out))  # noqa: B023
                if kind == "after a shard":
                    work_until_shards(child, out, draw.randint(1, stages.SHARDS - 1))
                else:
                    work_until(child, draw.uniform(0, seconds))
                time.sleep(draw.uniform(0, TICK))
                os.kill(child, number)
            code = code_of(child)
            assert kind != "both" or code == (-number if number == signal.SIGKILL else 1), code
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
        found[number.name].both += kind == "both"
        found[number.name].good_ends += code == 1
        found[number.name].shards.append(len(there))
    return found


if __name__ == "__main__":
    results = main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    plain = {stage: {name: asdict(result) for name, result in each.items()} for stage, each in results.items()}
    print(json.dumps(plain))

from __future__ import annotations

import os
import signal

import pytest

from seqkd.stages.workers import belong_to_parent, cores, worker_pool

_told = ""


def _start(word: str) -> None:
    global _told
    belong_to_parent()
    _told = word


def _answer(number: int) -> tuple[str, int, int, bool]:
    return _told, 2 * number, os.getpid(), signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def _fail() -> None:
    raise TypeError("in a worker")


def test_workers_are_started_with_their_arguments_and_ignore_interrupts() -> None:
    with worker_pool(2, _start, ("told",)) as pool:
        answers = list(pool.map(_answer, range(4)))
    assert [answer[:2] for answer in answers] == [("told", 2 * number) for number in range(4)]
    assert os.getpid() not in {answer[2] for answer in answers}
    assert all(answer[3] for answer in answers)


def test_an_error_of_a_worker_is_the_callers() -> None:
    with worker_pool(1, _start, ("",)) as pool, pytest.raises(TypeError, match="in a worker"):
        pool.submit(_fail).result()


def test_cores_are_those_that_this_process_may_use() -> None:
    assert cores() == len(os.sched_getaffinity(0)) >= 1

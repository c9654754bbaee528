from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from seqkd.progress import Progress, say


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_plain_lines_come_every_ten_seconds_and_at_the_end(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("distill", 29_000, "sentences", now=clock) as bar:
        for _ in range(29):
            clock.now += 2
            bar.advance(1000)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == "distill: 5,000/29,000 sentences (17%), 500 sentences/s, ETA 0:48"
    assert lines[-1] == "distill: 29,000/29,000 sentences (100%), 500 sentences/s, took 0:58"
    assert len(lines) == 6


def test_the_last_line_comes_once(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("select", 100, "rows", now=clock) as bar:
        clock.now += 20
        bar.advance(100)
    assert capsys.readouterr().err.splitlines() == ["select: 100/100 rows (100%), 5.00 rows/s, took 0:20"]


def test_what_an_earlier_run_did_does_not_count_towards_the_rate(clock: Clock) -> None:
    with Progress("distill", 2000, "sentences", done=1000, now=clock) as bar:
        clock.now += 10
        bar.advance(100)
        assert bar.line() == "distill: 1,100/2,000 sentences (55%), 10 sentences/s, ETA 1:30"


def test_what_is_left_is_told_from_the_last_minutes(clock: Clock) -> None:
    with Progress("train", 10_000, "updates", now=clock) as bar:
        clock.now += 600  # the first update waits for a compiler
        bar.advance(100)
        for _ in range(60):
            clock.now += 10
            bar.advance(10)
        assert bar.line() == "train: 700/10,000 updates (7%), 1.00 updates/s, ETA 2:35:00"
        clock.now += 9_300
        bar.advance(9_300)
        assert bar.line() == "train: 10,000/10,000 updates (100%), 0.95 updates/s, took 2:55:00"


def test_without_a_total_there_is_no_share_and_no_eta(clock: Clock) -> None:
    with Progress("prepare", None, "lines", now=clock) as bar:
        clock.now += 4
        bar.advance(2)
        bar.note("shard 3")
        assert bar.line() == "prepare: 2 lines, 0.50 lines/s, shard 3"


def test_hours_and_nothing_to_do(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", 0, "updates", now=clock):
        pass
    assert capsys.readouterr().err == ""
    with Progress("train", 3600, "updates", now=clock) as bar:
        clock.now += 100
        bar.advance(36)
        assert bar.line().endswith("0.36 updates/s, ETA 2:45:00")


def test_say_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("made it")
    assert capsys.readouterr() == ("", "made it\n")


SCRIPT = """
from seqkd.progress import Progress, say
with Progress("distill", 10, "sentences") as bar:
    bar.advance(5)
    say("a line")
    with Progress("inner [bold]", 2, "rows") as inner:
        inner.advance(2)
    bar.advance(5)
"""


def test_on_a_terminal_a_bar_and_whole_lines_above_it() -> None:
    """A second progress inside the first must not fail or open a second bar."""
    outside, inside = pty.openpty()
    root = Path(__file__).parents[2]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", SCRIPT], stderr=inside, check=True, cwd=root, env=env, timeout=60)
    os.close(inside)
    text = b""
    while True:
        try:
            block = os.read(outside, 65536)
        except OSError:  # Linux says EIO at the end of a terminal
            break
        if not block:
            break
        text += block
    os.close(outside)
    shown = text.decode()
    assert "━" in shown
    assert "a line\r\n" in shown
    assert "inner [bold]: 2/2 rows (100%)" in shown
    assert "distill: 10/10 sentences (100%)" in shown


def test_a_dumb_terminal_gets_plain_lines() -> None:
    outside, inside = pty.openpty()
    root = Path(__file__).parents[2]
    env = {**os.environ, "TERM": "dumb", "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", SCRIPT], stderr=inside, check=True, cwd=root, env=env, timeout=60)
    os.close(inside)
    shown = os.read(outside, 65536).decode()
    os.close(outside)
    assert "\x1b" not in shown
    assert "━" not in shown

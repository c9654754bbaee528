"""Progress on stderr: a bar on a terminal, and occasional plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

LINE_SECONDS = 10.0  # shortest time between two plain lines, which keeps logs short
RECENT_SECONDS = 300.0  # the rate of this last period, validations included, predicts the time left
_SAMPLE_SECONDS = 5.0

_bar_on_screen = False  # a terminal shows one bar; a nested progress writes plain lines above it


def say(text: str) -> None:
    """Print one plain line on stderr, above a running bar.

    Work continues if stderr can no longer be written to because the terminal or the reading program has ended.
    """
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        mute(sys.stderr)


def mute(stream: TextIO) -> None:
    """Redirect the rest of a stream's output, including its buffer, to the null device.

    Python flushes the standard streams at exit, where a second failure would change the exit code.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


class Progress:
    """Counts the work done. Use it as a context manager.

    On a terminal it shows a bar with the rate and the time left. Elsewhere it prints lines such as
    `distill: 12,000/29,000 sentences (41%), 512 sentences/s, ETA 0:33`, at most one in ten seconds and one at the end.
    The rate is the mean of the last five minutes; in the last line it is the mean of the whole run.

    Args:
        label: The name of the work, such as the stage.
        total: Number of units, or None if it is not known.
        unit: Name of the units, in the plural.
        done: Units that an earlier run did. They count as done, but not towards the rate.
        now: Clock that returns seconds.
    """

    def __init__(
        self, label: str, total: int | None, unit: str, *, done: int = 0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.done = done
        self._before = done
        self._note = ""
        self._now = now
        self._started = now()
        self._last_line = self._started
        self._samples = deque([(self._started, done)])  # (time, units done); the recent period begins at the first
        self._bar: RichProgress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Progress:
        global _bar_on_screen
        self._started = self._last_line = self._now()
        self._samples = deque([(self._started, self.done)])
        console = Console(stderr=True)
        if sys.stderr.isatty() and not console.is_dumb_terminal and not _bar_on_screen:
            self._bar = RichProgress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[status]}", markup=False),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(self.label, total=self.total, completed=self.done, status=self._status())
            self._bar.start()
            _bar_on_screen = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _bar_on_screen
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            _bar_on_screen = False
        if self.done > self._before:
            say(self.line())

    def advance(self, n: int = 1) -> None:
        """Add `n` units to the work done."""
        self.done += n
        now = self._now()
        if now - self._samples[-1][0] >= _SAMPLE_SECONDS:
            self._samples.append((now, self.done))
        self._show()

    def note(self, text: str) -> None:
        """Show `text`, such as a loss or the current shard, after the counts from now on."""
        self._note = text
        self._show()

    def line(self) -> str:
        """Return the state as one plain line."""
        return f"{self.label}: {self._status()}"

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, status=self._status())
            return
        now = self._now()
        finished = self.total is not None and self.done >= self.total  # `__exit__` prints the last line
        if now - self._last_line >= LINE_SECONDS and not finished:
            self._last_line = now
            say(self.line())

    def _status(self) -> str:
        now = self._now()
        new = self.done - self._before
        rate = self._rate(now)
        if self.total is None:
            parts = [f"{self.done:,} {self.unit}"]
        else:
            percent = 100 * self.done // self.total if self.total else 100
            parts = [f"{self.done:,}/{self.total:,} {self.unit} ({percent}%)"]
        if new:
            parts.append(f"{_format_rate(rate)} {self.unit}/s")
        if self.total is not None and self.done >= self.total:
            parts.append(f"took {_format_time(now - self._started)}")
        elif self.total is not None and rate > 0:
            parts.append(f"ETA {_format_time((self.total - self.done) / rate)}")
        if self._note:
            parts.append(self._note)
        return ", ".join(parts)

    def _rate(self, now: float) -> float:
        """Return the units per second of the recent period, or of the whole run once it is finished."""
        start, before = self._started, self._before
        if self.total is None or self.done < self.total:
            while len(self._samples) > 1 and now - self._samples[1][0] >= RECENT_SECONDS:
                self._samples.popleft()
            start, before = self._samples[0]
        return (self.done - before) / (now - start) if now > start else 0.0


def _format_rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2f}"


def _format_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

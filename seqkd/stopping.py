"""Requests to stop: after SIGTERM or Ctrl-C the current piece of work is still completed."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any

from seqkd.errors import WorkError

_NOTED = b"stopping as soon as the current work is done; press Ctrl-C again to end at once\n"


class StopRequest:
    """Records SIGTERM and Ctrl-C so that the current work can be completed. A second signal ends the process at once.

    Use it as a context manager in the main thread.

    Attributes:
        made: Whether a request has been made.
    """

    def __init__(self) -> None:
        self.made = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def check(self, where: str) -> None:
        """Stop here if a stop was requested.

        Args:
            where: The progress of the work, such as "after 3 of 7 shards".

        Raises:
            WorkError: A stop was requested.
        """
        if self.made:
            raise WorkError(f"stopped {where}", hint="run the same command again to continue")

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.made = True
        self._restore()
        os.write(2, _NOTED)  # not print: the signal may have interrupted print itself

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

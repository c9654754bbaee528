"""Being asked to stop: SIGTERM and Ctrl-C let what is in hand come to a good end."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any

from seqkd.errors import WorkError

_NOTED = b"stopping as soon as what is in hand is done; once more ends it at once\n"


class StopRequest:
    """Notes SIGTERM and Ctrl-C, so that work can come to a good end; a second one ends the process at once.

    Use as a context manager, in the main thread.

    Attributes:
        made: Whether one has come.
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
        """End here if a stop was asked for.

        Args:
            where: How far the work has come, e.g. "after 3 of 7 shards".

        Raises:
            WorkError: It was.
        """
        if self.made:
            raise WorkError(f"stopped {where}", hint="run the same command to go on")

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.made = True
        self._restore()
        os.write(2, _NOTED)  # print may be under way in the very code that the signal has interrupted

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

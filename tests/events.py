"""Faults of the system, and acts at a chosen moment of the code under test: right before it touches the system.

The moments are Python's audit events (PEP 578), which the interpreter raises before it renames a file, makes a folder,
locks a file and so on. Whatever code does that, a test needs to know none of its names.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Act = Callable[..., None]

_acts: list[tuple[str, Act]] = []
_installed = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    for wanted, act in _acts:
        if event == wanted:
            act(*arguments)


@contextmanager
def before(event: str, act: Act) -> Iterator[None]:
    """Within, call `act` with an event's arguments before it happens; if `act` raises, it does not happen.

    Args:
        event: A name of Python's table of audit events, such as `os.rename` or `fcntl.flock`.
        act: What it raises, the operation raises.
    """
    global _installed
    if not _installed:  # a hook cannot be removed: there is one for all
        sys.addaudithook(_hook)
        _installed = True
    entry = (event, act)
    _acts.append(entry)
    try:
        yield
    finally:
        _acts.remove(entry)


@contextmanager
def interrupted_before(name: str, *, error: type[BaseException] = KeyboardInterrupt) -> Iterator[None]:
    """Within, end the work before a file of this name is put in its place, as Ctrl-C at that moment does."""

    def stop(_: object, target: Any, *__: object) -> None:
        if Path(target).name == name:
            raise error

    with before("os.rename", stop):
        yield


@contextmanager
def placed(suffix: str = "") -> Iterator[list[str]]:
    """Give a list of the names of the files that are put in their places within, in that order."""
    names: list[str] = []

    def note(_: object, target: Any, *__: object) -> None:
        if Path(target).name.endswith(suffix):
            names.append(Path(target).name)

    with before("os.rename", note):
        yield names


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system refuses to let a file grow beyond `size` bytes, as it does when the disk is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

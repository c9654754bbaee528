"""What several commands share: options, and how they import what they need."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, TextIO

import typer

from seqkd.errors import InputError

Out = Annotated[Path, typer.Option(help="output folder")]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="start anew; a finished folder is moved to OUT.old, an unfinished one is deleted"),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of a failure")]


def rereadable(path: Path | None) -> Path | None:
    """Callback of an option that names a file to be read more than once: refuse pipes.

    Raises:
        InputError: It is a pipe or a device.
    """
    if path is not None and path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(
            "a pipe or a device, which can be read only once",
            where=str(path),
            expected="a file",
            hint="write the contents to a file first",
        )
    return path


def standard_input(context: typer.Context) -> BinaryIO:
    """The bytes of stdin, for a command that works on them.

    Raises:
        InputError: stdin is closed.
    """
    return _stream(context, "stdin", "text to work on, from a file or a pipe").buffer


def standard_output(context: typer.Context) -> BinaryIO:
    """The bytes of stdout, for a command whose result they are.

    Raises:
        InputError: stdout is closed.
    """
    return _stream(context, "stdout", "a file or a pipe to write the result to").buffer


def _stream(context: typer.Context, name: str, expected: str) -> TextIO:
    if name in context.obj:  # those that were closed when the process started
        raise InputError("is closed", where=name, expected=expected)
    stream: TextIO = getattr(sys, name)
    return stream


@contextmanager
def importing() -> Iterator[None]:
    """Around a command's imports, which make many objects and drop few.

    The collector would go through all of them again and again, a fifth of a stage's start.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

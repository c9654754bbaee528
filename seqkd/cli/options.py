"""Options and helpers that several commands share."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, TextIO

import typer

from seqkd.errors import InputError

Out = Annotated[Path, typer.Option(help="Output folder.")]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Start anew. A finished folder is moved to OUT.old; an unfinished one is deleted."
    ),
]
Device = Annotated[str, typer.Option(help="Device to work on: auto, cpu, cuda, or cuda:N for the GPU of number N.")]
Debug = Annotated[bool, typer.Option("--debug", help="Print the traceback of a failure.")]


def check_rereadable(path: Path | None) -> Path | None:
    """Refuse a pipe as the value of an option that names a file which is read more than once.

    Raises:
        InputError: The path is a pipe or a device.
    """
    if path is not None and path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(
            "is a pipe or a device, which can be read only once",
            where=str(path),
            expected="a file",
            hint="write the contents to a file first",
        )
    return path


def standard_input(context: typer.Context) -> BinaryIO:
    """Return stdin as a stream of bytes, for a command that reads text from it.

    Raises:
        InputError: The standard input is closed.
    """
    return _stream(context, "stdin", "text to work on, from a file or a pipe").buffer


def standard_output(context: typer.Context) -> BinaryIO:
    """Return stdout as a stream of bytes, for a command that writes its result to it.

    Raises:
        InputError: The standard output is closed.
    """
    return _stream(context, "stdout", "a file or a pipe to write the result to").buffer


def _stream(context: typer.Context, name: str, expected: str) -> TextIO:
    if name in context.obj:  # the streams that were closed when the process started
        raise InputError("is closed", where=name, expected=expected)
    stream: TextIO = getattr(sys, name)
    return stream


@contextmanager
def importing() -> Iterator[None]:
    """Switch the garbage collector off while a command imports its modules.

    Imports make many objects and drop few. The collector would traverse all of them again and again, which takes a
    fifth of the time that a stage needs to start.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

"""What several commands share: options, and how they import what they need."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option(help="output folder")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="start anew, whatever an earlier run left in --out")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of a failure")]


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

"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option(help="output folder")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="start anew, whatever an earlier run left in --out")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of a failure")]

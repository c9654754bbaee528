"""`seqkd inspect` and `seqkd verify`: what lies in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqkd.cli.options import Debug

folders = typer.Typer()


@folders.command("inspect")
def _inspect(
    path: Annotated[Path, typer.Argument(help="folder of a corpus, k-best lists, a model or another stage")],
    rows: Annotated[int, typer.Option(min=0, help="how many rows to show")] = 3,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Show what a folder holds."""
    from seqkd.tools.inspect import inspect

    inspect(path, rows=rows)


@folders.command("verify")
def _verify(
    path: Annotated[Path, typer.Argument(help="folder of a corpus, k-best lists, a model or another stage, or a run")],
    inputs: Annotated[
        list[Path] | None, typer.Option("--inputs", help="folder to look for inputs in, beside the run; repeatable")
    ] = None,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Check a folder and all that it was made from against what was written."""
    from seqkd.tools.verify import show, verify

    print(show(verify(path, inputs or ())))

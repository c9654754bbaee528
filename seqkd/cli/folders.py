"""`seqkd inspect`, `seqkd verify` and `seqkd forget`: commands that look at folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqkd.cli.options import Debug
from seqkd.progress import say

folders = typer.Typer()


@folders.command("inspect")
def _inspect(
    path: Annotated[
        Path | None, typer.Argument(help="Folder of a corpus, k-best lists, a model or another stage.")
    ] = None,
    rows: Annotated[int, typer.Option(min=0, help="Number of rows to show.")] = 3,
    kinds: Annotated[
        bool,
        typer.Option("--kinds", help="List the architectures, objectives, rules and so on of all installed packages."),
    ] = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Show the contents of a folder.

    With --kinds, list the names that stage and pipeline files can use.
    """
    if kinds == (path is not None):
        raise typer.BadParameter("give either a folder or --kinds")
    if path is None:
        from seqkd.tools.kinds import show_kinds

        show_kinds()
    else:
        from seqkd.tools.inspect import inspect

        inspect(path, rows=rows)


@folders.command("verify")
def _verify(
    path: Annotated[
        Path, typer.Argument(help="Folder of a corpus, k-best lists, a model or another stage, or of a run.")
    ],
    inputs: Annotated[
        list[Path] | None,
        typer.Option("--inputs", help="Further folder in which to look for inputs. The option can be repeated."),
    ] = None,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Check a folder and its inputs against their manifests."""
    from seqkd.tools.verify import show, verify

    print(show(verify(path, inputs or ())))


@folders.command("forget")
def _forget(
    paths: Annotated[list[Path], typer.Argument(help="Folders of k-best lists or soft targets.")],
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Delete the rows of intermediate folders to free space.

    The manifests stay, so the folders that were made from these rows stay up to date.
    """
    from seqkd.tools.forget import forget

    for path in paths:
        say(f"{path}: {forget(path) / 1e6:,.1f} MB freed; the manifest stays")

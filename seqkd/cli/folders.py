"""`seqkd inspect`, `verify`, `compare` and `forget`: commands that look at folders."""

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
    from seqkd.tools.verify import format_result, verify

    print(format_result(verify(path, inputs or ())))


@folders.command("compare")
def _compare(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help="run folder of a pipeline")],
    second: Annotated[
        Path | None, typer.Argument(metavar="RUN_B", help="another one; left out: two models of RUN_A")
    ] = None,
    models: Annotated[
        tuple[str, str] | None,
        typer.Option("--models", metavar="A B", help="a model of RUN_A and one of RUN_B; left out: all that both have"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    page: Annotated[Path | None, typer.Option(help="write an HTML page to this file, too")] = None,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Show two runs, or two models, side by side.

    The tables say which differences are significant.
    """
    from seqkd.corpus.files import atomic_write
    from seqkd.tools.compare import compare
    from seqkd.tools.comparison_page import render, show
    from seqkd.tools.inspect import make_console

    compared = compare(first, second, models)
    if page is not None:
        atomic_write(page, render(compared).encode())
    if as_json:
        print(compared.to_json(), end="")
    else:
        show(compared, make_console())


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

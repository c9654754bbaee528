"""The command line: parse, call one stage, print. What a command needs is imported when it runs."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from seqkd import __version__
from seqkd.cli.folders import folders
from seqkd.cli.interop import exports, imports
from seqkd.cli.kernels import kernels
from seqkd.cli.options import Debug
from seqkd.cli.stages import stages
from seqkd.cli.texts import texts
from seqkd.errors import SeqkdError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it

app = typer.Typer(
    name="seqkd",
    help="Offline sequence-level knowledge distillation for translation models, as a data pipeline.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # main() prints them
    rich_markup_mode=None,
)

for _commands in (stages, texts, folders, kernels):
    app.add_typer(_commands)
app.add_typer(imports, name="import")
app.add_typer(exports, name="export")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 2 for bad usage or input, 1 for a failure at work.

    Every failure is one message on stderr; its traceback comes with `--debug`.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone. What is still buffered must not fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if "--debug" in words:
            traceback.print_exc()
        print(f"error: {_explained(error)}", file=sys.stderr)
        return error.exit_code if isinstance(error, SeqkdError) else 1
    if code == INTERRUPTED:
        print("interrupted", file=sys.stderr)
    return code


def _run(words: Sequence[str]) -> int:
    try:
        app(words, prog_name="seqkd")
    except SystemExit as stop:  # typer's: bad usage has been explained by now
        return stop.code if isinstance(stop.code, int) else 1
    return 0


def _explained(error: Exception) -> str:
    if isinstance(error, SeqkdError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}no space left on the disk\n  to do: free some space, then run the same command again"
    return f"internal error: {type(error).__name__}: {error}\n  to do: run again with --debug and report the traceback"


def _version(wanted: bool) -> None:
    if wanted:
        print(f"seqkd {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")] = False,
) -> None:
    pass


@app.command("plan")
def _plan(
    pipeline: Annotated[Path, typer.Argument(help="pipeline file (TOML)")],
    runs: Annotated[Path, typer.Option(help="where the pipeline's folder goes")] = Path("runs"),
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Write a pipeline's Make rules and stage files."""
    from seqkd.pipeline.make import write_plan

    print(write_plan(pipeline, runs))

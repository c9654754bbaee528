"""The command line: parse, call one stage, print. Each command imports its modules when it runs."""

from __future__ import annotations

import contextlib
import errno
import io
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
from seqkd.cli.options import Debug, check_rereadable
from seqkd.cli.stages import stages
from seqkd.cli.texts import texts
from seqkd.errors import InputError, SeqkdError
from seqkd.progress import mute, say

INTERRUPTED = 130  # 128 + SIGINT, as shells have it

app = typer.Typer(
    name="seqkd",
    help="Offline sequence-level knowledge distillation for translation models, as a data pipeline.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # main() prints them
    rich_markup_mode=None,
)

# The help lists the commands in this order, after `plan`: the order in which the data passes through them.
for _commands in (stages, texts, folders):
    app.add_typer(_commands)
app.add_typer(imports, name="import")
app.add_typer(exports, name="export")
app.add_typer(kernels)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 for success, 2 for bad usage or input, 1 for a failure at work.

    Every failure prints one message on stderr. With `--debug` the traceback is printed, too.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    closed = _fill_streams()
    try:
        _check_words(words)
        code = _run(words, closed)
        _flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # the program that read our output has ended
        mute(sys.stdout)
        return 1
    except Exception as error:
        if "--debug" in words:
            traceback.print_exc()
        say(f"error: {_explain(error)}")
        with contextlib.suppress(OSError):
            _flush()
        return error.exit_code if isinstance(error, SeqkdError) else 1
    if code == INTERRUPTED:
        say("interrupted")
    return code


def _fill_streams() -> frozenset[str]:
    """Replace each standard stream that was closed when the process started by the null device.

    Otherwise the next file to be opened would get the stream's number, and libraries would write messages into it.

    Returns:
        The names of the streams that were replaced.
    """
    closed = frozenset(name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if name in closed:
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
                os.set_inheritable(number, True)
            setattr(sys, name, Path(os.devnull).open("r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be anything
    return closed


def _check_words(words: Sequence[str]) -> None:
    """Refuse arguments that are not UTF-8, because manifests and reports, which are UTF-8, could not name them.

    Raises:
        InputError: An argument is not UTF-8.
    """
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            shown = word.encode(errors="surrogateescape").decode(errors="backslashreplace")
            raise InputError(
                f"the argument {shown} is not UTF-8",
                expected="names of files and folders in UTF-8",
                hint="rename the file or folder",
            ) from None


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError:
        mute(sys.stdout)
        raise


def _run(words: Sequence[str], closed: frozenset[str]) -> int:
    try:
        app(words, prog_name="seqkd", obj=closed)
    except SystemExit as stop:  # raised by typer, which has already explained bad usage
        return stop.code if isinstance(stop.code, int) else 1
    return 0


def _explain(error: Exception) -> str:
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
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command("plan")
def _plan(
    pipeline: Annotated[Path, typer.Argument(help="Pipeline file (TOML).", callback=check_rereadable)],
    runs: Annotated[Path, typer.Option(help="Folder in which the pipeline's run folder is made.")] = Path("runs"),
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Write the Make rules and the stage files of a pipeline."""
    from seqkd.pipeline.make import write_plan

    print(write_plan(pipeline, runs))

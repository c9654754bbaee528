"""The commands of the stages: each takes a stage file and makes an output folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqkd.cli.options import Debug, Device, Out, Overwrite, importing
from seqkd.errors import ConflictError, InputError, UnfinishedError
from seqkd.extensions import resolve
from seqkd.progress import say
from seqkd.stages.registry import STAGES, Stage

if TYPE_CHECKING:
    from seqkd.executors.work import Scale

stages = typer.Typer()

Config = Annotated[Path, typer.Option(help="stage file (TOML)")]
OverwriteChanged = Annotated[
    bool,
    typer.Option(
        "--overwrite-changed", help="as --overwrite if --out was made with other settings or inputs; else continue"
    ),
]


class Executor(str, Enum):
    """Where shards are worked on."""

    local = "local"
    ray = "ray"


Executors = Annotated[
    Executor,
    typer.Option(
        "--executor", help="local: processes of this machine; ray: the cluster of RAY_ADDRESS, or one started here"
    ),
]
OldExecutors = Annotated[Executor | None, typer.Option("--engine", hidden=True)]
Worker = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="do only every N-th shard, from the I-th; N such workers share --out"),
]


def _run_stage(
    stage: Stage,
    config: Path,
    out: Path,
    *,
    overwrite: bool,
    overwrite_changed: bool,
    device: str,
    scale: Scale | None = None,
) -> None:
    """Run a stage; `scale` is for the stages whose shards are shared."""
    with importing():
        from seqkd.config.toml import load_stage
        from seqkd.kernels.build import check

        check()
        settings = load_stage(resolve(stage.settings), config)
        run = resolve(stage.run)
    if scale is not None:
        run = partial(run, scale=scale)
    try:
        run(settings, out, overwrite=overwrite, device=device)
    except UnfinishedError:
        raise  # nothing has changed but the machine; hours of another machine's work are not deleted for that
    except ConflictError:
        if not overwrite_changed or overwrite:
            raise
        # A folder that is in use, or is not seqkd's, refuses this too.
        run(settings, out, overwrite=True, device=device)
    if scale is None or scale.part is None or (out / "manifest.json").exists():
        os.utime(out / "manifest.json")  # Make compares times: a stage with nothing to do is up to date again


def _scale(executor: Executor, old: Executor | None, worker: str | None, *, overwrite: bool) -> Scale:
    """Read the options that spread a stage; `old` is the value of `--engine`, the former name of `--executor`."""
    from seqkd.corpus.locks import Part
    from seqkd.executors.work import Scale

    if worker is not None and overwrite:
        raise InputError(
            "one worker of several cannot start anew: it would take away what the others have made",
            where="--worker",
            expected="no --overwrite and no --overwrite-changed",
            hint="move or delete the output folder before the workers start",
        )
    if old is not None:
        say(f"--engine {old.value} is read as --executor {old.value}; the next version will refuse the old name")
        executor = old
    return Scale(executor.value, None if worker is None else Part.parse(worker))


def _alone(stage: Stage) -> Callable[[Path, Path, bool, bool, str, bool], None]:
    """The command of a stage that one process runs."""

    def command(
        config: Config,
        out: Out,
        overwrite: Overwrite = False,
        overwrite_changed: OverwriteChanged = False,
        device: Device = "auto",
        debug: Debug = False,  # noqa: ARG001
    ) -> None:
        _run_stage(stage, config, out, overwrite=overwrite, overwrite_changed=overwrite_changed, device=device)

    return command


def _shared(stage: Stage) -> Callable[[Path, Path, Executor, Executor | None, str | None, bool, bool, str, bool], None]:
    """The command of a stage whose shards are shared."""

    def command(
        config: Config,
        out: Out,
        executor: Executors = Executor.local,
        engine: OldExecutors = None,
        worker: Worker = None,
        overwrite: Overwrite = False,
        overwrite_changed: OverwriteChanged = False,
        device: Device = "auto",
        debug: Debug = False,  # noqa: ARG001
    ) -> None:
        scale = _scale(executor, engine, worker, overwrite=overwrite or overwrite_changed)
        _run_stage(
            stage, config, out, overwrite=overwrite, overwrite_changed=overwrite_changed, device=device, scale=scale
        )

    return command


@stages.command("prepare")
def _prepare(
    config: Config,
    out: Out,
    monolingual: Annotated[
        bool, typer.Option("--monolingual", help="text of the target language alone, for back-translation")
    ] = False,
    test: Annotated[
        bool, typer.Option("--test", help="a further test set, encoded with the vocabulary of a data set")
    ] = False,
    overwrite: Overwrite = False,
    overwrite_changed: OverwriteChanged = False,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Text files to gold corpora and a vocabulary, to sources of the other direction, or to a further test set."""
    if monolingual and test:
        raise typer.BadParameter("expected --monolingual or --test, not both")
    stage = STAGES["monolingual" if monolingual else "test" if test else "prepare"]
    _alone(stage)(config, out, overwrite, overwrite_changed, device, debug)


@stages.command("distill")
def _distill(
    config: Config,
    out: Out,
    soft_targets: Annotated[
        bool, typer.Option("--soft-targets", help="distributions at the corpus' own target positions, no k-best lists")
    ] = False,
    executor: Executors = Executor.local,
    engine: OldExecutors = None,
    worker: Worker = None,
    overwrite: Overwrite = False,
    overwrite_changed: OverwriteChanged = False,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Teachers and a corpus to k-best lists, or to soft targets."""
    stage = STAGES["soft_targets" if soft_targets else "distill"]
    _shared(stage)(config, out, executor, engine, worker, overwrite, overwrite_changed, device, debug)


_WRITTEN_OUT = {command.name for command in stages.registered_commands}  # commands that run several stages
for _stage in STAGES.values():
    if _stage.command not in _WRITTEN_OUT:
        stages.command(_stage.command, help=f"{_stage.help}.")((_shared if _stage.shared else _alone)(_stage))

"""The commands of the stages. Each one takes a stage file and makes an output folder."""

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

Config = Annotated[Path, typer.Option(help="Stage file (TOML).")]
OverwriteChanged = Annotated[
    bool,
    typer.Option(
        "--overwrite-changed",
        help="Start anew, as with --overwrite, if --out was made with other settings or inputs. Otherwise continue.",
    ),
]


class Executor(str, Enum):
    """The place where shards are processed."""

    local = "local"
    ray = "ray"


Executors = Annotated[
    Executor,
    typer.Option(
        "--executor",
        help="Where shards are processed. local: processes of this machine. ray: the Ray cluster at RAY_ADDRESS, or a "
        "cluster that is started on this machine.",
    ),
]
OldExecutors = Annotated[Executor | None, typer.Option("--engine", hidden=True)]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the number and the cost of the requests to external workers, and send none."),
]
Worker = Annotated[
    str | None,
    typer.Option(
        metavar="I/N", help="Process every N-th shard only, beginning with the I-th. N such workers share --out."
    ),
]


def run_stage(
    stage: Stage,
    config: Path,
    out: Path,
    *,
    overwrite: bool,
    overwrite_changed: bool,
    device: str,
    scale: Scale | None = None,
) -> None:
    """Run a stage. `scale` is given for stages whose shards can be shared."""
    with importing():
        from seqkd.config.toml import load_stage
        from seqkd.kernels.build import check_environment

        check_environment()
        settings = load_stage(resolve(stage.settings), config)
        run = resolve(stage.run)
    if scale is not None:
        run = partial(run, scale=scale)
    try:
        run(settings, out, overwrite=overwrite, device=device)
    except UnfinishedError:
        raise  # only the machine has changed: that is no reason to delete hours of another machine's work
    except ConflictError:
        if not overwrite_changed or overwrite:
            raise
        # The stage refuses this, too, if the folder is in use or was not made by seqkd.
        run(settings, out, overwrite=True, device=device)
    if scale is None or scale.part is None or (out / "manifest.json").exists():
        os.utime(out / "manifest.json")  # Make compares times, so a stage with nothing to do must touch its output


def _estimate(stage: Stage, config: Path, out: Path, *, device: str, scale: Scale) -> None:
    """Say what a run of a stage would ask external workers."""
    with importing():
        from seqkd.config.toml import load_stage

        settings = load_stage(resolve(stage.settings), config)
        estimate = resolve(stage.estimate)
    estimate(settings, out, device=device, scale=scale)


def _scale(executor: Executor, old: Executor | None, worker: str | None, *, overwrite: bool) -> Scale:
    """Read the options that spread a stage over machines; `old` is the value of `--engine`, now `--executor`."""
    from seqkd.corpus.locks import Part
    from seqkd.executors.work import Scale

    if worker is not None and overwrite:
        raise InputError(
            "one worker of several cannot start anew, because that would discard the shards of the others",
            where="--worker",
            expected="neither --overwrite nor --overwrite-changed",
            hint="move or delete the output folder before the workers start",
        )
    if old is not None:
        say(f"--engine {old.value} is read as --executor {old.value}; the next version will refuse the old name")
        executor = old
    return Scale(executor.value, None if worker is None else Part.parse(worker))


def _single_command(stage: Stage) -> Callable[[Path, Path, bool, bool, str, bool], None]:
    """Build the command of a stage that one process runs."""

    def command(
        config: Config,
        out: Out,
        overwrite: Overwrite = False,
        overwrite_changed: OverwriteChanged = False,
        device: Device = "auto",
        debug: Debug = False,  # noqa: ARG001
    ) -> None:
        run_stage(stage, config, out, overwrite=overwrite, overwrite_changed=overwrite_changed, device=device)

    return command


def _shared_command(
    stage: Stage,
) -> Callable[[Path, Path, Executor, Executor | None, str | None, bool, bool, bool, str, bool], None]:
    """Build the command of a stage whose shards several processes can share."""

    def command(
        config: Config,
        out: Out,
        executor: Executors = Executor.local,
        engine: OldExecutors = None,
        worker: Worker = None,
        dry_run: DryRun = False,
        overwrite: Overwrite = False,
        overwrite_changed: OverwriteChanged = False,
        device: Device = "auto",
        debug: Debug = False,  # noqa: ARG001
    ) -> None:
        scale = _scale(executor, engine, worker, overwrite=overwrite or overwrite_changed)
        if dry_run:
            if not stage.estimate:
                raise typer.BadParameter(f"--dry-run: {stage.name} asks no external worker")
            _estimate(stage, config, out, device=device, scale=scale)
            return
        run_stage(
            stage, config, out, overwrite=overwrite, overwrite_changed=overwrite_changed, device=device, scale=scale
        )

    return command


def _prepare(
    config: Config,
    out: Out,
    monolingual: Annotated[
        bool,
        typer.Option("--monolingual", help="Prepare text of the target language alone, for back-translation."),
    ] = False,
    test: Annotated[
        bool, typer.Option("--test", help="Prepare a further test set with the vocabulary of a data set.")
    ] = False,
    vocabulary: Annotated[
        bool, typer.Option("--vocabulary", help="Learn a further vocabulary from the text of a data set.")
    ] = False,
    encode: Annotated[
        bool, typer.Option("--encode", help="Encode the text of a corpus with another vocabulary.")
    ] = False,
    sample: Annotated[bool, typer.Option("--sample", help="Draw one target of each source of a corpus.")] = False,
    overwrite: Overwrite = False,
    overwrite_changed: OverwriteChanged = False,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Prepare gold corpora and a vocabulary from text files.

    With --monolingual, prepare sources for back-translation from text of the target language. With --test, prepare a
    further test set. With --vocabulary, learn a further vocabulary. With --encode, encode a corpus with it.
    With --sample, draw one target of each source of a corpus that has several.
    """
    given = {"monolingual": monolingual, "test": test, "vocabulary": vocabulary, "encode": encode, "sample": sample}
    chosen = [name for name, asked in given.items() if asked]
    if len(chosen) > 1:
        raise typer.BadParameter(f"give one of {', '.join(f'--{name}' for name in chosen)}, not several")
    stage = STAGES[chosen[0] if chosen else "prepare"]
    _single_command(stage)(config, out, overwrite, overwrite_changed, device, debug)


def _distill(
    config: Config,
    out: Out,
    soft_targets: Annotated[
        bool,
        typer.Option(
            "--soft-targets",
            help="Write the teachers' distributions at the target positions of the corpus instead of k-best lists.",
        ),
    ] = False,
    executor: Executors = Executor.local,
    engine: OldExecutors = None,
    worker: Worker = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    overwrite_changed: OverwriteChanged = False,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Write k-best lists of teachers, or their soft targets."""
    stage = STAGES["soft_targets" if soft_targets else "distill"]
    _shared_command(stage)(config, out, executor, engine, worker, dry_run, overwrite, overwrite_changed, device, debug)


_SEVERAL: dict[str, Callable[..., None]] = {"prepare": _prepare, "distill": _distill}  # an option chooses the stage
_GROUPS = ("import", "export")  # `interop.py` has their commands, with one for each format
for _stage in STAGES.values():
    if _stage.command in _GROUPS:
        continue
    if _stage.command in _SEVERAL and not _stage.option:
        stages.command(_stage.command)(_SEVERAL[_stage.command])
    elif not _stage.option:
        _build = _shared_command if _stage.shared else _single_command
        stages.command(_stage.command, help=f"{_stage.help}.")(_build(_stage))

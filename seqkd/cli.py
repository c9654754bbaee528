"""The command line: parse, call one stage, print. What a command needs is imported when it runs."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqkd import __version__
from seqkd.cli_interop import exports, imports
from seqkd.errors import ConflictError, InputError, SeqkdError

if TYPE_CHECKING:
    from seqkd.engines.work import Scale

INTERRUPTED = 130  # 128 + SIGINT, as shells have it

app = typer.Typer(
    name="seqkd",
    help="Offline sequence-level knowledge distillation for translation models, as a data pipeline.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # main() prints them
    rich_markup_mode=None,
)

app.add_typer(imports, name="import")
app.add_typer(exports, name="export")

Config = Annotated[Path, typer.Option(help="stage file (TOML)")]
Out = Annotated[Path, typer.Option(help="output folder")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="start anew, whatever an earlier run left in --out")]
OverwriteChanged = Annotated[
    bool,
    typer.Option(
        "--overwrite-changed", help="start anew only if --out was made with other settings or inputs; else go on"
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of a failure")]
Models = Annotated[list[Path], typer.Option("--model", help="model folder; give several for an ensemble")]


class Precision(str, Enum):
    """Of a model's weights while it works; auto: the fastest that is as good."""

    auto = "auto"
    float32 = "float32"
    bf16x3 = "bf16x3"
    bf16 = "bf16"
    int8 = "int8"
    fp16 = "fp16"


class Normalization(str, Enum):
    """logprob / length**alpha, or GNMT's ((5 + length) / 6)**alpha."""

    power = "power"
    gnmt = "gnmt"


class Stopping(str, Enum):
    """When a sentence is done."""

    first = "first"
    exact = "exact"


class Engine(str, Enum):
    """Where shards are worked on."""

    local = "local"
    ray = "ray"


Engines = Annotated[
    Engine,
    typer.Option(
        "--engine", help="local: processes of this machine; ray: the cluster of RAY_ADDRESS, or one started here"
    ),
]
Worker = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="do only every N-th shard, from the I-th; N such workers share --out"),
]
Weights = Annotated[Precision, typer.Option("--precision", help="of the weights")]
BatchTokens = Annotated[int, typer.Option(min=1, help="tokens worked on together")]


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
    from seqkd.plan import write_plan

    print(write_plan(pipeline, runs))


def _run_stage(
    name: str,
    kind: str,
    config: Path,
    out: Path,
    *,
    overwrite: bool,
    overwrite_changed: bool,
    device: str,
    scale: Scale | None = None,
) -> None:
    """Run the stage `name`, whose settings are `seqkd.config`'s class `kind`; `scale` is for those that have it."""
    from seqkd.config import load_stage

    settings = load_stage(getattr(importlib.import_module("seqkd.config"), kind), config)
    run = importlib.import_module(f"seqkd.stages.{name}").run
    if scale is not None:
        run = partial(run, scale=scale)
    try:
        run(settings, out, overwrite=overwrite, device=device)
    except ConflictError:
        if not overwrite_changed or overwrite:
            raise
        # A folder that is in use, or is not seqkd's, refuses this too.
        run(settings, out, overwrite=True, device=device)
    if scale is None or scale.part is None or (out / "manifest.json").exists():
        os.utime(out / "manifest.json")  # Make compares times: a stage with nothing to do is up to date again


def _scale(engine: Engine, worker: str | None, *, overwrite: bool) -> Scale:
    from seqkd.corpus.locks import Part
    from seqkd.engines.work import Scale

    if worker is not None and overwrite:
        raise InputError(
            "one worker of several cannot start anew: it would delete what the others have made",
            where="--worker",
            expected="no --overwrite and no --overwrite-changed",
            hint="delete the output folder before the workers start",
        )
    return Scale(engine.value, None if worker is None else Part.parse(worker))


def _stage_command(name: str, kind: str) -> Callable[[Path, Path, bool, bool, str, bool], None]:
    """The command of the stage `name`; see `_run_stage`."""

    def command(
        config: Config,
        out: Out,
        overwrite: Overwrite = False,
        overwrite_changed: OverwriteChanged = False,
        device: Device = "auto",
        debug: Debug = False,  # noqa: ARG001
    ) -> None:
        _run_stage(name, kind, config, out, overwrite=overwrite, overwrite_changed=overwrite_changed, device=device)

    return command


for _name, _kind, _help in (
    ("train", "TrainConfig", "A corpus to a model."),
    ("evaluate", "EvaluateConfig", "Quality and speed of a model on a test corpus."),
    ("report", "ReportConfig", "Everything a pipeline made, on one page."),
):
    app.command(_name, help=_help)(_stage_command(_name, _kind))


@app.command("prepare")
def _prepare(
    config: Config,
    out: Out,
    monolingual: Annotated[
        bool, typer.Option("--monolingual", help="text of the target language alone, for back-translation")
    ] = False,
    overwrite: Overwrite = False,
    overwrite_changed: OverwriteChanged = False,
    device: Device = "auto",
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Text files to gold corpora and a vocabulary, or monolingual text to sources of the other direction."""
    name, kind = ("monolingual", "MonolingualConfig") if monolingual else ("prepare", "PrepareConfig")
    _run_stage(name, kind, config, out, overwrite=overwrite, overwrite_changed=overwrite_changed, device=device)


@app.command("select")
def _select(
    config: Config,
    out: Out,
    engine: Engines = Engine.local,
    worker: Worker = None,
    overwrite: Overwrite = False,
    overwrite_changed: OverwriteChanged = False,
    device: Device = "auto",
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """K-best lists to a distilled corpus."""
    scale = _scale(engine, worker, overwrite=overwrite or overwrite_changed)
    _run_stage(
        "select",
        "SelectConfig",
        config,
        out,
        overwrite=overwrite,
        overwrite_changed=overwrite_changed,
        device=device,
        scale=scale,
    )


@app.command("distill")
def _distill(
    config: Config,
    out: Out,
    soft_targets: Annotated[
        bool, typer.Option("--soft-targets", help="distributions at the corpus' own target positions, no k-best lists")
    ] = False,
    engine: Engines = Engine.local,
    worker: Worker = None,
    overwrite: Overwrite = False,
    overwrite_changed: OverwriteChanged = False,
    device: Device = "auto",
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Teachers and a corpus to k-best lists, or to soft targets."""
    scale = _scale(engine, worker, overwrite=overwrite or overwrite_changed)
    if soft_targets and (engine is not Engine.local or worker is not None):
        raise InputError(
            "--soft-targets with --engine or --worker",
            expected="one of them",
            hint="soft targets are one pass over a corpus and are written by one process",
        )
    _run_stage(
        "soft_targets" if soft_targets else "distill",
        "SoftTargetsConfig" if soft_targets else "DistillConfig",
        config,
        out,
        overwrite=overwrite,
        overwrite_changed=overwrite_changed,
        device=device,
        scale=None if soft_targets else scale,
    )


@app.command("translate")
def _translate(
    context: typer.Context,
    model: Models,
    beam: Annotated[int, typer.Option(min=1, max=64, help="hypotheses kept at each step, or samples drawn")] = 5,
    nbest: Annotated[int, typer.Option(min=1, max=64, help="translations of each line")] = 1,
    length_penalty: Annotated[float, typer.Option(help="exponent of the length that scores are divided by")] = 1.0,
    normalization: Annotated[Normalization, typer.Option(help="of scores by length")] = Normalization.power,
    stopping: Annotated[Stopping, typer.Option(help="at the first `beam` hypotheses, or when none can win")] = (
        Stopping.first
    ),
    max_length_ratio: Annotated[float, typer.Option(min=0.0, help="longest output: this * source tokens ...")] = 2.0,
    max_length_extra: Annotated[int, typer.Option(min=1, help="... + this")] = 10,
    min_length: Annotated[int, typer.Option(min=0, help="shortest output in tokens")] = 1,
    min_length_ratio: Annotated[float, typer.Option(min=0.0, help="shortest output, also: this * source tokens")] = 0.0,
    prefix: Annotated[str, typer.Option(help="pieces that every output opens with, e.g. a language tag")] = "",
    unk_penalty: Annotated[float, typer.Option(min=0.0, help="against the unknown piece")] = 0.0,
    no_repeat_ngram_size: Annotated[int, typer.Option(min=0, help="no n tokens in a row come twice")] = 0,
    temperature: Annotated[float, typer.Option(help="logits are divided by it")] = 1.0,
    sampling: Annotated[bool, typer.Option("--sampling", help="draw samples instead of searching")] = False,
    top_k: Annotated[int, typer.Option(min=0, help="sample from the k likeliest tokens; 0: all")] = 0,
    top_p: Annotated[float, typer.Option(help="sample from the likeliest tokens with this probability")] = 1.0,
    seed: Annotated[int, typer.Option(help="of sampling; with a line's number it decides every draw")] = 1,
    diverse_groups: Annotated[int, typer.Option(min=1, max=64, help="groups of the beam that differ")] = 1,
    diverse_strength: Annotated[float, typer.Option(min=0.0, help="how much they differ")] = 0.5,
    iterations: Annotated[int, typer.Option(min=1, help="of a model that refines what it wrote all at once")] = 10,
    candidates: Annotated[int, typer.Option(min=0, help="of such a model; 0: as many as nbest")] = 0,
    json: Annotated[bool, typer.Option("--json", help="one JSON object a line, with scores")] = False,
    device: Device = "auto",
    precision: Weights = Precision.auto,
    batch_tokens: BatchTokens = 4000,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Text on stdin, its translation on stdout, line by line."""
    from seqkd.models.protocol import ParallelSettings
    from seqkd.search.loading import load_team
    from seqkd.search.settings import BeamSettings
    from seqkd.stages.translate import Translator, translate_lines

    team = load_team(model, device=device, precision=precision.value, parallel=True)
    _refuse_unfit(context, model[0], parallel=team.parallel)
    settings: BeamSettings | ParallelSettings
    try:
        if team.parallel:
            settings = ParallelSettings(iterations=iterations, candidates=candidates or nbest, nbest=nbest)
        else:
            settings = BeamSettings(
                beam=beam,
                nbest=nbest,
                length_penalty=length_penalty,
                normalization=normalization.value,
                stopping=stopping.value,
                max_length_ratio=max_length_ratio,
                max_length_extra=max_length_extra,
                min_length=min_length,
                min_length_ratio=min_length_ratio,
                unk_penalty=unk_penalty,
                no_repeat_ngram_size=no_repeat_ngram_size,
                temperature=temperature,
                sampling=sampling,
                top_k=top_k,
                top_p=top_p,
                seed=seed,
                diverse_groups=diverse_groups,
                diverse_strength=diverse_strength,
            )
    except ValueError as error:
        raise InputError(str(error)) from None
    translator = Translator(team, settings, batch_tokens=batch_tokens, prefix=prefix.split())
    translate_lines(translator, sys.stdin.buffer, sys.stdout.buffer, as_json=json, one_by_one=sys.stdin.isatty())


def _refuse_unfit(context: typer.Context, model: Path, *, parallel: bool) -> None:
    """Options that somebody gave and that this kind of model has no use for are an error."""
    other = {"model", "nbest", "json", "device", "precision", "batch_tokens", "debug"}
    at_once = {"iterations", "candidates"}
    unfit = [
        f"--{name.replace('_', '-')}"
        for name in context.params
        if name not in other and (name in at_once) != parallel and _was_given(context, name)
    ]
    if unfit and parallel:
        what = f"{', '.join(unfit)}: for models that decode left to right, and this one writes all positions at once"
        raise InputError(what, where=str(model), expected="--iterations, --candidates and --nbest")
    if unfit:
        what = f"{', '.join(unfit)}: for models that write all positions at once, and this one decodes left to right"
        raise InputError(what, where=str(model), expected="--beam and the other options of beam search")


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@app.command("score")
def _score(
    model: Models,
    source: Annotated[Path, typer.Option(help="source text, a sentence a line")],
    target: Annotated[Path, typer.Option(help="target text, a sentence a line")],
    device: Device = "auto",
    precision: Weights = Precision.float32,
    batch_tokens: BatchTokens = 4000,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Log-probability and length in tokens of each pair, tab-separated; the whole text's perplexity on stderr."""
    from seqkd.stages.score import score_files

    score_files(
        model, source, target, sys.stdout.buffer, device=device, precision=precision.value, batch_tokens=batch_tokens
    )


@app.command("inspect")
def _inspect(
    path: Annotated[Path, typer.Argument(help="folder of a corpus, k-best lists, a model or another stage")],
    rows: Annotated[int, typer.Option(min=0, help="how many rows to show")] = 3,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Show what a folder holds."""
    from seqkd.stages.inspect import inspect

    inspect(path, rows=rows)


@app.command("verify")
def _verify(
    path: Annotated[Path, typer.Argument(help="folder of a corpus, k-best lists, a model or another stage, or a run")],
    inputs: Annotated[
        list[Path] | None, typer.Option("--inputs", help="folder to look for inputs in, beside the run; repeatable")
    ] = None,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Check a folder and all that it was made from against what was written."""
    from seqkd.stages.verify import show, verify

    print(show(verify(path, inputs or ())))

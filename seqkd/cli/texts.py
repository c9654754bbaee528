"""`seqkd translate` and `seqkd score`: commands that apply models to plain text."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from seqkd.cli.options import Debug, Device, importing, standard_input, standard_output
from seqkd.errors import InputError

texts = typer.Typer()
_TEXT_FILES = "It may be compressed (.gz, .bz2, .xz or .zst) or a pipe."

Models = Annotated[list[Path], typer.Option("--model", help="Model folder. Repeat the option for an ensemble.")]


class Precision(str, Enum):
    """The precision of a model's weights; auto is the fastest precision without a loss of quality."""

    auto = "auto"
    float32 = "float32"
    bf16x3 = "bf16x3"
    bf16 = "bf16"
    int8 = "int8"
    fp16 = "fp16"


class Normalization(str, Enum):
    """How scores are normalised by length: logprob / length**alpha, or logprob / ((5 + length) / 6)**alpha (GNMT)."""

    power = "power"
    gnmt = "gnmt"


class Stopping(str, Enum):
    """When the search for a sentence stops."""

    first = "first"
    exact = "exact"


Weights = Annotated[Precision, typer.Option("--precision", help="Precision of the weights.")]
BatchTokens = Annotated[int, typer.Option(min=1, help="Tokens that are processed together.")]


@texts.command("translate")
def _translate(
    context: typer.Context,
    model: Models,
    beam: Annotated[int, typer.Option(min=1, max=64, help="Hypotheses kept at each step, or samples drawn.")] = 5,
    nbest: Annotated[int, typer.Option(min=1, max=64, help="Translations printed for each line.")] = 1,
    length_penalty: Annotated[float, typer.Option(help="Exponent alpha of the length normalisation.")] = 1.0,
    normalization: Annotated[
        Normalization,
        typer.Option(help="Length normalisation of scores: power divides by length**alpha; gnmt as GNMT does."),
    ] = Normalization.power,
    stopping: Annotated[
        Stopping,
        typer.Option(
            help="When a sentence is finished. first: at the first `beam` finished hypotheses. exact: when no live "
            "hypothesis can still win."
        ),
    ] = Stopping.first,
    max_length_ratio: Annotated[
        float,
        typer.Option(min=0.0, help="The longest output is max-length-ratio * source tokens + max-length-extra."),
    ] = 2.0,
    max_length_extra: Annotated[int, typer.Option(min=1, help="See --max-length-ratio.")] = 10,
    min_length: Annotated[int, typer.Option(min=0, help="Shortest output in tokens.")] = 1,
    min_length_ratio: Annotated[
        float, typer.Option(min=0.0, help="Shortest output as a share of the source tokens.")
    ] = 0.0,
    prefix: Annotated[str, typer.Option(help="Pieces that every output begins with, such as a language tag.")] = "",
    unk_penalty: Annotated[float, typer.Option(min=0.0, help="Penalty for the unknown piece.")] = 0.0,
    no_repeat_ngram_size: Annotated[
        int, typer.Option(min=0, help="Forbid to repeat any sequence of n tokens in an output. 0 allows repetitions.")
    ] = 0,
    temperature: Annotated[float, typer.Option(help="Temperature that logits are divided by.")] = 1.0,
    sampling: Annotated[bool, typer.Option("--sampling", help="Draw samples instead of searching.")] = False,
    top_k: Annotated[int, typer.Option(min=0, help="Sample from the k likeliest tokens. 0 means all tokens.")] = 0,
    top_p: Annotated[
        float, typer.Option(help="Sample from the smallest set of likeliest tokens with this total probability.")
    ] = 1.0,
    epsilon: Annotated[
        float, typer.Option(help="Sample only tokens of at least this probability, and the likeliest one.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of sampling. The seed and the line number decide every draw.")] = 1,
    diverse_groups: Annotated[
        int, typer.Option(min=1, max=64, help="Groups of hypotheses in diverse beam search. 1 is plain beam search.")
    ] = 1,
    diverse_strength: Annotated[
        float, typer.Option(min=0.0, help="Penalty for a token that an earlier group has chosen at the same step.")
    ] = 0.5,
    iterations: Annotated[
        int, typer.Option(min=1, help="Decoding passes of a non-autoregressive model that refines its output.")
    ] = 10,
    candidates: Annotated[
        int, typer.Option(min=0, help="Candidates that a non-autoregressive model decodes. 0 means --nbest.")
    ] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line, with scores.")] = False,
    device: Device = "auto",
    precision: Weights = Precision.auto,
    batch_tokens: BatchTokens = 4000,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Translate text from stdin to stdout, line by line.

    When the input pauses, all lines read so far are translated.
    """
    lines, out = standard_input(context), standard_output(context)
    with importing():
        from seqkd.kernels.build import check_environment
        from seqkd.models.protocol import ParallelSettings
        from seqkd.search.loading import load_team
        from seqkd.search.settings import BeamSettings
        from seqkd.tools.translate import Translator, read_chunks, translate_lines

    check_environment()
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
                epsilon=epsilon,
                seed=seed,
                diverse_groups=diverse_groups,
                diverse_strength=diverse_strength,
            )
    except ValueError as error:
        raise InputError(str(error)) from None
    translator = Translator(team, settings, batch_tokens=batch_tokens, prefix=prefix.split())
    translate_lines(translator, read_chunks(lines.fileno()), out, as_json=json)


def _refuse_unfit(context: typer.Context, model: Path, *, parallel: bool) -> None:
    """Refuse options on the command line that do not apply to this kind of model."""
    other = {"model", "nbest", "json", "device", "precision", "batch_tokens", "debug"}
    at_once = {"iterations", "candidates"}
    unfit = [
        f"--{name.replace('_', '-')}"
        for name in context.params
        if name not in other and (name in at_once) != parallel and _was_given(context, name)
    ]
    if unfit and parallel:
        what = f"{', '.join(unfit)} cannot be used: this model writes all positions at once, not left to right"
        raise InputError(what, where=str(model), expected="--iterations, --candidates and --nbest")
    if unfit:
        what = f"{', '.join(unfit)} cannot be used: this model decodes left to right, not all positions at once"
        raise InputError(what, where=str(model), expected="--beam and the other options of beam search")


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@texts.command("score")
def _score(
    context: typer.Context,
    model: Models,
    source: Annotated[Path, typer.Option(help=f"Source text, one sentence a line. {_TEXT_FILES}")],
    target: Annotated[Path, typer.Option(help=f"Target text, one sentence a line. {_TEXT_FILES}")],
    device: Device = "auto",
    precision: Weights = Precision.float32,
    batch_tokens: BatchTokens = 4000,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Score sentence pairs with a model.

    Print the log-probability and the length in tokens of each pair, separated by a tab, and the perplexity of the whole
    text on stderr.
    """
    out = standard_output(context)
    with importing():
        from seqkd.kernels.build import check_environment
        from seqkd.tools.score import score_files

    check_environment()
    score_files(model, source, target, out, device=device, precision=precision.value, batch_tokens=batch_tokens)

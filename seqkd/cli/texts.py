"""`seqkd translate` and `seqkd score`: models at work on plain text."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from seqkd.cli.options import Debug, Device, importing, standard_input, standard_output
from seqkd.errors import InputError

texts = typer.Typer()

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


Weights = Annotated[Precision, typer.Option("--precision", help="of the weights")]
BatchTokens = Annotated[int, typer.Option(min=1, help="tokens worked on together")]


@texts.command("translate")
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
    """Text on stdin, its translation on stdout, line by line; when the input pauses, each line so far is answered."""
    with importing():
        from seqkd.kernels.build import check
        from seqkd.models.protocol import ParallelSettings
        from seqkd.search.loading import load_team
        from seqkd.search.settings import BeamSettings
        from seqkd.tools.translate import Translator, arriving, translate_lines

    check()
    lines, out = standard_input(context), standard_output(context)
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
    translate_lines(translator, arriving(lines.fileno()), out, as_json=json)


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


@texts.command("score")
def _score(
    context: typer.Context,
    model: Models,
    source: Annotated[Path, typer.Option(help="source text, a sentence a line; .gz, .bz2, .xz, .zst or a pipe")],
    target: Annotated[Path, typer.Option(help="target text, likewise")],
    device: Device = "auto",
    precision: Weights = Precision.float32,
    batch_tokens: BatchTokens = 4000,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """Log-probability and length in tokens of each pair, tab-separated; the whole text's perplexity on stderr."""
    with importing():
        from seqkd.kernels.build import check
        from seqkd.tools.score import score_files

    check()
    out = standard_output(context)
    score_files(model, source, target, out, device=device, precision=precision.value, batch_tokens=batch_tokens)

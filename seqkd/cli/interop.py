"""`seqkd import` and `seqkd export`: models of other toolkits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqkd.cli.options import Debug, Out, Overwrite, rereadable
from seqkd.progress import say

imports = typer.Typer(help="A model of another toolkit to a model folder.", no_args_is_help=True)
exports = typer.Typer(help="A model folder to another toolkit's format.", no_args_is_help=True)


@imports.callback()
def _imports() -> None:
    """Keep the toolkit's name a word of its own while there is only one."""


@exports.callback()
def _exports() -> None:
    """Likewise."""


@imports.command("fairseq")
def _import_fairseq(
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint_best.pt, say", callback=rereadable)],
    dictionary: Annotated[Path, typer.Option(help="dict.txt of the target, or of both sides", callback=rereadable)],
    out: Out,
    source_dictionary: Annotated[
        Path | None, typer.Option(help="that of the source, where it is another one", callback=rereadable)
    ] = None,
    sentencepiece: Annotated[
        Path | None, typer.Option(help="the model that segmented the training text", callback=rereadable)
    ] = None,
    source_sentencepiece: Annotated[Path | None, typer.Option(help="that of the source", callback=rereadable)] = None,
    max_len_a: Annotated[float | None, typer.Option(min=0.0, help="of fairseq-generate: say what it is here")] = None,
    max_len_b: Annotated[int | None, typer.Option(min=0, help="likewise")] = None,
    overwrite: Overwrite = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """A Transformer of fairseq; nothing is unpickled that could run code."""
    from seqkd.interop.fairseq import import_checkpoint
    from seqkd.interop.fairseq_limits import MAX_LEN_A, MAX_LEN_B, limits_note

    report = import_checkpoint(
        checkpoint,
        out,
        dictionary=dictionary,
        source_dictionary=source_dictionary,
        sentencepiece=sentencepiece,
        source_sentencepiece=source_sentencepiece,
        overwrite=overwrite,
    )
    for note in report.notes:
        say(f"import: {note}")
    if max_len_a is not None or max_len_b is not None:
        a = MAX_LEN_A if max_len_a is None else max_len_a
        b = MAX_LEN_B if max_len_b is None else max_len_b
        say(f"import: {limits_note(a, b)}")
    say(f"import: {report.parameters:,} parameters; {out}")


@exports.command("fairseq")
def _export_fairseq(
    model: Annotated[Path, typer.Argument(help="model folder")],
    out: Out,
    overwrite: Overwrite = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    """A checkpoint and dictionaries for fairseq, and for the converters that read its checkpoints."""
    from seqkd.interop.fairseq import export_checkpoint

    export_checkpoint(model, out, overwrite=overwrite)
    say(f"export: {out}")

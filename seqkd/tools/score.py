"""`seqkd score`: the log-probabilities of given translations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

from seqkd.errors import TextError
from seqkd.progress import say
from seqkd.search import score_pairs
from seqkd.search.loading import Precision, load_team
from seqkd.text.reading import check_bitext, copy_pipes, read_bitext

CHUNK_LINES = 8192


def score_files(
    models: Sequence[str | Path],
    source: str | Path,
    target: str | Path,
    out: BinaryIO,
    *,
    device: str,
    precision: Literal["auto"] | Precision,
    batch_tokens: int,
) -> None:
    """Write `LOGPROB<tab>TOKENS` for each pair of lines, and print the perplexity of all of them.

    Log-probabilities are natural logarithms. Both numbers include the end of sentence.

    Args:
        models: Model folders; several are averaged as in ensemble search.
        source: Source text, one sentence per line: a plain or compressed file, or a pipe, which is copied first.
        target: Target text, aligned line by line.
        out: The stream that the numbers are written to.
        device: auto, cpu, cuda or cuda:N.
        precision: The precision of the weights.
        batch_tokens: Target tokens, including padding, that are scored together.

    Raises:
        TextError: The texts cannot be read or have different numbers of lines, or a line is not UTF-8 or too long for
            the model.
        ModelError: A folder is not a model, or the vocabularies of the models differ.
        InputError: The device does not exist, or it or a model does not support the precision.
        WorkError: A log-probability is NaN or infinite, even in float32.
    """
    with copy_pipes(Path(source), Path(target)) as (source, target):
        check_bitext(source, target)
        team = load_team(models, device=device, precision=precision)
        vocabularies = team.loaded[0].vocabularies
        scorers = team.scorers
        limit = min(int(scorer.max_positions) for scorer in scorers)
        rows = read_bitext(source, target)
        logprob, tokens, characters, retried = 0.0, 0, 0, 0
        while chunk := list(islice(rows, CHUNK_LINES)):
            for row in chunk:
                if row.problem is not None:
                    raise TextError(row.problem, where=f"{source}, {target}, line {row.line}")
            sources = vocabularies.source.encode(vocabularies.source.normalize([row.source or "" for row in chunk]))
            targets = vocabularies.target.encode(vocabularies.target.normalize([row.target or "" for row in chunk]))
            for row, *sides in zip(chunk, sources, targets, strict=True):
                longest = max(map(len, sides)) + 1
                if longest > limit:
                    raise TextError(
                        f"{longest:,} tokens, end of sentence counted",
                        where=f"line {row.line}",
                        expected=f"at most {limit:,}",
                    )
            pairs = list(zip(sources, targets, strict=True))
            scores = score_pairs(
                scorers, pairs, batch_tokens=batch_tokens, device=team.device, fallback=team.scorers_in_float32
            )
            characters += sum(len(row.target or "") for row in chunk)
            for score in scores:
                out.write(f"{score.logprob:.6f}\t{score.tokens}\n".encode())
                logprob += score.logprob
                tokens += score.tokens
                retried += score.retried
            out.flush()
        if retried:
            say(f"score: {retried:,} pairs overflowed in {team.precision} and were scored again in float32")
        each = f", {math.exp(-logprob / characters):.3f} for each of {characters:,} characters" if characters else ""
        say(f"score: {tokens:,} tokens, perplexity {math.exp(-logprob / tokens):.3f}{each}")

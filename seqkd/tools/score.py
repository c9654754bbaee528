"""Log-probability of given translations: what `seqkd score` does."""

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
    """Write `LOGPROB<tab>TOKENS` for each pair of lines, and say the perplexity of the whole.

    Log-probabilities are natural; the end of sentence counts in both numbers.

    Args:
        models: Model folders; several are averaged as in ensemble search.
        source: Source text, a sentence a line: a file, plain or compressed, or a pipe, which is copied first.
        target: Target text, line by line.
        out: Where the numbers go.
        device: auto, cpu, cuda or cuda:N.
        precision: Of the weights.
        batch_tokens: Padded target tokens scored together.

    Raises:
        TextError: The texts cannot be read, do not line up, or a line is not UTF-8 or longer than the model takes.
        ModelError: A folder is no model, or the models' vocabularies differ.
        InputError: No such device here, or a precision that it or a model does not have.
        WorkError: A log-probability is NaN or infinite, in float32 too.
    """
    with copy_pipes(Path(source), Path(target)) as (source, target):
        check_bitext(source, target)
        team = load_team(models, device=device, precision=precision)
        vocabularies = team.loaded[0].vocabularies
        scorers = team.scorers
        limit = min(int(scorer.max_positions) for scorer in scorers)
        rows = read_bitext(source, target)
        logprob, tokens, retried = 0.0, 0, 0
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
            for score in scores:
                out.write(f"{score.logprob:.6f}\t{score.tokens}\n".encode())
                logprob += score.logprob
                tokens += score.tokens
                retried += score.retried
            out.flush()
        if retried:
            say(f"score: {retried:,} pairs overflowed in {team.precision} and were scored again in float32")
        say(f"score: {tokens:,} tokens, perplexity {math.exp(-logprob / tokens):.3f}")

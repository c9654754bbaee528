"""Quality of outputs: sacrebleu's corpus metrics with their signatures, and the share of valid translations.

Each has two functions: one gives the score, the other the statistics of each row that the score is computed from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from seqkd.errors import InputError
from seqkd.metrics.sentence_statistics import (
    Floats,
    Statistics,
    bleu_scores,
    chrf_scores,
    mean_of,
    ter_scores,
)
from seqkd.metrics.sentence_statistics import MetricScore as MetricScore  # other packages import it from here
from seqkd.metrics.tokenizers import Tokenizer


def corpus_bleu(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, tokenizer: Tokenizer = "13a"
) -> MetricScore:
    """Compute BLEU (Papineni et al. 2002). Higher is better.

    Args:
        hypotheses: One detokenised output per row.
        references: For each row its references, at least one; rows may have different numbers of them.
        tokenizer: The tokenizer of both sides; see `seqkd.metrics.tokenizers.choose_tokenizer`.

    Raises:
        InputError: There are no rows, the numbers of rows differ, or a row has no reference.
    """
    return bleu_statistics(hypotheses, references, tokenizer=tokenizer).score


def bleu_statistics(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, tokenizer: Tokenizer = "13a"
) -> Statistics:
    """See `corpus_bleu`."""
    # force suppresses advice about detokenising on stderr
    return _statistics(BLEU(force=True, tokenize=tokenizer), bleu_scores, hypotheses, references)


def corpus_chrf(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> MetricScore:
    """Compute chrF2 (Popović 2015). Higher is better. Arguments and errors are those of `corpus_bleu`."""
    return chrf_statistics(hypotheses, references).score


def chrf_statistics(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
    """See `corpus_chrf`."""
    return _statistics(CHRF(), chrf_scores, hypotheses, references)


def corpus_ter(hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, blanks: bool = True) -> MetricScore:
    """Compute TER (Snover et al. 2006) without case. Lower is better. Errors are those of `corpus_bleu`.

    Args:
        hypotheses: One detokenised output per row.
        references: For each row its references.
        blanks: Whether the language puts blanks between words. If not, each Chinese or Japanese character is a word,
            as with sacrebleu's `asian_support`, and the signature says so.
    """
    return ter_statistics(hypotheses, references, blanks=blanks).score


def ter_statistics(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, blanks: bool = True
) -> Statistics:
    """See `corpus_ter`."""
    metric = TER(normalized=not blanks, asian_support=not blanks)
    return _statistics(metric, ter_scores, hypotheses, references)


def _statistics(
    metric: Any,
    scores: Callable[[Floats], Floats],
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
) -> Statistics:
    """Return the statistics of a metric of sacrebleu, with the score that its `corpus_score` computes from them."""
    _check(hypotheses, references)
    rows = metric._extract_corpus_statistics(list(hypotheses), _streams(references))
    value = float(metric._aggregate_and_compute(rows).score)
    score = MetricScore(value=value, signature=str(metric.get_signature()))
    return Statistics(rows=np.array(rows, dtype=np.float64), scores=scores, score=score)


def _check(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(hypotheses) != len(references):
        raise InputError(f"{len(hypotheses)} hypotheses, but {len(references)} rows of references")
    if not hypotheses:
        raise InputError("no hypotheses to score", expected="at least one row")
    for row, texts in enumerate(references):
        if not texts:
            raise InputError("a row without a reference", where=f"row {row}", expected="at least one reference a row")


def _streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """Turn rows of references into sacrebleu's streams. Stream i holds the i-th reference of every row, or None."""
    most = max(len(texts) for texts in references)
    return [[texts[i] if i < len(texts) else None for texts in references] for i in range(most)]


def share_valid(hypotheses: Sequence[str], accepted: Sequence[Collection[str]]) -> float:
    """Return the share of outputs, 0 to 1, that are accepted translations of their row. Runs of spaces count as one.

    Raises:
        InputError: There are no rows, the numbers of rows differ, or a row has no accepted translation.
    """
    return valid_statistics(hypotheses, accepted).score.value


def valid_statistics(hypotheses: Sequence[str], accepted: Sequence[Collection[str]]) -> Statistics:
    """See `share_valid`. The score has no signature."""
    _check(hypotheses, [list(texts) for texts in accepted])
    right = [
        " ".join(text.split()) in {" ".join(other.split()) for other in texts}
        for text, texts in zip(hypotheses, accepted, strict=True)
    ]
    return mean_of(right)

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
from seqkd.metrics.sentence_statistics import MetricScore as MetricScore  # other packages read it from here
from seqkd.metrics.tokenizers import Tokenizer


def corpus_bleu(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, tokenizer: Tokenizer = "13a"
) -> MetricScore:
    """BLEU (Papineni et al. 2002), higher is better.

    Args:
        hypotheses: One detokenised output a row.
        references: For each row its references, at least one; rows may have different numbers of them.
        tokenizer: What cuts both into words; see `seqkd.metrics.tokenizers.choose_tokenizer`.

    Raises:
        InputError: No rows, not as many references as hypotheses, or a row without a reference.
    """
    return bleu_statistics(hypotheses, references, tokenizer=tokenizer).score


def bleu_statistics(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, tokenizer: Tokenizer = "13a"
) -> Statistics:
    """See `corpus_bleu`."""
    # force: no advice about detokenising on stderr
    return _statistics(BLEU(force=True, tokenize=tokenizer), bleu_scores, hypotheses, references)


def corpus_chrf(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> MetricScore:
    """chrF2 (Popović 2015), higher is better; arguments and errors as in `corpus_bleu`."""
    return chrf_statistics(hypotheses, references).score


def chrf_statistics(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
    """See `corpus_chrf`."""
    return _statistics(CHRF(), chrf_scores, hypotheses, references)


def corpus_ter(hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, blanks: bool = True) -> MetricScore:
    """TER (Snover et al. 2006), case ignored, lower is better; arguments and errors as in `corpus_bleu`.

    Args:
        hypotheses: One detokenised output a row.
        references: For each row its references.
        blanks: Whether the language puts blanks between words. If not, each Chinese or Japanese character is a word,
            as sacrebleu's `asian_support` has it, and the signature says so.
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
    """Statistics of a metric of sacrebleu, and the score as its `corpus_score` computes it from them."""
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
    """Rows of references to sacrebleu's streams: stream i holds every row's i-th reference, or None."""
    most = max(len(texts) for texts in references)
    return [[texts[i] if i < len(texts) else None for texts in references] for i in range(most)]


def share_valid(hypotheses: Sequence[str], accepted: Sequence[Collection[str]]) -> float:
    """Share of outputs, 0 to 1, that are among their row's accepted translations; runs of spaces count as one.

    Raises:
        InputError: No rows, not as many rows accepted as hypotheses, or a row that accepts nothing.
    """
    return valid_statistics(hypotheses, accepted).score.value


def valid_statistics(hypotheses: Sequence[str], accepted: Sequence[Collection[str]]) -> Statistics:
    """See `share_valid`; it has no signature."""
    _check(hypotheses, [list(texts) for texts in accepted])
    right = [
        " ".join(text.split()) in {" ".join(other.split()) for other in texts}
        for text, texts in zip(hypotheses, accepted, strict=True)
    ]
    return mean_of(right)

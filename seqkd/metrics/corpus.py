"""Quality of outputs: sacrebleu's corpus metrics with their signatures, and the share of valid translations."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from seqkd.errors import InputError
from seqkd.metrics.tokenizers import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricScore:
    """A corpus score.

    Attributes:
        value: 0 to 100; for TER edits per 100 reference words, which can exceed 100.
        signature: sacrebleu's, with its version: what makes the number comparable.
    """

    value: float
    signature: str


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
    # force: no advice about detokenising on stderr
    return _score(BLEU(force=True, tokenize=tokenizer), hypotheses, references)


def corpus_chrf(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> MetricScore:
    """chrF2 (Popović 2015), higher is better; arguments and errors as in `corpus_bleu`."""
    return _score(CHRF(), hypotheses, references)


def corpus_ter(hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, blanks: bool = True) -> MetricScore:
    """TER (Snover et al. 2006), case ignored, lower is better; arguments and errors as in `corpus_bleu`.

    Args:
        hypotheses: One detokenised output a row.
        references: For each row its references.
        blanks: Whether the language puts blanks between words. If not, each Chinese or Japanese character is a word,
            as sacrebleu's `asian_support` has it, and the signature says so.
    """
    return _score(TER(normalized=not blanks, asian_support=not blanks), hypotheses, references)


def _score(metric: Any, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> MetricScore:
    _check(hypotheses, references)
    score = metric.corpus_score(list(hypotheses), _streams(references))
    return MetricScore(value=float(score.score), signature=str(metric.get_signature()))


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
    _check(hypotheses, [list(texts) for texts in accepted])
    right = sum(
        " ".join(text.split()) in {" ".join(other.split()) for other in texts}
        for text, texts in zip(hypotheses, accepted, strict=True)
    )
    return right / len(hypotheses)

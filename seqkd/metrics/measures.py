"""seqkd's own metrics of outputs, as their records name them."""

from __future__ import annotations

from collections.abc import Sequence

from seqkd.metrics.corpus import MetricScore, corpus_bleu, corpus_chrf, corpus_ter, share_valid
from seqkd.metrics.registry import Outputs

MOST_REFERENCES = 16  # accepted translations a row that multi-reference BLEU looks at


def bleu(outputs: Outputs) -> MetricScore:
    """See `corpus_bleu`."""
    return corpus_bleu(outputs.hypotheses, _single(outputs), tokenizer=outputs.tokenizer)


def chrf(outputs: Outputs) -> MetricScore:
    """See `corpus_chrf`."""
    return corpus_chrf(outputs.hypotheses, _single(outputs))


def ter(outputs: Outputs) -> MetricScore:
    """See `corpus_ter`."""
    return corpus_ter(outputs.hypotheses, _single(outputs), blanks=outputs.blanks)


def bleu_accepted(outputs: Outputs) -> MetricScore:
    """BLEU against the first accepted translations of each row."""
    several = [texts[:MOST_REFERENCES] for texts in outputs.accepted or ()]
    return corpus_bleu(outputs.hypotheses, several, tokenizer=outputs.tokenizer)


def valid(outputs: Outputs) -> MetricScore:
    """See `share_valid`; it has no signature."""
    return MetricScore(value=share_valid(outputs.hypotheses, outputs.accepted or ()), signature="")


def _single(outputs: Outputs) -> Sequence[Sequence[str]]:
    return [[text] for text in outputs.references]

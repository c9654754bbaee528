"""The functions of seqkd's own metrics of outputs, which their records name."""

from __future__ import annotations

from seqkd.metrics import corpus
from seqkd.metrics.registry import Outputs
from seqkd.metrics.sentence_statistics import Statistics

MOST_REFERENCES = 16  # the most accepted translations of a row that multi-reference BLEU uses


def measure_bleu(outputs: Outputs) -> Statistics:
    """See `corpus_bleu`."""
    return corpus.bleu_statistics(outputs.hypotheses, outputs.all_references, tokenizer=outputs.tokenizer)


def measure_chrf(outputs: Outputs) -> Statistics:
    """See `corpus_chrf`."""
    return corpus.chrf_statistics(outputs.hypotheses, outputs.all_references)


def measure_ter(outputs: Outputs) -> Statistics:
    """See `corpus_ter`."""
    return corpus.ter_statistics(outputs.hypotheses, outputs.all_references, blanks=outputs.blanks)


def measure_bleu_accepted(outputs: Outputs) -> Statistics:
    """Measure BLEU against the first accepted translations of each row."""
    several = [texts[:MOST_REFERENCES] for texts in outputs.accepted or ()]
    return corpus.bleu_statistics(outputs.hypotheses, several, tokenizer=outputs.tokenizer)


def measure_valid(outputs: Outputs) -> Statistics:
    """See `share_valid`."""
    return corpus.valid_statistics(outputs.hypotheses, outputs.accepted or ())

"""The statistics of seqkd's own metrics of outputs, as their records name them."""

from __future__ import annotations

from seqkd.metrics import corpus
from seqkd.metrics.registry import Outputs
from seqkd.metrics.sentence_statistics import Statistics

MOST_REFERENCES = 16  # accepted translations a row that multi-reference BLEU looks at


def bleu(outputs: Outputs) -> Statistics:
    """See `corpus_bleu`."""
    return corpus.bleu_statistics(outputs.hypotheses, outputs.all_references, tokenizer=outputs.tokenizer)


def chrf(outputs: Outputs) -> Statistics:
    """See `corpus_chrf`."""
    return corpus.chrf_statistics(outputs.hypotheses, outputs.all_references)


def ter(outputs: Outputs) -> Statistics:
    """See `corpus_ter`."""
    return corpus.ter_statistics(outputs.hypotheses, outputs.all_references, blanks=outputs.blanks)


def bleu_accepted(outputs: Outputs) -> Statistics:
    """BLEU against the first accepted translations of each row."""
    several = [texts[:MOST_REFERENCES] for texts in outputs.accepted or ()]
    return corpus.bleu_statistics(outputs.hypotheses, several, tokenizer=outputs.tokenizer)


def valid(outputs: Outputs) -> Statistics:
    """See `share_valid`."""
    return corpus.valid_statistics(outputs.hypotheses, outputs.accepted or ())

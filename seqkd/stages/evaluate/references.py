"""What a test corpus has besides its rows' first references."""

from __future__ import annotations

from pathlib import Path

from seqkd.config.stages import EvaluateConfig
from seqkd.corpus.reader import Corpus
from seqkd.stages.prepare.further_test import ACCEPTED

FURTHER = "further_references"


def accepted_file(corpus: Path) -> Path:
    """The accepted translations of a test corpus, if there are any.

    Those of a further test set lie in its folder, those of a prepared folder's own test text beside it.
    """
    inside = corpus / ACCEPTED
    return inside if inside.is_file() else corpus.parent / f"{corpus.name}.accepted.jsonl"


def further_references(corpus: Corpus) -> list[list[str]]:
    """For each row the references besides the first; an empty list if each row has one reference."""
    if FURTHER not in corpus.schema.names:
        return []
    return [row for table in corpus.tables([FURTHER]) for row in table.column(FURTHER).to_pylist()]


def shown(config: EvaluateConfig) -> str:
    """The model in a message, with the name of a further test set."""
    return config.name if config.timed else f"{config.name} on {config.corpus.name}"

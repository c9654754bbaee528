"""Further references and accepted translations of a test corpus."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from seqkd.config.stages import EvaluateConfig
from seqkd.corpus.reader import Corpus
from seqkd.errors import CorpusError

FURTHER = "further_references"


def read_further_references(corpus: Corpus) -> list[list[str]]:
    """Read the references of each row besides the first one; an empty list if each row has one reference."""
    if FURTHER not in corpus.schema.names:
        return []
    return [row for table in corpus.tables([FURTHER]) for row in table.column(FURTHER).to_pylist()]


def read_accepted(path: Path, ids: Sequence[int]) -> list[list[str]]:
    """Read the accepted translations of `ids`. Line n of the file, from 0, is row n.

    Raises:
        CorpusError: The file cannot be read, or does not fit the test corpus.
    """
    try:
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        return [lines[row] for row in ids]
    except (OSError, ValueError, IndexError) as error:
        raise CorpusError(
            f"does not fit the test corpus: {error}", where=str(path), expected="a JSON list of texts for each row"
        ) from None


def format_model(config: EvaluateConfig) -> str:
    """Write the name of the model in messages, with the name of a further test set."""
    return config.name if config.timed else f"{config.name} on {config.corpus.name}"

"""A teacher's vocabularies, which must be those of the corpus that it decodes or scores."""

from __future__ import annotations

from pathlib import Path

from seqkd.corpus.reader import Corpus
from seqkd.text.vocabularies import Vocabularies

HINT = "prepare the corpus with the teacher's vocabulary, or train the teacher on this corpus"


def teacher_vocabularies(folder: Path, corpus: Corpus) -> Vocabularies:
    """Read those of a model folder.

    Raises:
        ModelError: A vocabulary is missing or none.
        CorpusError: The corpus was made with others.
    """
    found = Vocabularies.load(folder)
    corpus.check_vocabularies(found, "the teacher's", hint=HINT)
    return found

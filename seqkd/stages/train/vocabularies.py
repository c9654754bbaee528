"""The vocabularies of a teacher, which must equal those of the corpus that it decodes or scores."""

from __future__ import annotations

from pathlib import Path

from seqkd.corpus.reader import Corpus
from seqkd.text.vocabularies import Vocabularies

HINT = "prepare the corpus with the teacher's vocabulary, or train the teacher on this corpus"


def teacher_vocabularies(folder: Path, corpus: Corpus) -> Vocabularies:
    """Read the vocabularies of a teacher's folder and compare them with those of the corpus.

    Raises:
        ModelError: A vocabulary is missing or is not a vocabulary.
        CorpusError: The corpus was made with other vocabularies.
    """
    found = Vocabularies.load(folder)
    corpus.check_vocabularies(found, "the teacher's", hint=HINT)
    return found

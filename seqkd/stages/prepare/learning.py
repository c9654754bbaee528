"""Vocabularies that are learnt from text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from seqkd.config.stages import VocabularyConfig
from seqkd.progress import say
from seqkd.text.vocabularies import SOURCE_VOCABULARY, VOCABULARY, Vocabularies
from seqkd.text.vocabulary import Vocabulary


def learn_vocabularies(
    settings: VocabularyConfig, out: Path, pairs: Callable[[], Iterator[tuple[str, str]]], *, seed: int
) -> Vocabularies:
    """Learn a vocabulary for both sides, or one for each, or take those of an earlier run.

    Args:
        settings: The settings of the trainer.
        out: The folder of the files. It was opened with the fingerprint of the settings, so a file in it fits them.
        pairs: Returns the sources and targets of the training text.
        seed: Seed of the sample if there is more text than the trainer uses.

    Raises:
        InputError: The size does not fit the text.
    """

    def learn(name: str, *sides: int) -> Vocabulary:
        path = out / name
        if path.exists():
            return Vocabulary.load(path)
        say(f"prepare: training a vocabulary of {settings.size:,} pieces")
        return Vocabulary.train(
            (pair[side] for pair in pairs() for side in sides),
            path,
            size=settings.size,
            type=settings.type,
            byte_fallback=settings.byte_fallback,
            character_coverage=settings.character_coverage,
            symbols=settings.symbols,
            tags=settings.tags,
            seed=seed,
            normalization=settings.normalization,
            max_sentence_length=settings.max_sentence_length,
        )

    if settings.joint:
        both = learn(VOCABULARY, 0, 1)
        return Vocabularies(both, both)
    source = learn(SOURCE_VOCABULARY, 0)
    return Vocabularies(source, learn(VOCABULARY, 1))

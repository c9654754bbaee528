"""The vocabularies of a prepared folder or a model: one for both sides, or one for each side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from seqkd.errors import ModelError
from seqkd.text.vocabulary import Vocabulary

VOCABULARY = "vocab.model"  # the target's, and the source's, too, unless the other file exists
SOURCE_VOCABULARY = "vocab.source.model"


@dataclass(frozen=True, slots=True)
class Vocabularies:
    """The vocabularies with which sources and targets are encoded.

    Attributes:
        source: The vocabulary of the source.
        target: The vocabulary of the target. It is the same object if both sides share one.
    """

    source: Vocabulary
    target: Vocabulary

    @classmethod
    def load(cls, folder: str | Path) -> Vocabularies:
        """Read the vocabularies of a folder; the files in it tell their kind.

        Raises:
            ModelError: A file is missing or does not contain a vocabulary.
        """
        folder = Path(folder)
        for kind in VOCABULARIES.values():
            if (folder / kind.file).exists():
                return kind.load(folder)
        kinds = ", ".join(f"{kind.file} ({name})" for name, kind in VOCABULARIES.items())
        raise ModelError(
            "holds no vocabulary",
            where=str(folder),
            expected=kinds,
            hint="make the folder again with the stage that wrote it, or check the path",
        )

    @property
    def joint(self) -> bool:
        """Whether both sides have the same pieces."""
        return self.source.digest == self.target.digest

    def files(self) -> dict[str, Vocabulary]:
        """The vocabularies by their file names in a folder."""
        return {VOCABULARY: self.target} | ({} if self.source is self.target else {SOURCE_VOCABULARY: self.source})

    def sides(self) -> tuple[tuple[str, Vocabulary], tuple[str, Vocabulary]]:
        """The vocabularies with the names of their sides, for messages."""
        return ("target", self.target), ("source", self.source)

    def reversed(self) -> Vocabularies:
        """Return the vocabularies of the other direction."""
        return Vocabularies(self.target, self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularyKind:
    """A way to store vocabularies in a prepared folder or a model.

    Attributes:
        help: One line about it.
        file: The file or folder whose presence tells the kind.
        load: Reads the vocabularies of a folder.
    """

    help: str
    file: str
    load: Callable[[Path], Vocabularies]


def _load_sentencepiece(folder: Path) -> Vocabularies:
    target = Vocabulary.load(folder / VOCABULARY)
    other = folder / SOURCE_VOCABULARY
    return Vocabularies(Vocabulary.load(other) if other.exists() else target, target)


VOCABULARIES: Mapping[str, VocabularyKind] = {
    "sentencepiece": VocabularyKind(
        help="A SentencePiece model for both sides, or one for each (Kudo and Richardson 2018)",
        file=VOCABULARY,
        load=_load_sentencepiece,
    ),
}

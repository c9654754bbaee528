"""The vocabularies of a prepared folder or a model: one for both sides, or one of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seqkd.text.vocabulary import Vocabulary

VOCABULARY = "vocab.model"  # of the target, and of the source too unless the other file is there
SOURCE_VOCABULARY = "vocab.source.model"


@dataclass(frozen=True, slots=True)
class Vocabularies:
    """What sources and what targets are encoded with.

    Attributes:
        source: Of the source.
        target: Of the target; the same object where there is one for both.
    """

    source: Vocabulary
    target: Vocabulary

    @classmethod
    def load(cls, folder: str | Path) -> Vocabularies:
        """Read those of a folder.

        Raises:
            ModelError: A file is missing or no vocabulary.
        """
        folder = Path(folder)
        target = Vocabulary.load(folder / VOCABULARY)
        other = folder / SOURCE_VOCABULARY
        return cls(Vocabulary.load(other) if other.exists() else target, target)

    @property
    def joint(self) -> bool:
        """Whether both sides have the same pieces."""
        return self.source.digest == self.target.digest

    def files(self) -> dict[str, Vocabulary]:
        """By the names that they have in a folder."""
        return {VOCABULARY: self.target} | ({} if self.source is self.target else {SOURCE_VOCABULARY: self.source})

    def sides(self) -> tuple[tuple[str, Vocabulary], tuple[str, Vocabulary]]:
        """Each with its name, for messages."""
        return ("target", self.target), ("source", self.source)

    def reversed(self) -> Vocabularies:
        """Those of the other direction."""
        return Vocabularies(self.target, self.source)

"""The vocabularies of a prepared folder or a model: one for both sides, or one for each side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from seqkd.errors import ModelError
from seqkd.text.codes import CODES, CODES_FILES, CodesVocabulary
from seqkd.text.huggingface import TOKENIZER, ToolkitVocabulary
from seqkd.text.mapped import MAP, SOURCE_MAP, MappedVocabulary
from seqkd.text.normalize import Normalization
from seqkd.text.vocabulary import SOURCE_VOCABULARY as SOURCE_VOCABULARY
from seqkd.text.vocabulary import VOCABULARY as VOCABULARY
from seqkd.text.vocabulary import Side, Vocabulary


class TextVocabulary(Protocol):
    """Converts text to ids and back.

    Ids 0 to 3 are the begin of sentence, padding, end of sentence and the unknown piece in every kind: kernels and
    searches rely on them. A model of a toolkit with other ids gets the rows of its tables in this order when it is
    imported (`order_ids`).
    """

    @property
    def path(self) -> Path:
        """The file or folder that it was read from."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of everything on which ids and texts depend."""
        ...

    @property
    def size(self) -> int:
        """Number of ids, which is the number of rows of a model's table."""
        ...

    @property
    def bos_id(self) -> int:
        """0, the begin of sentence."""
        ...

    @property
    def pad_id(self) -> int:
        """1, padding."""
        ...

    @property
    def eos_id(self) -> int:
        """2, the end of sentence."""
        ...

    @property
    def unk_id(self) -> int:
        """3, the unknown piece."""
        ...

    @property
    def prefix(self) -> tuple[int, ...]:
        """The ids that every encoded text starts with. A model whose target has a prefix is made to write it."""
        ...

    @property
    def normalization(self) -> Normalization:
        """The rules that `normalize` applies."""
        ...

    def files(self, side: Side) -> dict[str, bytes]:
        """Return the contents of the files that store it as the vocabulary of a side, by name.

        If one file stores both sides, it is that of the target.
        """
        ...

    def normalize(self, texts: list[str]) -> list[str]:
        """Normalise texts by the rules that the vocabulary was trained with."""
        ...

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text: the prefix, and no special ids other than the unknown piece."""
        ...

    def decode(self, ids: list[list[int]]) -> list[str]:
        """Return the text of each list of ids. Special ids other than the unknown piece give no text."""
        ...

    def join_words(self, texts: list[str]) -> list[str]:
        """Join the parts of words that another toolkit has marked. Without such marks the texts are unchanged."""
        ...

    def id_of(self, piece: str) -> int | None:
        """Return the id of a piece, or None if there is no such piece."""
        ...

    def piece(self, index: int) -> str:
        """Return the piece with an id."""
        ...

    def pieces(self) -> list[str]:
        """Return all pieces in the order of their ids."""
        ...


@dataclass(frozen=True, slots=True)
class Vocabularies:
    """The vocabularies with which sources and targets are encoded.

    Attributes:
        source: The vocabulary of the source.
        target: The vocabulary of the target. It is the same object if both sides share one.
    """

    source: TextVocabulary
    target: TextVocabulary

    @classmethod
    def load(cls, folder: str | Path) -> Vocabularies:
        """Read the vocabularies of a folder; the files in it tell their kind.

        Raises:
            ModelError: A file is missing or does not contain a vocabulary.
        """
        folder = Path(folder)
        kind = find_kind(folder)
        if kind is not None:
            return kind.load(folder)
        kinds = ", ".join(f"{kind.file} ({name})" for name, kind in VOCABULARIES.items())
        raise ModelError(
            "holds no vocabulary",
            where=str(folder),
            expected=f"one of: {kinds}",
            hint="make the folder again with the stage that wrote it, or check the path",
        )

    @property
    def joint(self) -> bool:
        """Whether both sides have the same pieces, so that a model can share their embeddings."""
        return self.source.digest == self.target.digest or self.source.pieces() == self.target.pieces()

    def digests(self) -> dict[str, str]:
        """The digest of each vocabulary; that of the source only if it differs."""
        own = {} if self.source.digest == self.target.digest else {SOURCE_VOCABULARY: self.source.digest}
        return {VOCABULARY: self.target.digest} | own

    def files(self) -> dict[str, bytes]:
        """The contents of all files that store the vocabularies in a folder, by name."""
        same = self.source.digest == self.target.digest
        return self.target.files("target") | ({} if same else self.source.files("source"))

    def sides(self) -> tuple[tuple[str, TextVocabulary], tuple[str, TextVocabulary]]:
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
        files: Patterns for all files that belong to it, relative to the folder.
        load: Reads the vocabularies of a folder.
    """

    help: str
    file: str
    files: tuple[str, ...]
    load: Callable[[Path], Vocabularies]


def _load_sentencepiece(folder: Path) -> Vocabularies:
    target = Vocabulary.load(folder / VOCABULARY)
    other = folder / SOURCE_VOCABULARY
    return Vocabularies(Vocabulary.load(other) if other.exists() else target, target)


def _load_mapped(folder: Path) -> Vocabularies:
    """Read SentencePiece models and maps. The source has the target's model or map unless its own exists."""

    def pick(own: str, other: str) -> Path:
        return folder / own if (folder / own).exists() else folder / other

    target = MappedVocabulary(folder / VOCABULARY, folder / MAP)
    files = pick(SOURCE_VOCABULARY, VOCABULARY), pick(SOURCE_MAP, MAP)
    same = files == (folder / VOCABULARY, folder / MAP)
    return Vocabularies(target if same else MappedVocabulary(*files), target)


def _load_codes(folder: Path) -> Vocabularies:
    """Read codes, dictionaries and tokenisers. The source has each file of the target unless its own exists."""
    target = [folder / name for name in CODES_FILES["target"]]
    own = [folder / name for name in CODES_FILES["source"]]
    source = [mine if mine.exists() else other for mine, other in zip(own, target, strict=True)]
    shared = CodesVocabulary.load(target)
    return Vocabularies(shared if source == target else CodesVocabulary.load(source), shared)


def _load_toolkit(folder: Path) -> Vocabularies:
    return Vocabularies(
        ToolkitVocabulary(folder / TOKENIZER, "source"), ToolkitVocabulary(folder / TOKENIZER, "target")
    )


# The first kind whose file is in a folder is the kind of its vocabularies.
VOCABULARIES: Mapping[str, VocabularyKind] = {
    "huggingface": VocabularyKind(
        help="A tokenizer of Hugging Face with its own files, read with transformers (extra hf)",
        file=TOKENIZER,
        files=(f"{TOKENIZER}/**/*",),
        load=_load_toolkit,
    ),
    "sentencepiece-map": VocabularyKind(
        help="SentencePiece models whose pieces have the ids of another toolkit (MarianMT, M2M100, NLLB, mBART)",
        file=MAP,
        files=(VOCABULARY, SOURCE_VOCABULARY, MAP, SOURCE_MAP),
        load=_load_mapped,
    ),
    "bpe-codes": VocabularyKind(
        help="Byte-pair codes and dictionary of a fairseq model, around them Moses tokenisation (extra fairseq)",
        file=CODES,
        files=(*CODES_FILES["target"], *CODES_FILES["source"]),
        load=_load_codes,
    ),
    "sentencepiece": VocabularyKind(
        help="A SentencePiece model for both sides, or one for each (Kudo and Richardson 2018)",
        file=VOCABULARY,
        files=(VOCABULARY, SOURCE_VOCABULARY),
        load=_load_sentencepiece,
    ),
}


def find_kind(folder: Path) -> VocabularyKind | None:
    """Find the kind of the vocabularies of a folder; None if it has none."""
    return next((kind for kind in VOCABULARIES.values() if (folder / kind.file).exists()), None)


def list_files(folder: Path) -> Iterator[str]:
    """List the files of the vocabularies of a folder, relative to it; nothing if it has none."""
    kind = find_kind(folder)
    found = {path for pattern in (kind.files if kind else ()) for path in folder.glob(pattern) if path.is_file()}
    yield from sorted(path.relative_to(folder).as_posix() for path in found)

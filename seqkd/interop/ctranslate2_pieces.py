"""The tokenizers of CTranslate2's model folders, which turn texts into the pieces that a model reads.

CTranslate2 itself reads and writes pieces. The converters copy the files of a tokenizer beside the model, or a user
does: SentencePiece models, or a tokenizer of Hugging Face, which transformers reads (the extra `hf`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from seqkd.errors import ModelError
from seqkd.interop.ctranslate2_files import SOURCE_SENTENCEPIECE, TARGET_SENTENCEPIECE
from seqkd.text.huggingface import TOKENIZER
from seqkd.text.vocabulary import SOURCE_VOCABULARY, VOCABULARY, parse_model

# The names of SentencePiece models that toolkits use, for the source and for the target.
_MODELS = (
    (SOURCE_SENTENCEPIECE, TARGET_SENTENCEPIECE),
    (SOURCE_VOCABULARY, VOCABULARY),
    *((name, name) for name in (VOCABULARY, "sentencepiece.bpe.model", "sentencepiece.model", "spiece.model")),
)
_TOOLKIT = ("tokenizer.json", "tokenizer_config.json")  # one of these is in every folder of a tokenizer
_EXPECTED = (
    f"{SOURCE_SENTENCEPIECE} and {TARGET_SENTENCEPIECE}, {VOCABULARY}, sentencepiece.bpe.model, sentencepiece.model or "
    f"spiece.model; or a tokenizer of Hugging Face, here or in {TOKENIZER}/"
)


class Tokenizer(Protocol):
    """Turns texts into pieces and pieces into texts."""

    def encode(self, texts: list[str]) -> list[list[str]]:
        """Return the pieces of each source, without special ones."""
        ...

    def decode(self, pieces: list[list[str]]) -> list[str]:
        """Return the text of the pieces of each target. Special pieces give no text."""
        ...


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """The files of a tokenizer.

    Attributes:
        source: The SentencePiece model of the source, or the folder of a tokenizer of Hugging Face.
        target: The same for the target.
    """

    source: Path
    target: Path

    def list_files(self) -> list[Path]:
        """List all files on which the pieces depend."""
        if not self.source.is_dir():
            return sorted({self.source, self.target})
        kinds = (".json", ".txt", ".model", ".spm")
        return sorted(path for path in self.source.iterdir() if path.is_file() and path.suffix in kinds)

    def load(self) -> Tokenizer:
        """Read the files.

        Raises:
            ModelError: A file is damaged, or transformers is needed and is not installed.
        """
        return _Toolkit(self.source) if self.source.is_dir() else _Pieces(self.source, self.target)


def find_tokenizer(model: Path, source: Path | None, target: Path | None) -> TokenizerFiles:
    """Find the files of a model's tokenizer.

    Args:
        model: The model folder.
        source: The SentencePiece model of the source, if it differs from `target`.
        target: A SentencePiece model or a folder; None to search the model folder.

    Raises:
        ModelError: There is no such file, or the model folder has no tokenizer.
    """
    if target is not None:
        for path in (source, target):
            if path is not None and not path.exists():
                raise ModelError("no such file", where=str(path), expected="a SentencePiece model or a tokenizer")
        return TokenizerFiles(source or target, target)
    for names in _MODELS:
        if all((model / name).is_file() for name in names):
            return TokenizerFiles(*(model / name for name in names))
    for folder in (model / TOKENIZER, model):
        if any((folder / name).is_file() for name in _TOOLKIT):
            return TokenizerFiles(folder, folder)
    raise ModelError(
        "contains no tokenizer",
        where=str(model),
        expected=_EXPECTED,
        hint="copy the files of the tokenizer into the folder, or name them as `tokenizer` of the source",
    )


class _Pieces:
    """One SentencePiece model, or two."""

    def __init__(self, source: Path, target: Path) -> None:
        self._source, self._target = _read(source), _read(target)
        self._known = {self._target.id_to_piece(index) for index in range(self._target.get_piece_size())}

    def encode(self, texts: list[str]) -> list[list[str]]:
        return cast("list[list[str]]", self._source.encode(texts, out_type=str)) if texts else []

    def decode(self, pieces: list[list[str]]) -> list[str]:
        # Other pieces, such as codes of languages, would become text.
        rows = [[piece for piece in row if piece in self._known] for row in pieces]
        return [cast("str", self._target.decode(row)) if row else "" for row in rows]


def _read(path: Path) -> Any:
    try:
        return parse_model(path.read_bytes(), path)[0]
    except OSError as error:
        raise ModelError(
            f"cannot be read: {error.strerror}", where=str(path), expected="a SentencePiece model"
        ) from None


class _Toolkit:
    """A tokenizer of Hugging Face."""

    def __init__(self, folder: Path) -> None:
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise ModelError(
                f"this tokenizer needs transformers, which cannot be imported: {error}",
                where=str(folder),
                hint='pip install "seqkd[hf]"',
            ) from None
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # the library raises errors of many classes
            line = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ModelError(f"is not a tokenizer that transformers can read: {line}", where=str(folder)) from None

    def encode(self, texts: list[str]) -> list[list[str]]:
        if not texts:
            return []
        rows: Sequence[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [self._tokenizer.convert_ids_to_tokens(row) for row in rows]

    def decode(self, pieces: list[list[str]]) -> list[str]:
        rows = [self._tokenizer.convert_tokens_to_ids(row) for row in pieces]
        texts: list[str] = self._tokenizer.batch_decode(
            rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [" ".join(text.split()) for text in texts]

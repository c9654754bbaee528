"""Byte-pair codes with the dictionary of a fairseq model, and the Moses tokeniser around them.

Text is tokenised (Koehn et al. 2007; sacremoses), split by the codes (Sennrich et al. 2016; subword-nmt), and looked up
in the dictionary. Output goes the way back: parts of words are joined, and words are put together as text. Both
packages are part of the extra `fairseq`; they are imported when a text is first encoded or decoded.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from seqkd.errors import ModelError
from seqkd.text.normalize import Normalization, Normalizer
from seqkd.text.vocabulary import BOS_ID, EOS_ID, MARK, PAD_ID, UNK_ID, Side

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")  # they precede a dictionary and are not in its file
CODES, DICTIONARY, MOSES = "vocab.codes", "vocab.dict.txt", "vocab.moses.json"
# The target's files, which are the source's, too, unless a file of its own exists.
CODES_FILES: dict[Side, tuple[str, str, str]] = {
    "source": ("vocab.source.codes", "vocab.source.dict.txt", "vocab.source.moses.json"),
    "target": (CODES, DICTIONARY, MOSES),
}

_UNKNOWN = "\u2047"  # as SentencePiece writes the unknown piece
_VERSION = "#version:"
_END = "</w>"  # the end of a word in a code
_AGAIN = "import the model again, or copy its whole folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class MosesSettings:
    """How text is tokenised before the codes are applied.

    Attributes:
        language: The language of the Moses tokeniser and detokeniser; "" if words are separated by blanks already.
        dash_splits: Whether words are split at dashes (`@-@`).
        escape: Whether quotation marks and other characters become entities (`&quot;`).
    """

    language: str = ""
    dash_splits: bool = True
    escape: bool = True

    def to_bytes(self) -> bytes:
        """Return the contents of the file."""
        return (json.dumps(asdict(self), ensure_ascii=False, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes, path: Path) -> MosesSettings:
        """Read the contents of a file.

        Raises:
            ModelError: The file has other contents.
        """
        kinds = {"language": str, "dash_splits": bool, "escape": bool}
        try:
            values = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"is not JSON: {error}", where=str(path), hint=_AGAIN) from None
        if (
            not isinstance(values, dict)
            or values.keys() != kinds.keys()
            or not all(isinstance(values[name], kind) for name, kind in kinds.items())
        ):
            raise ModelError(
                "does not hold the settings of the Moses tokeniser",
                where=str(path),
                expected=", ".join(field.name for field in fields(cls)),
                hint=_AGAIN,
            )
        return cls(**values)


class CodesVocabulary:
    """Converts text to the ids of a fairseq dictionary by byte-pair codes, and back.

    `encode` never returns a special id other than the unknown piece, whatever the text contains.

    Args:
        contents: The contents of three files: codes of subword-nmt or of fastBPE, a fairseq dict.txt, `MosesSettings`.
        paths: The files, for messages.

    Raises:
        ModelError: A file has other contents, no code fits the dictionary, or a package is not installed.
    """

    bos_id, pad_id, eos_id, unk_id = BOS_ID, PAD_ID, EOS_ID, UNK_ID
    prefix: tuple[int, ...] = ()
    normalization: Normalization = "identity"

    def __init__(self, contents: Sequence[bytes], paths: Sequence[Path]) -> None:
        self.path = paths[1]
        self._files = list(contents)
        digests = "".join(hashlib.sha256(data).hexdigest() for data in contents)
        self.digest = hashlib.sha256(digests.encode()).hexdigest()
        self._codes = parse_codes(contents[0], paths[0])
        self._pieces = [*SPECIALS, *parse_dictionary(contents[1], paths[1])]
        self.size = len(self._pieces)
        self._moses = MosesSettings.parse(contents[2], paths[2])
        self._ids = {piece: index for index, piece in enumerate(self._pieces)}
        if self._ids.keys().isdisjoint(_results(self._codes)):
            raise ModelError(
                f"no code makes a piece of {paths[1]}",
                where=str(paths[0]),
                expected="the byte-pair codes with which the text of the dictionary was split",
            )
        needed = ["subword_nmt", *(["sacremoses"] if self._moses.language else [])]
        if missing := [name for name in needed if find_spec(name) is None]:
            raise ModelError(
                f"its vocabulary needs {' and '.join(missing)}, which is not installed",
                where=str(paths[0]),
                hint="pip install subword-nmt sacremoses",
            )

    @classmethod
    def load(cls, paths: Sequence[Path]) -> CodesVocabulary:
        """Read the three files.

        Raises:
            ModelError: A file is missing; see the class for more.
        """
        return cls([_read(path) for path in paths], paths)

    def files(self, side: Side) -> dict[str, bytes]:
        """Return the contents of the files that store it as the vocabulary of a side, by name."""
        return dict(zip(CODES_FILES[side], self._files, strict=True))

    def normalize(self, texts: list[str]) -> list[str]:
        """Normalise white space only: the tokeniser does all else."""
        return Normalizer(self.normalization).normalize_all(texts)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text."""
        return [[self._find(piece) for piece in self._split(text)] for text in texts]

    def decode(self, ids: list[list[int]]) -> list[str]:
        """Return the text of each list of ids. An unknown piece gives "⁇"; other special ids give no text."""
        return [self._join([index for index in row if index not in (BOS_ID, PAD_ID, EOS_ID)]) for row in ids]

    def join_words(self, texts: list[str]) -> list[str]:
        """Return the texts: they are whole words, because the vocabulary itself splits and joins them."""
        return texts

    def id_of(self, piece: str) -> int | None:
        """Return the id of a piece, or None if there is no such piece."""
        return self._ids.get(piece)

    def piece(self, index: int) -> str:
        """Return the piece with an id."""
        return self._pieces[index]

    def pieces(self) -> list[str]:
        """Return all pieces in the order of their ids."""
        return list(self._pieces)

    def _find(self, piece: str) -> int:
        index = self._ids.get(piece, UNK_ID)
        return index if index > UNK_ID else UNK_ID

    def _split(self, text: str) -> list[str]:
        if self._moses.language:
            text = self._tokenizer.tokenize(
                text, aggressive_dash_splits=self._moses.dash_splits, return_str=True, escape=self._moses.escape
            )
        found: list[str] = self._bpe.segment_tokens(text.split())
        return found

    def _join(self, ids: list[int]) -> str:
        line = " ".join(_UNKNOWN if index == UNK_ID else self._pieces[index] for index in ids)
        words = f"{line} ".replace(f"{MARK} ", "").split()
        return str(self._detokenizer.detokenize(words)) if self._moses.language else " ".join(words)

    @cached_property
    def _bpe(self) -> Any:
        from subword_nmt.apply_bpe import BPE

        return BPE(io.StringIO(self._codes), separator=MARK)

    @cached_property
    def _tokenizer(self) -> Any:
        from sacremoses import MosesTokenizer

        return MosesTokenizer(self._moses.language)

    @cached_property
    def _detokenizer(self) -> Any:
        from sacremoses import MosesDetokenizer

        return MosesDetokenizer(self._moses.language)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the objects of other packages, which are made again when they are needed."""
        return {name: value for name, value in vars(self).items() if name not in ("_bpe", "_tokenizer", "_detokenizer")}


def parse_codes(data: bytes, path: Path) -> str:
    """Read a file of byte-pair codes, and return its text in subword-nmt's format.

    fastBPE writes the same merges with their counts and without a version.

    Raises:
        ModelError: The file is not text, or a line does not contain two pieces.
    """
    lines = _decode(data, path, "byte-pair codes").rstrip("\n").split("\n")
    first = lines[0] if lines[0].startswith(_VERSION) else None
    rows = [line.strip("\r ").split(" ") for line in lines[first is not None :]]
    counted = first is None and all(len(row) == 3 and row[2].isdigit() for row in rows)
    for number, row in enumerate(rows, start=2 if first else 1):
        if len(row) != 2 + counted or not all(row):
            raise ModelError(
                f"{' '.join(row)[:60]!r} is not a byte-pair code",
                where=f"{path}, line {number}",
                expected="two pieces, as subword-nmt writes them, or two pieces and a count, as fastBPE does",
            )
    if counted:
        first = f"{_VERSION} 0.2"  # the end of a word belongs to its last letter
    return "\n".join([*([] if first is None else [first]), *(" ".join(row[:2]) for row in rows)]) + "\n"


def _results(codes: str) -> set[str]:
    """Return the pieces that codes make, as they are written in a dictionary."""
    joined = ("".join(line.split(" ")) for line in codes.splitlines() if not line.startswith(_VERSION))
    return {made.removesuffix(_END) if made.endswith(_END) else made + MARK for made in joined}


def parse_dictionary(data: bytes, path: Path) -> list[str]:
    """Return the symbols of a dict.txt in order. The four special symbols precede them and are not in the file.

    Raises:
        ModelError: The file is not text, a line is not `symbol count`, or a symbol occurs twice.
    """
    symbols: list[str] = []
    seen = set(SPECIALS)
    for number, line in enumerate(_decode(data, path, "a fairseq dict.txt").split("\n"), start=1):
        if not line.strip():
            continue
        entry = line.rstrip().removesuffix(" #fairseq:overwrite")
        symbol, space, count = entry.rpartition(" ")
        where = f"{path}, line {number}"
        if not space or not symbol or not count.lstrip("-").isdigit():
            raise ModelError(f"{line.strip()[:60]!r} is not a dictionary entry", where=where, expected="`symbol count`")
        if symbol in seen:
            raise ModelError(f"the symbol {symbol!r} occurs twice", where=where, expected="each symbol once")
        seen.add(symbol)
        symbols.append(symbol)
    return symbols


def _decode(data: bytes, path: Path, expected: str) -> str:
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ModelError(f"cannot be read: {error}", where=str(path), expected=expected) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"cannot be read: {error.strerror}", where=str(path), expected="a part of a vocabulary", hint=_AGAIN
        ) from None

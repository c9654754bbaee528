"""SentencePiece models whose pieces have the ids of another toolkit's table, as in MarianMT, M2M100, NLLB and mBART.

A map lists the pieces in the order of a model's rows. Ids 0 to 3 are always the begin of sentence, padding, end of
sentence and the unknown piece. `order_ids` gives this order for a toolkit that has other special ids.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import cast

from seqkd.errors import ModelError
from seqkd.text.normalize import Normalizer
from seqkd.text.vocabulary import BOS_ID, EOS_ID, MODELS, PAD_ID, UNK_ID, Side, find_rules, parse_model

MAP = "vocab.map.json"  # the target's, and the source's, too, unless the other file exists
SOURCE_MAP = "vocab.source.map.json"
MAPS: dict[Side, str] = {"source": SOURCE_MAP, "target": MAP}

_SPECIAL = 4  # ids below this one are special
_AGAIN = "import the model again, or copy its whole folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceMap:
    """The ids of pieces, and the pieces that do not come from text.

    Attributes:
        pieces: All pieces by id. The first four are the begin of sentence, padding, end of sentence and the unknown
            piece, whatever their names. Rows of a model that belong to no piece need a name of their own.
        silent: Pieces that text never becomes and that have no text, such as language codes and unused rows. The
            special pieces need not be listed.
        prefix: The pieces that every encoded text starts with, such as the code of the language.
    """

    pieces: tuple[str, ...]
    silent: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """Return the contents of the file. Equal maps have equal bytes."""
        return (json.dumps(asdict(self), ensure_ascii=False, indent=0, sort_keys=True) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes, path: Path) -> PieceMap:
        """Read the contents of a file.

        Raises:
            ModelError: The file is not a map, a piece is listed twice, or `silent` or `prefix` has other pieces.
        """
        try:
            values = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"is not a map of pieces: {error}", where=str(path), hint=_AGAIN) from None
        names = [field.name for field in fields(cls)]
        if (
            not isinstance(values, dict)
            or sorted(values) != sorted(names)
            or not all(isinstance(values[name], list) for name in names)
            or not all(isinstance(piece, str) for name in names for piece in values[name])
        ):
            raise ModelError(
                "is not a map of pieces", where=str(path), expected=f"lists of pieces: {', '.join(names)}", hint=_AGAIN
            )
        found = cls(**{name: tuple(values[name]) for name in names})
        if len(found.pieces) < _SPECIAL or len(set(found.pieces)) < len(found.pieces):
            raise ModelError(
                f"lists {len(found.pieces):,} pieces, of which {len(set(found.pieces)):,} differ",
                where=str(path),
                expected="the four special pieces first, and each piece once",
                hint=_AGAIN,
            )
        if unknown := sorted({*found.silent, *found.prefix} - set(found.pieces)):
            raise ModelError(
                f"names pieces that it does not list: {', '.join(unknown[:5])}", where=str(path), hint=_AGAIN
            )
        return found


class MappedVocabulary:
    """Converts text to ids by a SentencePiece model and a map of its pieces, and back.

    A piece of the model that the map does not list becomes the unknown piece. `encode` never returns another special or
    silent piece except the prefix, whatever the text contains.

    Args:
        model: A file with a SentencePiece model. Its own ids and special pieces do not matter.
        path: The file with the map.

    Raises:
        ModelError: A file is missing, or has other contents.
    """

    bos_id, pad_id, eos_id, unk_id = BOS_ID, PAD_ID, EOS_ID, UNK_ID

    def __init__(self, model: Path, path: Path) -> None:
        files = [_read(model), _read(path)]
        self.path = path
        self._model = model
        self.digest = hashlib.sha256("".join(hashlib.sha256(data).hexdigest() for data in files).encode()).hexdigest()
        self._processor, parsed = parse_model(files[0], model)
        self.normalization = find_rules(parsed)
        self._map = PieceMap.parse(files[1], path)
        self.size = len(self._map.pieces)
        self._ids = {piece: index for index, piece in enumerate(self._map.pieces)}
        silent = {self._ids[piece] for piece in self._map.silent} | set(range(_SPECIAL))
        count = int(self._processor.get_piece_size())
        own: list[str] = self._processor.id_to_piece(list(range(count)))
        found = [self._ids.get(piece, UNK_ID) for piece in own]
        unknown = int(self._processor.unk_id())
        self._of_own = [UNK_ID if index in silent else index for index in found]  # ids by those of the model
        # By id: the piece that is decoded, or None for pieces that have no text.
        self._decoded: list[str | None] = [
            None if index in silent else piece for index, piece in enumerate(self._map.pieces)
        ]
        self._decoded[UNK_ID] = own[unknown]
        self.prefix = tuple(self._ids[piece] for piece in self._map.prefix)

    def files(self, side: Side) -> dict[str, bytes]:
        """Return the contents of the files that store it as the vocabulary of a side, by name."""
        return {MODELS[side]: self._model.read_bytes(), MAPS[side]: self.path.read_bytes()}

    def normalize(self, texts: list[str]) -> list[str]:
        """Normalise texts by the rules of the SentencePiece model."""
        return Normalizer(self.normalization).normalize_all(texts)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text, the prefix first."""
        found = cast("list[list[int]]", self._processor.encode(texts)) if texts else []
        prefix, table = list(self.prefix), self._of_own
        return [[*prefix, *(table[index] for index in row)] for row in found]

    def decode(self, ids: list[list[int]]) -> list[str]:
        """Return the text of each list of ids. An unknown piece gives " ⁇ "; silent and special ids give no text."""
        rows = [[piece for index in row if (piece := self._decoded[index]) is not None] for row in ids]
        return [cast("str", self._processor.decode(row)) if row else "" for row in rows]

    def join_words(self, texts: list[str]) -> list[str]:
        """Return the texts: SentencePiece does not mark parts of words."""
        return texts

    def id_of(self, piece: str) -> int | None:
        """Return the id of a piece, or None if there is no such piece."""
        return self._ids.get(piece)

    def piece(self, index: int) -> str:
        """Return the piece with an id."""
        return self._map.pieces[index]

    def pieces(self) -> list[str]:
        """Return all pieces in the order of their ids."""
        return list(self._map.pieces)


def order_ids(size: int, *, pad: int, eos: int, unk: int | None = None, bos: int | None = None) -> list[int | None]:
    """Return a toolkit's id for each id of seqkd: the four special ones first, and then all others in their order.

    A toolkit without a piece for the begin of sentence, or without an unknown piece, has no id for it (None). The table
    of a model then gets a further row, which the model must never write.

    Args:
        size: Number of the toolkit's ids.
        pad: Its id of padding.
        eos: Its id of the end of sentence.
        unk: Its id of the unknown piece.
        bos: Its id of the begin of sentence.

    Raises:
        ValueError: Two special ids are equal, or one is not below `size`.
    """
    special = [bos, pad, eos, unk]
    taken = {index for index in special if index is not None}
    if len(taken) < sum(index is not None for index in special) or not all(0 <= index < size for index in taken):
        raise ValueError(f"the special ids (bos, pad, eos, unk) are {tuple(special)} in a table of {size:,} rows")
    return [*special, *(index for index in range(size) if index not in taken)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"cannot be read: {error.strerror}", where=str(path), expected="a part of a vocabulary", hint=_AGAIN
        ) from None

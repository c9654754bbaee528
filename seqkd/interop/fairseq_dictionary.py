"""fairseq dictionaries (dict.txt) and SentencePiece vocabularies with the same ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

from seqkd.errors import ModelError
from seqkd.text.codes import SPECIALS, parse_dictionary
from seqkd.text.vocabulary import MARK

schema: Any = sentencepiece_model_pb2  # built at import time from a protobuf description, without types to check

# The names of the languages in exported file names.
SOURCE_LANGUAGE, TARGET_LANGUAGE = "src", "tgt"

_SPACE = "▁"
_BYTES = 256
# The largest share of entries that begin with `▁` in a dictionary of words. SentencePiece models have a tenth or more.
_FEW_PIECES = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class DictionaryVocabulary:
    """A SentencePiece model whose ids are those of a fairseq dictionary.

    Attributes:
        model: The serialised model.
        matched: Dictionary entries that are pieces of the given SentencePiece model.
        unmatched: Entries that the SentencePiece model lacks. Text never contains them, but the model may write them.
        left_out: Pieces that the dictionary lacks. Text is segmented without them.
        unreachable: Entries that a BPE model can no longer build, because pieces of their merges were left out.
        bytes_off: Whether byte fallback was turned off, because the dictionary lacks some of the 256 bytes.
        words: Whether there is no SentencePiece model, so that text must be segmented beforehand.
        marked: Entries that end with subword-nmt's mark for a piece that does not end a word.
    """

    model: bytes
    matched: int
    unmatched: int
    left_out: int = 0
    unreachable: int = 0
    bytes_off: bool = False
    words: bool = False
    marked: int = 0

    def notes(self, name: str) -> list[str]:
        """Return notes on the vocabulary for the user, one line each."""
        lines = [f"{name}: {len(SPECIALS) + self.matched + self.unmatched:,} pieces, ids as in the dictionary"]
        if self.marked:
            lines.append(
                f"{name}: {self.marked:,} entries end with {MARK}: segment all text with the subword-nmt codes of the "
                f"training text; pieces with {MARK} are joined in outputs and references"
            )
        elif self.words:
            lines.append(f"{name}: the pieces are whole words: tokenise all text as the training text was tokenised")
        if self.unmatched:
            lines.append(
                f"{name}: {self.unmatched:,} dictionary entries are not SentencePiece pieces and never occur in text"
            )
        if self.left_out:
            lines.append(f"{name}: {self.left_out:,} SentencePiece pieces are not in the dictionary and were left out")
        if self.unreachable:
            lines.append(
                f"{name}: {self.unreachable:,} entries never occur in text, because their merges were left out"
            )
        if self.bytes_off:
            lines.append(f"{name}: byte fallback is off, because the dictionary lacks some bytes")
        return lines


def read_dictionary(path: str | Path) -> list[str]:
    """Return the symbols of a dict.txt in order. The four special symbols precede them and are not in the file.

    Raises:
        ModelError: The file cannot be read, a line is not `symbol count`, or a symbol occurs twice.
    """
    path = Path(path)
    try:
        return parse_dictionary(path.read_bytes(), path)
    except OSError as error:
        raise ModelError(f"cannot be read: {error}", where=str(path), expected="a fairseq dict.txt") from None


def dictionary_name(language: str) -> str:
    """Return the name of the dictionary of a language, as fairseq looks for it."""
    return f"dict.{language}.txt"


def dictionary_text(vocabulary: str | Path) -> str:
    """Return the text of a dict.txt with the pieces of a vocabulary of seqkd. fairseq gives them the same ids.

    Raises:
        ModelError: A piece cannot be written in a dict.txt.
    """
    vocabulary = Path(vocabulary)
    model = _parse(vocabulary)
    words = model.trainer_spec.model_type == schema.TrainerSpec.WORD
    lines = []
    for index, piece in enumerate(model.pieces):
        if index < len(SPECIALS):
            continue
        # Whole-word vocabularies mark the start of each word; fairseq's words have no mark.
        symbol = piece.piece.removeprefix(_SPACE) if words else piece.piece
        if not symbol or any(mark in symbol for mark in "\n\r"):
            raise ModelError(f"the piece {piece.piece!r} cannot be written in a dict.txt", where=str(vocabulary))
        lines.append(f"{symbol} 1\n")
    return "".join(lines)


def word_vocabulary(symbols: Sequence[str]) -> DictionaryVocabulary:
    """Build a vocabulary of whole words, for text that is already segmented into the dictionary's symbols.

    Raises:
        ModelError: The symbols are SentencePiece's. Text would need SentencePiece's marks for blanks, which
            normalisation replaces with blanks.
    """
    pieces = sum(symbol.startswith(_SPACE) for symbol in symbols)
    if _SPACE in symbols or pieces > _FEW_PIECES * len(symbols):
        raise ModelError(
            f"{pieces:,} of {len(symbols):,} symbols of the dictionary begin with {_SPACE}: they are SentencePiece's",
            expected="the SentencePiece model that segmented the training text",
            hint="give it with --sentencepiece (and --source-sentencepiece, if the source has another one)",
        )
    model = schema.ModelProto()
    _head(model, SPECIALS)
    for symbol in symbols:
        model.pieces.add(piece=_SPACE + symbol, score=0.0)
    spec = model.trainer_spec
    spec.model_type = schema.TrainerSpec.WORD
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = True
    model.normalizer_spec.escape_whitespaces = True
    marked = sum(symbol.endswith(MARK) for symbol in symbols)
    return DictionaryVocabulary(model=_tail(model), matched=len(symbols), unmatched=0, words=True, marked=marked)


def piece_vocabulary(symbols: Sequence[str], sentencepiece: str | Path) -> DictionaryVocabulary:
    """Build a SentencePiece model whose pieces are in the order of a dictionary.

    Raises:
        ModelError: The file is not a SentencePiece model, or shares no piece with the dictionary.
    """
    sentencepiece = Path(sentencepiece)
    old = _parse(sentencepiece)
    kinds = schema.ModelProto.SentencePiece
    pieces = {piece.piece: piece for piece in old.pieces}
    special = {piece.piece for piece in old.pieces if piece.type in (kinds.CONTROL, kinds.UNKNOWN)}
    matched = [symbol for symbol in symbols if symbol in pieces]
    if not matched:
        raise ModelError(
            "none of its pieces is in the fairseq dictionary",
            where=str(sentencepiece),
            expected="the SentencePiece model that the checkpoint's training text was segmented with",
            hint="do not give a SentencePiece model if the text was segmented in another way",
        )
    byte_count = sum(pieces[symbol].type == kinds.BYTE for symbol in matched)
    bytes_off = bool(old.trainer_spec.byte_fallback) and byte_count < _BYTES

    model = schema.ModelProto()
    _head(model, SPECIALS)
    for symbol in symbols:
        if symbol not in pieces:
            model.pieces.add(piece=symbol, score=0.0, type=kinds.UNUSED)
        else:
            kind = pieces[symbol].type
            unused = kind == kinds.UNKNOWN or (kind == kinds.BYTE and bytes_off)
            model.pieces.add(piece=symbol, score=pieces[symbol].score, type=kinds.UNUSED if unused else kind)
    model.trainer_spec.CopyFrom(old.trainer_spec)
    model.normalizer_spec.CopyFrom(old.normalizer_spec)
    if old.HasField("denormalizer_spec"):
        model.denormalizer_spec.CopyFrom(old.denormalizer_spec)
    if bytes_off:
        model.trainer_spec.byte_fallback = False
    bpe = old.trainer_spec.model_type == schema.TrainerSpec.BPE
    return DictionaryVocabulary(
        model=_tail(model),
        matched=len(matched),
        unmatched=len(symbols) - len(matched),
        left_out=len(pieces.keys() - set(symbols) - special - set(SPECIALS)),
        unreachable=_unreachable([s for s in matched if pieces[s].type == kinds.NORMAL]) if bpe else 0,
        bytes_off=bytes_off,
    )


def _unreachable(pieces: Sequence[str]) -> int:
    """Count the pieces that no chain of merges within `pieces` builds. Single characters need no merges."""
    reachable: set[str] = set()
    for piece in sorted(pieces, key=len):
        halves = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        if len(piece) == 1 or any(all(len(half) == 1 or half in reachable for half in pair) for pair in halves):
            reachable.add(piece)
    return len(set(pieces)) - len(reachable)


def _parse(path: Path) -> Any:
    model = schema.ModelProto()
    try:
        data = path.read_bytes()
        SentencePieceProcessor(model_proto=data)
        model.ParseFromString(data)
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise ModelError(what, where=str(path), expected="a SentencePiece model", hint="check the path") from None
    except RuntimeError:
        raise ModelError("not a SentencePiece model", where=str(path)) from None
    return model


def _head(model: Any, specials: Sequence[str]) -> None:
    kinds = schema.ModelProto.SentencePiece
    for symbol in specials:
        kind = kinds.UNKNOWN if symbol == "<unk>" else kinds.CONTROL
        model.pieces.add(piece=symbol, score=0.0, type=kind)


def _tail(model: schema.ModelProto) -> bytes:
    spec = model.trainer_spec
    spec.bos_id, spec.pad_id, spec.eos_id, spec.unk_id = range(4)
    spec.bos_piece, spec.pad_piece, spec.eos_piece, spec.unk_piece = SPECIALS
    spec.vocab_size = len(model.pieces)
    return bytes(model.SerializeToString(deterministic=True))

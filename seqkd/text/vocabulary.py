"""The SentencePiece vocabulary."""

from __future__ import annotations

import hashlib
import io
import math
import os
import random
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar, cast

import sentencepiece

from seqkd.errors import InputError, ModelError, WorkError

BOS_ID, PAD_ID, EOS_ID, UNK_ID = 0, 1, 2, 3

SAMPLE_SENTENCES = 500_000  # more adds training time and memory, and hardly changes the pieces

_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
_BYTES = 256
_QUIET = 2  # SentencePiece's log level for errors only

T = TypeVar("T")


class Vocabulary:
    """Text to piece ids and back.

    Ids 0 to 3 are the begin of sentence, padding, end of sentence and unknown pieces. `encode` never gives the first
    three, whatever the text holds.

    Args:
        model: A serialised SentencePiece model.
        path: Where it was read from.

    Raises:
        ModelError: The bytes are no SentencePiece model, or its special ids are others.
    """

    bos_id, pad_id, eos_id, unk_id = BOS_ID, PAD_ID, EOS_ID, UNK_ID

    def __init__(self, model: bytes, path: Path) -> None:
        self.path = path
        self.digest = hashlib.sha256(model).hexdigest()
        try:
            if not model:  # SentencePiece takes no bytes as "no model yet" and fails later
                raise RuntimeError("empty file")
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            found = tuple(
                int(index)
                for index in (
                    self._processor.bos_id(),
                    self._processor.pad_id(),
                    self._processor.eos_id(),
                    self._processor.unk_id(),
                )
            )
            self.size = int(self._processor.get_piece_size())
            self.pieces()
        except (RuntimeError, UnicodeDecodeError):  # the second: a piece that is no text
            raise ModelError("not a SentencePiece model", where=str(path)) from None
        if found != (BOS_ID, PAD_ID, EOS_ID, UNK_ID):
            raise ModelError(
                f"the special ids (bos, pad, eos, unk) are {found}",
                where=str(path),
                expected=str((BOS_ID, PAD_ID, EOS_ID, UNK_ID)),
                hint="train the vocabulary with `seqkd prepare`",
            )

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read a vocabulary.

        Raises:
            ModelError: The file is missing or no vocabulary.
        """
        path = Path(path)
        try:
            return cls(path.read_bytes(), path)
        except OSError as error:
            raise ModelError(
                f"cannot be read: {error.strerror}",
                where=str(path),
                expected="a SentencePiece model",
                hint="make its folder again with the stage that wrote it, or check the path",
            ) from None

    @classmethod
    def train(
        cls,
        sentences: Iterable[str],
        out: Path,
        *,
        size: int,
        type: Literal["unigram", "bpe"],
        byte_fallback: bool,
        character_coverage: float,
        symbols: tuple[str, ...],
        seed: int,
        sample_sentences: int = SAMPLE_SENTENCES,
    ) -> Vocabulary:
        """Train a vocabulary and write it; the same sentences and settings give the same bytes.

        Unigram: Kudo 2018, "Subword Regularization"; BPE: Sennrich et al. 2016, "Neural Machine Translation of Rare
        Words with Subword Units". One thread, because the order of sums changes the pieces.

        Args:
            sentences: Text; read once, a sample is held.
            out: The file to write.
            size: Number of pieces, special ones included.
            type: The algorithm.
            byte_fallback: Whether unknown characters become bytes instead of the unknown piece; takes 256 pieces.
            character_coverage: Share of the characters that get a piece.
            symbols: Pieces that are never split.
            seed: Chooses the sample, where there are more sentences than `sample_sentences`.
            sample_sentences: Most sentences to train on.

        Raises:
            InputError: The size does not fit the text, there is no text, or a symbol cannot be one.
        """
        check_symbols(symbols)
        sample = reservoir(sentences, sample_sentences, seed)
        if not any(sentence.strip() for sentence in sample):
            raise InputError("empty corpus: there is no text to train a vocabulary on")
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sample),
                model_writer=model,
                vocab_size=size,
                model_type=type,
                byte_fallback=byte_fallback,
                character_coverage=character_coverage,
                user_defined_symbols=list(symbols),
                normalization_rule_name="nmt_nfkc",
                bos_id=BOS_ID,
                pad_id=PAD_ID,
                eos_id=EOS_ID,
                unk_id=UNK_ID,
                bos_piece=_SPECIALS[BOS_ID],
                pad_piece=_SPECIALS[PAD_ID],
                eos_piece=_SPECIALS[EOS_ID],
                unk_piece=_SPECIALS[UNK_ID],
                num_threads=1,
                minloglevel=_QUIET,
            )
        except RuntimeError as error:
            raise _explained(str(error), size, byte_fallback) from None
        _write(out, model.getvalue())
        return cls(model.getvalue(), out)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, without special ids but the unknown piece."""
        return cast("list[list[int]]", self._processor.encode(texts)) if texts else []

    def decode(self, ids: list[list[int]]) -> list[str]:
        """Text of each list of ids. Begin, padding and end leave no trace; an unknown piece reads " ⁇ "."""
        return cast("list[str]", self._processor.decode(ids)) if ids else []

    def id_of(self, piece: str) -> int | None:
        """The id of a piece; None if there is no such piece."""
        index = int(self._processor.piece_to_id(piece))
        return index if self.piece(index) == piece else None

    def piece(self, index: int) -> str:
        """The piece with an id; "▁" stands for a space."""
        return self._processor.id_to_piece(index)

    def pieces(self) -> list[str]:
        """All pieces in the order of their ids."""
        return self._processor.id_to_piece(list(range(self.size)))


def reservoir(items: Iterable[T], limit: int, seed: int) -> list[T]:
    """Choose `limit` items evenly at random in one pass; all of them, in order, if there are no more.

    Algorithm L of Li 1994, "Reservoir-Sampling Algorithms of Time Complexity O(n(1 + log(N/n)))".
    """
    rest = iter(items)
    chosen = list(islice(rest, limit))
    draw = random.Random(seed).random
    weight = math.exp(math.log(1.0 - draw()) / limit)
    skip = int(math.log(1.0 - draw()) / math.log1p(-weight))
    for item in rest:
        if skip:
            skip -= 1
            continue
        chosen[int(draw() * limit)] = item
        weight *= math.exp(math.log(1.0 - draw()) / limit)
        skip = int(math.log(1.0 - draw()) / math.log1p(-weight))
    return chosen


def check_symbols(symbols: tuple[str, ...]) -> None:
    """See that symbols can be pieces of their own.

    Raises:
        InputError: One is empty, holds a space, is given twice, or is a special piece.
    """
    for symbol in symbols:
        if not symbol or any(character.isspace() for character in symbol):
            raise InputError(f"the symbol {symbol!r} is empty or holds a space", where="vocabulary.symbols")
        if symbol in _SPECIALS:
            raise InputError(f"the symbol {symbol!r} is one of the special pieces", where="vocabulary.symbols")
    repeated = sorted({symbol for symbol in symbols if symbols.count(symbol) > 1})
    if repeated:
        raise InputError(f"symbols given twice: {', '.join(repeated)}", where="vocabulary.symbols")


def _explained(message: str, size: int, byte_fallback: bool) -> InputError:
    """Turn SentencePiece's message into one that says what to change."""
    where = "vocabulary.size"
    too_large = re.search(r"value <= (\d+)", message)
    if too_large:
        largest = int(too_large[1])
        return InputError(
            f"{size:,} pieces are more than this text supports",
            where=where,
            expected=f"at most {largest:,}",
            hint=f"set size = {largest} or less, or give more text",
        )
    too_small = re.search(r"(\d+) vs (\d+)", message)
    if too_small and "required_chars" in message:
        hint = f"set size = {too_small[2]} or more, or lower character_coverage"
        if byte_fallback:
            hint += f"; byte_fallback = false saves {_BYTES} pieces"
        return InputError(
            f"{size:,} pieces are too few: every character of the text needs one",
            where=where,
            expected=f"at least {int(too_small[2]):,}",
            hint=hint,
        )
    return InputError(f"SentencePiece cannot train a vocabulary on this text: {message}", where="vocabulary")


def _write(path: Path, model: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(model)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise WorkError(f"cannot be written: {error.strerror}", where=str(path)) from None

"""The SentencePiece vocabulary."""

from __future__ import annotations

import hashlib
import io
import math
import os
import random
import re
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from seqkd.errors import InputError, ModelError, WorkError
from seqkd.progress import say
from seqkd.text.normalize import NORMALIZATIONS, Normalization, Normalizer

schema: Any = sentencepiece_model_pb2  # made at import time from a protobuf description: no types to check

BOS_ID, PAD_ID, EOS_ID, UNK_ID = 0, 1, 2, 3

SAMPLE_SENTENCES = 500_000  # more adds training time and memory, and hardly changes the pieces

# The limits of SentencePiece's trainer.
LEAST_COVERAGE = 0.98
LINE_BYTES = 4192  # its own default for the longest line that it learns from
LEAST_LINE_BYTES, MOST_LINE_BYTES = 10, 1 << 30

_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
_BYTES = 256
_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
_RESERVED = "\u2585"  # the trainer's own mark for unknown characters: it leaves out lines that hold one
_QUIET = 2  # SentencePiece's log level for errors only

MARK = "@@"  # of subword-nmt, at the end of a piece that its word goes on after

T = TypeVar("T")


class Vocabulary:
    """Text to piece ids and back.

    Ids 0 to 3 are the begin of sentence, padding, end of sentence and unknown pieces. `encode` never gives the first
    three nor a tag, whatever the text holds.

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
            parsed = schema.ModelProto.FromString(model)
        except (RuntimeError, UnicodeDecodeError):  # the second: a piece that is no text
            raise ModelError("not a SentencePiece model", where=str(path)) from None
        if found != (BOS_ID, PAD_ID, EOS_ID, UNK_ID):
            raise ModelError(
                f"the special ids (bos, pad, eos, unk) are {found}",
                where=str(path),
                expected=str((BOS_ID, PAD_ID, EOS_ID, UNK_ID)),
                hint="train the vocabulary with `seqkd prepare`",
            )
        # A model of another toolkit may have rules of its own; `encode` applies them.
        rules = parsed.normalizer_spec.name
        self.normalization: Normalization = rules if rules in NORMALIZATIONS else "identity"
        words = parsed.trainer_spec.model_type == schema.TrainerSpec.WORD
        self._marked = words and any(piece.endswith(MARK) for piece in self.pieces())

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
        tags: tuple[str, ...] = (),
        normalization: Normalization = "nmt_nfkc",
        max_sentence_length: int = LINE_BYTES,
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
            tags: Pieces that `encode` never gives, whatever the text holds: they are put into a row by their ids.
            normalization: The rules that text is normalised by; they are stored in the vocabulary.
            max_sentence_length: Longest line to learn from, in bytes of UTF-8. Longer ones are counted and left out.
            sample_sentences: Most sentences to train on.

        Raises:
            InputError: The size does not fit the text, there is no text to learn from, or a symbol cannot be one.
        """
        if problems := symbol_problems(symbols, tags, byte_fallback=byte_fallback, normalization=normalization):
            raise InputError("; ".join(problems), where="vocabulary")
        sample = reservoir(sentences, sample_sentences, seed)
        if not any(sentence.strip() for sentence in sample):
            raise InputError("empty corpus: there is no text to train a vocabulary on")
        if normalization != "nmt_nfkc":
            sample = Normalizer(normalization).many(sample)
        sample = _learnable(sample, max_sentence_length)
        # The model records the options that it is given: without these its bytes are those of earlier versions.
        unusual: dict[str, Any] = {"control_symbols": list(tags)} if tags else {}
        if max_sentence_length != LINE_BYTES:
            unusual["max_sentence_length"] = max_sentence_length
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
                normalization_rule_name="identity" if normalization == "nfc" else normalization,
                **unusual,
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
        written = model.getvalue()
        if normalization == "nfc":  # SentencePiece has no such rules: text comes normalised, and the name says how
            named = schema.ModelProto.FromString(written)
            named.normalizer_spec.name = normalization
            written = named.SerializeToString(deterministic=True)
        _write(out, written)
        return cls(written, out)

    def normalize(self, texts: list[str]) -> list[str]:
        """Normalise texts by the rules that the vocabulary was trained with."""
        return Normalizer(self.normalization).many(texts)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, without special ids but the unknown piece."""
        return cast("list[list[int]]", self._processor.encode(texts)) if texts else []

    def decode(self, ids: list[list[int]]) -> list[str]:
        """Text of each list of ids. Begin, padding and end leave no trace; an unknown piece reads " ⁇ "."""
        return self.joined(cast("list[str]", self._processor.decode(ids)) if ids else [])

    def joined(self, texts: list[str]) -> list[str]:
        """Texts with the parts of words put together that subword-nmt's marks (`Wör@@ ter`) keep apart.

        Only vocabularies whose pieces have such marks know them; others leave texts as they are.
        """
        if not self._marked:
            return texts
        return [f"{text} ".replace(f"{MARK} ", "").strip() for text in texts]

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


def symbol_problems(
    symbols: tuple[str, ...], tags: tuple[str, ...], *, byte_fallback: bool, normalization: Normalization
) -> list[str]:
    """Why symbols and tags cannot be pieces of their own, a line for each problem; nothing if they can.

    Args:
        symbols: Pieces that text holds.
        tags: Pieces that no text holds.
        byte_fallback: Whether the vocabulary has a piece for each byte.
        normalization: The rules that text is normalised by.
    """
    problems = []
    normalizer = Normalizer(normalization)
    named = [*(("symbol", symbol) for symbol in symbols), *(("tag", tag) for tag in tags)]
    for kind, text in dict.fromkeys(named):
        if not text or any(character.isspace() for character in text):
            problems.append(f"the {kind} {text!r} is empty or holds a space")
        elif text in _SPECIALS:
            problems.append(f"the {kind} {text!r} is one of the special pieces")
        elif byte_fallback and _BYTE_PIECE.fullmatch(text):
            problems.append(f"the {kind} {text!r} is one of the pieces of byte_fallback")
        elif kind == "symbol" and normalizer(text) != text:
            problems.append(
                f"the symbol {text!r} never occurs in text: normalization {normalization!r} makes it "
                f"{normalizer(text)!r}"
            )
    repeated = sorted(text for text, times in Counter(text for _, text in named).items() if times > 1)
    if repeated:
        problems.append(f"symbols or tags given twice: {', '.join(repeated)}")
    return problems


def least_size(symbols: tuple[str, ...], tags: tuple[str, ...], *, byte_fallback: bool) -> int:
    """The least number of pieces that leaves one for text, beside special ones, symbols, tags and bytes."""
    return len(_SPECIALS) + len(symbols) + len(tags) + _BYTES * byte_fallback + 1


def _learnable(sample: list[str], limit: int) -> list[str]:
    """The lines that SentencePiece's trainer takes; it would leave the others out without a word.

    Raises:
        InputError: It takes none.
    """
    usable = [line for line in sample if len(line) <= limit and len(line.encode()) <= limit]
    long = len(sample) - len(usable)
    usable = [line for line in usable if _RESERVED not in line]
    reserved = len(sample) - long - len(usable)
    reasons = [f"{long:,} are longer than {limit:,} bytes"] if long else []
    reasons += [f"{reserved:,} hold the character {_RESERVED} (U+2585), which the trainer needs"] if reserved else []
    if not any(line.strip() for line in usable):
        raise InputError(
            f"there is no text to train a vocabulary on: of {len(sample):,} lines {' and '.join(reasons)}",
            where="vocabulary",
            expected=f"a sentence a line, of at most {limit:,} bytes",
            hint=f"split the text into sentences, or set max_sentence_length (at most {MOST_LINE_BYTES:,})",
        )
    if reasons:
        say(
            f"vocabulary: SentencePiece learns nothing from {long + reserved:,} of {len(sample):,} lines: "
            f"{' and '.join(reasons)}; max_sentence_length is the limit"
        )
    return usable


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

"""SentencePiece vocabularies."""

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

schema: Any = sentencepiece_model_pb2  # generated at import time, so it has no static types

BOS_ID, PAD_ID, EOS_ID, UNK_ID = 0, 1, 2, 3

Side = Literal["source", "target"]
VOCABULARY = "vocab.model"  # the target's, and the source's, too, unless the other file exists
SOURCE_VOCABULARY = "vocab.source.model"
MODELS: dict[Side, str] = {"source": SOURCE_VOCABULARY, "target": VOCABULARY}

SAMPLE_SENTENCES = 500_000  # more take time and memory, and hardly change the pieces

# The limits of the SentencePiece trainer.
LEAST_COVERAGE = 0.98
LINE_BYTES = 4192  # its default limit for the lines that it learns from
LEAST_LINE_BYTES, MOST_LINE_BYTES = 10, 1 << 30

_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
_BYTES = 256
_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
_RESERVED = "\u2585"  # the trainer's mark for unknown characters; it ignores lines that contain it
_QUIET = 2  # the log level at which SentencePiece prints errors only

MARK = "@@"  # subword-nmt's mark at the end of a piece that does not end its word

T = TypeVar("T")


class Vocabulary:
    """Converts text to piece ids and back.

    Ids 0 to 3 are the begin of sentence, padding, end of sentence and unknown pieces. `encode` never returns one of the
    first three or a tag, whatever the text contains.

    Args:
        model: A serialised SentencePiece model.
        path: The file that it was read from.

    Raises:
        ModelError: The bytes are not a SentencePiece model, or its special ids differ.
    """

    bos_id, pad_id, eos_id, unk_id = BOS_ID, PAD_ID, EOS_ID, UNK_ID
    prefix: tuple[int, ...] = ()  # no piece stands before every text

    def __init__(self, model: bytes, path: Path) -> None:
        self.path = path
        self.digest = hashlib.sha256(model).hexdigest()
        self._processor, parsed = parse_model(model, path)
        self.size = int(self._processor.get_piece_size())
        found = tuple(
            int(index)
            for index in (
                self._processor.bos_id(),
                self._processor.pad_id(),
                self._processor.eos_id(),
                self._processor.unk_id(),
            )
        )
        if found != (BOS_ID, PAD_ID, EOS_ID, UNK_ID):
            raise ModelError(
                f"the special ids (bos, pad, eos, unk) are {found}",
                where=str(path),
                expected=str((BOS_ID, PAD_ID, EOS_ID, UNK_ID)),
                hint="train the vocabulary with `seqkd prepare`",
            )
        self.normalization = find_rules(parsed)
        words = parsed.trainer_spec.model_type == schema.TrainerSpec.WORD
        self._marked = words and any(piece.endswith(MARK) for piece in self.pieces())

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read a vocabulary.

        Raises:
            ModelError: The file is missing or is not a vocabulary.
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
        """Train a vocabulary and write it. The same sentences and settings give the same bytes.

        Unigram: Kudo 2018, "Subword Regularization"; BPE: Sennrich et al. 2016, "Neural Machine Translation of Rare
        Words with Subword Units". The trainer runs on one thread, because the order of sums changes the pieces.

        Args:
            sentences: The training text. It is read once, and a sample is held in memory.
            out: The file to write.
            size: Number of pieces, special ones included.
            type: The algorithm.
            byte_fallback: Whether unknown characters become bytes instead of the unknown piece, for which 256 pieces
                are reserved.
            character_coverage: Share of the characters that get a piece.
            symbols: Pieces that are never split.
            seed: Seed of the sample if there are more sentences than `sample_sentences`.
            tags: Pieces that `encode` never returns, whatever the text contains. They are put into rows by their ids.
            normalization: The rules of normalisation, which are stored in the vocabulary.
            max_sentence_length: Longest line to learn from, in bytes of UTF-8. Longer lines are counted and left out.
            sample_sentences: Largest number of sentences to train on.

        Raises:
            InputError: The size does not fit the text, there is no text to learn from, or a symbol is invalid.
        """
        if problems := find_symbol_problems(symbols, tags, byte_fallback=byte_fallback, normalization=normalization):
            raise InputError("; ".join(problems), where="vocabulary")
        sample = sample_reservoir(sentences, sample_sentences, seed)
        if not any(sentence.strip() for sentence in sample):
            raise InputError("the corpus is empty: there is no text to train a vocabulary on")
        if normalization != "nmt_nfkc":
            sample = Normalizer(normalization).normalize_all(sample)
        sample = _select_lines(sample, max_sentence_length)
        # The model records its options. Options with default values are left out, so that its bytes equal those of
        # earlier versions.
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
            raise _explain(str(error), size, byte_fallback) from None
        written = model.getvalue()
        if (
            normalization == "nfc"
        ):  # SentencePiece has no such rules: the text is normalised before, and the name records it
            named = schema.ModelProto.FromString(written)
            named.normalizer_spec.name = normalization
            written = named.SerializeToString(deterministic=True)
        _write(out, written)
        return cls(written, out)

    def files(self, side: Side) -> dict[str, bytes]:
        """Return the contents of the file that stores it as the vocabulary of a side, by name."""
        return {MODELS[side]: self.path.read_bytes()}

    def normalize(self, texts: list[str]) -> list[str]:
        """Normalise texts by the rules that the vocabulary was trained with."""
        return Normalizer(self.normalization).normalize_all(texts)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text, without special ids other than the unknown piece."""
        return cast("list[list[int]]", self._processor.encode(texts)) if texts else []

    def decode(self, ids: list[list[int]]) -> list[str]:
        """Return the text of each list of ids. An unknown piece gives " ⁇ "; other special ids give no text."""
        return self.join_words(cast("list[str]", self._processor.decode(ids)) if ids else [])

    def join_words(self, texts: list[str]) -> list[str]:
        """Join the parts of words that subword-nmt has marked (`Wör@@ ter`).

        Vocabularies without such marks return the texts unchanged.
        """
        if not self._marked:
            return texts
        return [f"{text} ".replace(f"{MARK} ", "").strip() for text in texts]

    def id_of(self, piece: str) -> int | None:
        """Return the id of a piece, or None if there is no such piece."""
        index = int(self._processor.piece_to_id(piece))
        return index if self.piece(index) == piece else None

    def piece(self, index: int) -> str:
        """Return the piece with an id. "▁" stands for a space."""
        return self._processor.id_to_piece(index)

    def pieces(self) -> list[str]:
        """Return all pieces in the order of their ids."""
        return self._processor.id_to_piece(list(range(self.size)))


def parse_model(model: bytes, path: Path) -> tuple[sentencepiece.SentencePieceProcessor, Any]:
    """Read a serialised SentencePiece model.

    Returns:
        The processor and the parsed model (`ModelProto`).

    Raises:
        ModelError: The bytes are not a SentencePiece model.
    """
    try:
        if not model:  # SentencePiece accepts zero bytes as "no model yet" and fails later
            raise RuntimeError("empty file")
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        processor.id_to_piece(list(range(processor.get_piece_size())))
        return processor, schema.ModelProto.FromString(model)
    except (RuntimeError, UnicodeDecodeError):  # UnicodeDecodeError: a piece is not text
        raise ModelError("is not a SentencePiece model", where=str(path)) from None


def find_rules(parsed: Any) -> Normalization:
    """Return the rules of normalisation of a SentencePiece model.

    A model of another toolkit may have its own rules. They are applied by `encode`, and the text itself is not changed.
    """
    rules = parsed.normalizer_spec.name
    return rules if rules in NORMALIZATIONS else "identity"


def sample_reservoir(items: Iterable[T], limit: int, seed: int) -> list[T]:
    """Draw `limit` items uniformly in one pass. If there are no more items, all are returned in order.

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


def find_symbol_problems(
    symbols: tuple[str, ...], tags: tuple[str, ...], *, byte_fallback: bool, normalization: Normalization
) -> list[str]:
    """List the reasons why symbols and tags cannot be pieces, one line each; empty if they can.

    Args:
        symbols: Pieces that can occur in text.
        tags: Pieces that never occur in text.
        byte_fallback: Whether the vocabulary has a piece for each byte.
        normalization: The rules of normalisation.
    """
    problems = []
    normalizer = Normalizer(normalization)
    named = [*(("symbol", symbol) for symbol in symbols), *(("tag", tag) for tag in tags)]
    for kind, text in dict.fromkeys(named):
        if not text or any(character.isspace() for character in text):
            problems.append(f"the {kind} {text!r} is empty or contains a space")
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
    """Return the least size that leaves one piece for text beside special pieces, symbols, tags and bytes."""
    return len(_SPECIALS) + len(symbols) + len(tags) + _BYTES * byte_fallback + 1


def _select_lines(sample: list[str], limit: int) -> list[str]:
    """Return the lines that the SentencePiece trainer uses, and report the lines that it would silently ignore.

    Raises:
        InputError: The trainer would use none of the lines.
    """
    usable = [line for line in sample if len(line) <= limit and len(line.encode()) <= limit]
    long = len(sample) - len(usable)
    usable = [line for line in usable if _RESERVED not in line]
    reserved = len(sample) - long - len(usable)
    reasons = [f"{long:,} are longer than {limit:,} bytes"] if long else []
    reasons += [f"{reserved:,} contain the character {_RESERVED} (U+2585), which the trainer needs"] if reserved else []
    if not any(line.strip() for line in usable):
        raise InputError(
            f"there is no text to train a vocabulary on: of {len(sample):,} lines {' and '.join(reasons)}",
            where="vocabulary",
            expected=f"one sentence a line, of at most {limit:,} bytes",
            hint=f"split the text into sentences, or set max_sentence_length (at most {MOST_LINE_BYTES:,})",
        )
    if reasons:
        say(
            f"vocabulary: SentencePiece does not learn from {long + reserved:,} of {len(sample):,} lines: "
            f"{' and '.join(reasons)}; max_sentence_length sets the limit"
        )
    return usable


def _explain(message: str, size: int, byte_fallback: bool) -> InputError:
    """Turn SentencePiece's message into an error that names the setting to change."""
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

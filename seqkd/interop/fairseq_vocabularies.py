"""The vocabularies of a fairseq model: its dictionaries with SentencePiece models, byte-pair codes, or whole words."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from seqkd.errors import ModelError
from seqkd.interop.fairseq_dictionary import DictionaryVocabulary, piece_vocabulary, read_dictionary, word_vocabulary
from seqkd.text.codes import MOSES, SPECIALS, CodesVocabulary, MosesSettings
from seqkd.text.vocabularies import SOURCE_VOCABULARY, VOCABULARY


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """Byte-pair codes, and the tokenisation of text before they are applied.

    Attributes:
        target: The file of codes of the target, or of both sides.
        source: The file of codes of the source, if it differs.
        moses_source: See `MosesSettings`, for sources.
        moses_target: The same for targets.
    """

    target: Path
    source: Path | None = None
    moses_source: MosesSettings = field(default_factory=MosesSettings)
    moses_target: MosesSettings = field(default_factory=MosesSettings)


@dataclass(frozen=True, slots=True)
class Sides:
    """The vocabularies of both sides as files.

    Attributes:
        files: The contents of the files in a model folder, by name.
        digests: The digest of each vocabulary for the fingerprint; that of the source only if it differs.
        sizes: Numbers of pieces of source and target.
        notes: Notes for the user, one line each.
    """

    files: dict[str, bytes]
    digests: dict[str, str]
    sizes: tuple[int, int]
    notes: tuple[str, ...]


def build_vocabularies(
    dictionary: str | Path,
    source_dictionary: str | Path | None,
    sentencepiece: str | Path | None,
    source_sentencepiece: str | Path | None,
) -> Sides:
    """Build vocabularies from dictionaries and SentencePiece models, or of whole words.

    Raises:
        ModelError: A file is missing or has other contents, or a dictionary with SentencePiece symbols comes without a
            SentencePiece model.
    """
    target, source = _vocabulary(dictionary, sentencepiece), None
    if source_dictionary is not None or source_sentencepiece is not None:
        source = _vocabulary(source_dictionary or dictionary, source_sentencepiece or sentencepiece)
        source = None if source.model == target.model else source
    files = {VOCABULARY: target.model} | ({} if source is None else {SOURCE_VOCABULARY: source.model})
    digests = {"vocabulary": hashlib.sha256(target.model).hexdigest()}
    notes = target.notes("vocabulary")
    if source is not None:
        digests["source_vocabulary"] = hashlib.sha256(source.model).hexdigest()
        notes += source.notes("source vocabulary")
    return Sides(files, digests, (_size(source or target), _size(target)), tuple(notes))


def build_codes(codes: Codes, dictionary: str | Path, source_dictionary: str | Path | None) -> Sides:
    """Build vocabularies from dictionaries and byte-pair codes.

    Raises:
        ModelError: A file is missing or has other contents, no code fits its dictionary, or a package is not installed.
    """
    found = []
    for path, given, moses in (
        (codes.source or codes.target, source_dictionary or dictionary, codes.moses_source),
        (codes.target, dictionary, codes.moses_target),
    ):
        paths = [path, Path(given)]
        contents = [_read(path, "byte-pair codes"), _read(Path(given), "a fairseq dict.txt"), moses.to_bytes()]
        found.append(CodesVocabulary(contents, [*paths, Path(MOSES)]))
    source, target = found
    same = source.digest == target.digest
    digests = {"vocabulary": target.digest} | ({} if same else {"source_vocabulary": source.digest})
    notes = [f"vocabulary: {target.size:,} pieces, ids as in the dictionary"]
    if source.path != target.path:
        notes.append(f"source vocabulary: {source.size:,} pieces, ids as in the dictionary")
    if not codes.moses_target.language:
        notes.append("text is split at blanks before the codes are applied: tokenise it as the training text was")
    files = target.files("target") | ({} if same else source.files("source"))
    return Sides(files, digests, (source.size, target.size), tuple(notes))


def _read(path: Path, expected: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path), expected=expected) from None


def _vocabulary(dictionary: str | Path, sentencepiece: str | Path | None) -> DictionaryVocabulary:
    symbols = read_dictionary(dictionary)
    if sentencepiece is not None:
        return piece_vocabulary(symbols, sentencepiece)
    try:
        return word_vocabulary(symbols)
    except ModelError as error:
        raise ModelError(error.what, where=str(dictionary), expected=error.expected, hint=error.hint) from None


def _size(vocabulary: DictionaryVocabulary) -> int:
    return len(SPECIALS) + vocabulary.matched + vocabulary.unmatched

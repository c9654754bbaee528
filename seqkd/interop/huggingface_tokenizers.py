"""The tokenizers of Hugging Face folders as vocabularies of seqkd.

MarianMT's are SentencePiece models and a table of ids, which are read here. Other tokenizers keep their own files and
are read with transformers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqkd.errors import ModelError
from seqkd.interop.huggingface_config import INSTEAD, ModelFacts
from seqkd.interop.huggingface_files import CONFIG, TOKENIZER_CONFIG, HuggingfaceFiles, read_json
from seqkd.text.huggingface import SETTINGS, TOKENIZER, TokenizerSettings, ToolkitVocabulary
from seqkd.text.mapped import MAP, SOURCE_MAP, PieceMap, order_ids
from seqkd.text.vocabularies import SOURCE_VOCABULARY, VOCABULARY, Vocabularies
from seqkd.text.vocabulary import EOS_ID

SOURCE_SPM, TARGET_SPM = "source.spm", "target.spm"
TABLE, TARGET_TABLE = "vocab.json", "target_vocab.json"
MARIAN_TOKENIZER = "MarianTokenizer"

# All files that tokenizers of the library consist of.
_FILES = (
    CONFIG,
    TOKENIZER_CONFIG,
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    TABLE,
    "*.model",
)
_COPY = "copy the whole folder of the model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenization:
    """The vocabularies of a model and the rows of its tables.

    Attributes:
        vocabularies: The vocabularies.
        source_order: The row of the model's table for each source id; None for an id without a row.
        order: The row for each target id.
        start: The row of the decoder's first input, or None if it is that of the model's configuration.
        notes: Notes for the user.
    """

    vocabularies: Vocabularies
    source_order: list[int | None]
    order: list[int | None]
    start: int | None = None
    notes: tuple[str, ...] = ()


def read_tokenizers(folder: Path, facts: ModelFacts, settings: HuggingfaceFiles, scratch: Path) -> Tokenization:
    """Read the tokenizers of a folder.

    Args:
        folder: The Hugging Face folder.
        facts: The configuration of the model.
        settings: The languages.
        scratch: An empty folder, which gets the files of the vocabularies. It must exist as long as they are used.

    Raises:
        ModelError: A file is missing or damaged, does not fit the model, or needs code; or the model translates between
            several languages, and one is not given or does not exist.
    """
    config = read_json(folder / TOKENIZER_CONFIG, optional=True)  # refuses a tokenizer with code
    # `seqkd export huggingface` writes MarianMT's tokenizer for M2M100, too.
    if facts.kind == "marian" or config.get("tokenizer_class") == MARIAN_TOKENIZER:
        return _read_marian(folder, facts, settings, scratch)
    return _read_toolkit(folder, facts, settings, scratch)


def _read_marian(folder: Path, facts: ModelFacts, settings: HuggingfaceFiles, scratch: Path) -> Tokenization:
    if settings.source_language is not None:
        raise ModelError(
            "a tokenizer of MarianMT does not read the source language",
            where=str(folder),
            hint="leave out --source-language",
        )
    separate = (folder / TARGET_TABLE).exists() and facts.settings["embeddings"] != "shared"
    source = _marian_table(folder / TABLE, facts, facts.source_rows)
    target = _marian_table(folder / TARGET_TABLE, facts, facts.rows) if separate else source
    tags = sorted(piece for piece in source.pieces if _is_tag(piece))
    prefix = _marian_prefix(tags, settings.target_language, folder)
    files = {SOURCE_VOCABULARY: _contents(folder / SOURCE_SPM), VOCABULARY: _contents(folder / TARGET_SPM)}
    files[SOURCE_MAP] = source.map(prefix).to_bytes()
    files[MAP] = target.map(()).to_bytes()
    for name, data in files.items():
        (scratch / name).write_bytes(data)
    return Tokenization(
        vocabularies=_load(scratch, folder), source_order=source.order, order=target.order, notes=source.notes
    )


@dataclass(frozen=True, slots=True)
class _MarianTable:
    """A vocab.json.

    Attributes:
        pieces: The pieces in the order of seqkd's ids, rows without a piece included.
        order: The row for each id.
        unused: The names of rows without a piece.
    """

    pieces: tuple[str, ...]
    order: list[int | None]
    unused: tuple[str, ...]

    def map(self, prefix: tuple[str, ...]) -> PieceMap:
        silent = tuple(piece for piece in self.pieces if _is_tag(piece))
        return PieceMap(pieces=self.pieces, silent=(*silent, *self.unused), prefix=prefix)

    @property
    def notes(self) -> tuple[str, ...]:
        return (f"{len(self.unused)} rows of the embeddings have no piece",) if self.unused else ()


def _marian_table(path: Path, facts: ModelFacts, rows: int) -> _MarianTable:
    try:
        table = json.loads(_contents(path))
        if not isinstance(table, dict) or not all(isinstance(index, int) for index in table.values()):
            raise ValueError("it does not map pieces to ids")
    except (ValueError, RecursionError) as error:
        raise ModelError(f"is not a table of pieces: {error}", where=str(path), hint=_COPY) from None
    names = {index: piece for piece, index in table.items()}
    specials = {name: table.get(f"<{piece}>") for name, piece in (("pad", "pad"), ("eos", "/s"), ("unk", "unk"))}
    wanted = {"pad": facts.pad, "eos": facts.eos}
    if specials["unk"] is None or any(specials[name] != index for name, index in wanted.items()):
        raise ModelError(
            f"the ids of <pad>, </s> and <unk> are {', '.join(str(index) for index in specials.values())}",
            where=str(path),
            expected=f"<pad> {facts.pad} and </s> {facts.eos}, as in {facts.where}, and an <unk>",
        )
    if len(names) < len(table) or min(names) < 0 or max(names) >= rows:
        raise ModelError(
            f"has {len(table):,} pieces with the ids {min(names):,} to {max(names):,}",
            where=str(path),
            expected=f"one id for each piece, below the {rows:,} rows of the model's table",
        )
    bos = facts.bos if table.get("<s>") == facts.bos else None
    order = order_ids(rows, pad=facts.pad, eos=facts.eos, unk=specials["unk"], bos=bos)
    begin = next(name for name in ("<s>", "<begin>", "<begin of sentence>") if bos is not None or name not in table)
    pieces = tuple(begin if row is None else names.get(row, f"<row {row}>") for row in order)
    return _MarianTable(pieces, order, tuple(f"<row {row}>" for row in range(rows) if row not in names))


def _is_tag(piece: str) -> bool:
    return piece.startswith(">>") and piece.endswith("<<")


def _marian_prefix(tags: Sequence[str], language: str | None, folder: Path) -> tuple[str, ...]:
    """Return the tag of the target language, with which sources of models with several target languages begin."""
    shown = ", ".join(tag[2:-2] for tag in tags[:20]) + (f" and {len(tags) - 20} more" if len(tags) > 20 else "")
    if language is None:
        if len(tags) > 1:
            raise ModelError(
                "the model translates into several languages",
                where=str(folder),
                expected=f"one of: {shown}",
                hint="give --target-language",
            )
        return ()
    if f">>{language}<<" not in tags:
        expected = f"one of: {shown}" if tags else "no --target-language: the model has a single one"
        raise ModelError(f"the model has no target language {language!r}", where=str(folder), expected=expected)
    return (f">>{language}<<",)


def _read_toolkit(folder: Path, facts: ModelFacts, settings: HuggingfaceFiles, scratch: Path) -> Tokenization:
    own = scratch / TOKENIZER
    own.mkdir()
    paths = sorted({path for pattern in _FILES for path in folder.glob(pattern) if path.is_file()})
    if not {path.name for path in paths} - {CONFIG, TOKENIZER_CONFIG}:
        raise ModelError(
            "has no tokenizer",
            where=str(folder),
            expected="tokenizer.json, or a SentencePiece model, or vocab.json",
            hint=_COPY,
        )
    for path in paths:
        (own / path.name).write_bytes(_contents(path))
    (own / SETTINGS).write_bytes(TokenizerSettings(rows=facts.rows).to_bytes())
    plain = ToolkitVocabulary(own, "source")
    tokenizer: Any = _tokenizer(plain, folder)
    source, suffix = _source_tokens(tokenizer, settings, facts, folder)
    if suffix:
        source_order, start = _exchange_ends(plain, suffix[0]), _start_language(tokenizer, settings, facts, folder)
        target = () if facts.forced is None else tuple(tokenizer.convert_ids_to_tokens([facts.forced]))
    else:
        source_order, start, target = plain.order, None, _target_prefix(tokenizer, settings, facts, folder)
    found = TokenizerSettings(rows=facts.rows, source_prefix=source, target_prefix=target, source_suffix=suffix)
    (own / SETTINGS).write_bytes(found.to_bytes())
    if hasattr(tokenizer, "src_lang"):
        # Tokenizers with languages can encode targets only if both languages are set.
        written = target[0] if start is None else tokenizer.convert_ids_to_tokens(start)
        languages = {"src_lang": settings.source_language, "tgt_lang": written.strip("_")}
        config = read_json(own / TOKENIZER_CONFIG, optional=True) | languages
        (own / TOKENIZER_CONFIG).write_text(json.dumps(config, ensure_ascii=False, indent=2, sort_keys=True) + "\n")
    vocabularies = _load(scratch, folder)
    notes = [f"sources begin with {' '.join(source)}"] if source else []
    notes += [f"sources end with {tokenizer.eos_token} {' '.join(suffix)}"] if suffix else []
    notes += [f"outputs continue {tokenizer.convert_ids_to_tokens(start)}"] if start is not None else []
    notes += [f"outputs begin with {' '.join(target)}"] if target else []
    unused = facts.rows - len(tokenizer)
    notes += [f"{unused} rows of the embeddings have no token"] if unused else []
    return Tokenization(
        vocabularies=vocabularies, source_order=source_order, order=plain.order, start=start, notes=tuple(notes)
    )


def _tokenizer(vocabulary: ToolkitVocabulary, folder: Path) -> Any:
    try:
        return vocabulary.tokenizer
    except ModelError as error:
        raise ModelError(error.what, where=str(folder), hint=error.hint) from None


def _source_tokens(
    tokenizer: Any, settings: HuggingfaceFiles, facts: ModelFacts, folder: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the tokens that the tokenizer puts before a source, and the language that it puts after its end."""
    if hasattr(tokenizer, "src_lang"):
        language = _language(tokenizer, settings.source_language, folder, "--source-language")
        tokenizer.src_lang = language
    elif settings.source_language is not None:
        raise ModelError("the tokenizer has no languages", where=str(folder), hint="leave out --source-language")
    around: list[int] = tokenizer("")["input_ids"]
    if hasattr(tokenizer, "src_lang") and around == [facts.eos, tokenizer.convert_tokens_to_ids(tokenizer.src_lang)]:
        return (), (tokenizer.src_lang,)  # mBART's first form
    if not around or around[-1] != facts.eos or facts.eos in around[:-1]:
        shown = " ".join(tokenizer.convert_ids_to_tokens(around))
        raise ModelError(
            f"its sources have the special tokens {shown or '(none)'} around the text",
            where=str(folder),
            expected="the end of sentence as the last token",
            hint=INSTEAD,
        )
    return tuple(tokenizer.convert_ids_to_tokens(around[:-1])), ()


def _exchange_ends(vocabulary: ToolkitVocabulary, language: str) -> list[int | None]:
    """Return the rows of source ids, with those of the end of sentence and of the language exchanged.

    Sources of mBART's first form are the text, the end of sentence and the language. seqkd puts the end of sentence
    last. A source of seqkd is therefore the text and the id of the language, and the rows of the source's table are
    exchanged, so that the encoder reads the embeddings in the right order.
    """
    order, found = vocabulary.order, vocabulary.id_of(language)
    assert found is not None
    order[EOS_ID], order[found] = order[found], order[EOS_ID]
    return order


def _start_language(tokenizer: Any, settings: HuggingfaceFiles, facts: ModelFacts, folder: Path) -> int:
    """Return the language with which the decoder starts in mBART's first form."""
    if settings.target_language is not None:
        token = _token_of(tokenizer, settings.target_language, folder, "--target-language")
        return int(tokenizer.convert_tokens_to_ids(token))
    if facts.start in (facts.bos, facts.pad, facts.eos):
        raise ModelError(
            "the model translates into several languages", where=str(folder), hint="give --target-language"
        )
    return facts.start


def _target_prefix(tokenizer: Any, settings: HuggingfaceFiles, facts: ModelFacts, folder: Path) -> tuple[str, ...]:
    """Return the tokens that the model is made to write first."""
    if settings.target_language is None:
        if facts.forced is not None:
            return tuple(tokenizer.convert_ids_to_tokens([facts.forced]))
        if hasattr(tokenizer, "src_lang"):
            raise ModelError(
                "the model translates into several languages", where=str(folder), hint="give --target-language"
            )
        return ()
    return (_token_of(tokenizer, settings.target_language, folder, "--target-language"),)


def _language(tokenizer: Any, given: str | None, folder: Path, option: str) -> str:
    if given is None:
        raise ModelError("the model translates from several languages", where=str(folder), hint=f"give {option}")
    _token_of(tokenizer, given, folder, option)
    return given


def _token_of(tokenizer: Any, language: str, folder: Path, option: str) -> str:
    """Return the token of a language."""
    found = next(
        (
            name
            for name in (f"__{language}__", language)
            if tokenizer.convert_ids_to_tokens(tokenizer.convert_tokens_to_ids(name)) == name
        ),
        None,
    )
    if found is None:
        raise ModelError(
            f"the tokenizer has no language {language!r}",
            where=str(folder),
            expected=f"{option} as the tokenizer names its languages, such as eng_Latn, en_XX or en",
        )
    return found


def _load(scratch: Path, folder: Path) -> Vocabularies:
    """Read the vocabularies from the files that were written; messages name the folder that they come from."""
    try:
        found = Vocabularies.load(scratch)
        found.source.pieces(), found.target.pieces(), found.target.prefix, found.source.prefix
        return found
    except ModelError as error:
        raise ModelError(error.what, where=str(folder), expected=error.expected, hint=_COPY) from None


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelError("no such file", where=str(path), expected="a file of the tokenizer", hint=_COPY) from None
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path), hint=_COPY) from None

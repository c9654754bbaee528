"""Tokenizers of Hugging Face: the folder `tokenizer/` of a model, read with transformers (the extra `hf`).

The library is imported when a text is first encoded or decoded. No code of the folder is run, and nothing is fetched.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from seqkd.errors import ModelError
from seqkd.text.mapped import order_ids
from seqkd.text.normalize import Normalization, Normalizer
from seqkd.text.vocabulary import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Side

TOKENIZER = "tokenizer"  # the folder in that of a model
SETTINGS = "seqkd.json"  # a file in this folder
_AGAIN = "import the model again, or copy its whole folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSettings:
    """The settings beside the toolkit's own files.

    Attributes:
        rows: Rows of the model's table, before `order_ids` adds any; 0 if there is one for each of the tokenizer's ids.
            A table may have further, unused rows.
        source_prefix: The tokens that every source starts with, such as the code of the language.
        target_prefix: The tokens that every target starts with.
        source_suffix: The tokens that every source ends with, before the end of sentence. The file names them only if
            there are any.
        exchanged: Whether the model translates in the other direction: its sources are encoded like targets.
    """

    rows: int = 0
    source_prefix: tuple[str, ...] = ()
    target_prefix: tuple[str, ...] = ()
    source_suffix: tuple[str, ...] = ()
    exchanged: bool = False

    def to_bytes(self) -> bytes:
        """Return the contents of the file."""
        values = {name: value for name, value in asdict(self).items() if value or name != "source_suffix"}
        return (json.dumps(values, ensure_ascii=False, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def load(cls, path: Path) -> TokenizerSettings:
        """Read a file. If it does not exist, all settings have their defaults.

        Raises:
            ModelError: The file has other contents.
        """
        try:
            values = json.loads(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"cannot be read: {error}", where=str(path), hint=_AGAIN) from None
        listed = ("source_prefix", "target_prefix", "source_suffix")
        kinds = {"rows": int, "exchanged": bool, **dict.fromkeys(listed, list)}
        values = {"source_suffix": [], **values} if isinstance(values, dict) else {}
        if (
            values.keys() != kinds.keys()
            or not all(isinstance(values[name], kind) for name, kind in kinds.items())
            or not all(isinstance(token, str) for name in listed for token in values[name])
        ):
            raise ModelError(
                "does not hold the settings of a tokenizer",
                where=str(path),
                expected=", ".join(field.name for field in fields(cls)),
                hint=_AGAIN,
            )
        return cls(
            rows=values["rows"],
            source_prefix=tuple(values["source_prefix"]),
            target_prefix=tuple(values["target_prefix"]),
            source_suffix=tuple(values["source_suffix"]),
            exchanged=values["exchanged"],
        )


@dataclass(frozen=True, slots=True)
class _Table:
    """A loaded tokenizer and the order of its ids.

    Attributes:
        tokenizer: The tokenizer of the library.
        theirs: The tokenizer's id for each of ours; None for a row that only we have.
        ours: Our id for each of the tokenizer's that is not special.
    """

    tokenizer: Any
    theirs: list[int | None]
    ours: dict[int, int]


class ToolkitVocabulary:
    """Converts text to ids by a tokenizer of Hugging Face, and back.

    `encode` returns no special token other than the unknown one, the prefix and the suffix, whatever the text contains.

    Args:
        folder: The folder `tokenizer/`.
        side: The side that is encoded, if the settings do not exchange the sides.

    Raises:
        ModelError: The folder is missing or empty, or its settings cannot be read.
    """

    bos_id, pad_id, eos_id, unk_id = BOS_ID, PAD_ID, EOS_ID, UNK_ID
    normalization: Normalization = "identity"  # the tokenizer has its own rules, and the text is not changed

    def __init__(self, folder: Path, side: Side) -> None:
        self.path = folder
        self._settings = TokenizerSettings.load(folder / SETTINGS)
        self._side: Side = _other(side) if self._settings.exchanged else side
        prefixes = {"source": self._settings.source_prefix, "target": self._settings.target_prefix}
        self._prefix = prefixes[self._side]
        self._suffix = self._settings.source_suffix if self._side == "source" else ()
        try:
            files = _read_files(folder)
        except OSError as error:
            raise ModelError(f"cannot be read: {error.strerror}", where=str(folder), hint=_AGAIN) from None
        if not files:
            raise ModelError("holds no tokenizer", where=str(folder), expected="the files of a tokenizer", hint=_AGAIN)
        # The digest does not depend on the direction, so that models of both directions have the same vocabularies.
        ends = f" {list(self._suffix)}" if self._suffix else ""
        digest = hashlib.sha256(f"{self._settings.rows} {list(self._prefix)} {self._side}{ends}\n".encode())
        for name in files:
            digest.update(f"{name} {hashlib.sha256(files[name]).hexdigest()}\n".encode())
        self.digest = digest.hexdigest()

    @cached_property
    def _table(self) -> _Table:
        tokenizer = _load(self.path, self.digest)
        count = len(tokenizer)
        rows = self._settings.rows or count
        special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "pad", "eos", "unk")}
        try:
            if rows < count:
                raise ValueError(f"has {count:,} tokens, but {SETTINGS} has {rows:,} rows")
            if special["pad"] is None or special["eos"] is None:
                raise ValueError("has no token for padding or for the end of sentence")
            theirs = order_ids(rows, **special)
        except ValueError as error:
            raise ModelError(
                str(error), where=str(self.path), hint="use a tokenizer that this model can have"
            ) from None
        never = {*tokenizer.all_special_ids, *(index for index in special.values() if index is not None)}
        ours = {their: our for our, their in enumerate(theirs) if their is not None and their not in never}
        return _Table(tokenizer, theirs, ours)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the library."""
        return self._table.tokenizer

    @property
    def order(self) -> list[int | None]:
        """The toolkit's id for each id of seqkd; None for an id that only seqkd has."""
        return list(self._table.theirs)

    @property
    def size(self) -> int:
        """Number of ids, those of unused rows included."""
        return len(self._table.theirs)

    @cached_property
    def prefix(self) -> tuple[int, ...]:
        """The ids that every encoded text starts with."""
        return self._ids_of(self._prefix)

    @cached_property
    def _suffix_ids(self) -> tuple[int, ...]:
        return self._ids_of(self._suffix)

    def _ids_of(self, tokens: Sequence[str]) -> tuple[int, ...]:
        found = [self.id_of(token) for token in tokens]
        if None in found:
            raise ModelError(
                f"has no token {tokens[found.index(None)]!r}, which {SETTINGS} names as a prefix or suffix",
                where=str(self.path),
                hint=_AGAIN,
            )
        return tuple(index for index in found if index is not None)

    def files(self, side: Side) -> dict[str, bytes]:
        """Return the contents of the files that store the tokenizer for both sides, if this is that of a side."""
        if side == "source":  # the target's files are those of both sides
            return {}
        settings = replace(self._settings, exchanged=self._side != side)
        named = {**_read_files(self.path), SETTINGS: settings.to_bytes()}
        return {f"{TOKENIZER}/{name}": data for name, data in named.items()}

    def normalize(self, texts: list[str]) -> list[str]:
        """Reduce blanks to single ones. The tokenizer applies its own rules when it encodes."""
        return Normalizer(self.normalization).normalize_all(texts)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text, the prefix first and the suffix last."""
        if not texts:
            return []
        table, prefix, suffix = self._table, self.prefix, self._suffix_ids
        named = {"text": texts} if self._side == "source" else {"text_target": texts}
        rows = table.tokenizer(**named, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return [[*prefix, *(table.ours.get(index, UNK_ID) for index in row), *suffix] for row in rows]

    def decode(self, ids: list[list[int]]) -> list[str]:
        """Return the text of each list of ids. Special ids, the unknown one included, give no text."""
        table = self._table
        rows = [[their for index in row if (their := table.theirs[index]) in table.ours] for row in ids]
        texts: list[str] = table.tokenizer.batch_decode(
            rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [" ".join(text.split()) for text in texts]

    def join_words(self, texts: list[str]) -> list[str]:
        """Return the texts: they have no marks."""
        return texts

    def id_of(self, piece: str) -> int | None:
        """Return the id of a token, or None if there is no such token."""
        known = self._table.tokenizer.convert_tokens_to_ids(piece)  # of M2M100's codes only this knows the ids
        if known is None or self._table.tokenizer.convert_ids_to_tokens(known) != piece:
            return None
        return self._table.theirs.index(known)

    def piece(self, index: int) -> str:
        """Return the token with an id. Rows without a token are named by their numbers."""
        return self.pieces()[index]

    def pieces(self) -> list[str]:
        """Return all tokens in the order of their ids."""
        return list(self._pieces)

    @cached_property
    def _pieces(self) -> list[str]:
        names = {index: piece for piece, index in self._table.tokenizer.get_vocab().items()}
        return [
            f"<row {our}>" if their is None else names.get(their, f"<row {our}>")
            for our, their in enumerate(self._table.theirs)
        ]


def _other(side: Side) -> Side:
    return "target" if side == "source" else "source"


def _read_files(folder: Path) -> dict[str, bytes]:
    """Read the toolkit's own files, by their names in the folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / SETTINGS)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@lru_cache(maxsize=4)
def _load(folder: Path, digest: str) -> Any:  # noqa: ARG001 (the digest makes a changed folder be read again)
    """Load the tokenizer of one side."""
    # The library warns if a process with threads of its own is forked; texts are encoded by one thread a process.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ModelError(
            f"this vocabulary needs transformers, which cannot be imported: {error}",
            where=str(folder),
            hint='pip install "seqkd[hf]"',
        ) from None
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises errors of many classes
        line = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(
            f"is not a tokenizer that transformers can read: {line}", where=str(folder), hint=_AGAIN
        ) from None

"""What a manifest says, its text, and the checks on reading it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqkd import __version__
from seqkd.corpus.cost import COST
from seqkd.corpus.fingerprints import canonical
from seqkd.errors import CorpusError

# The schema version of the folders. It goes up when an older seqkd could not read them, or would misread them. Every
# version reads what earlier ones wrote.
# 1: fingerprints hold every option, and of three stages the precision and the device that had worked.
# 2: fingerprints hold the options that are not neutral, as written; what had worked stands in `extra`.
FORMAT = 2

_SHARD = re.compile(r"^shard-(\d{5,9})\.arrow$", re.ASCII)
_MOST = 2**53  # rows and bytes: what JSON's readers agree on
_HEX = re.compile(r"^[0-9a-f]{64}$")


def shard_name(index: int) -> str:
    """`shard-00000.arrow` for 0; more digits where five are too few."""
    return f"shard-{index:05d}.arrow"


def shard_index(name: str) -> int | None:
    """The number in a shard's name; None when it is no shard's name."""
    found = _SHARD.match(name)
    if found is None or shard_name(int(found.group(1))) != name:
        return None
    return int(found.group(1))


# In a manifest's `extra`, why the machine took a slower path, if it did; it is no part of the contents.
SLOW_PATH = "slow_path"
# Likewise, that the shards have been deleted on purpose.
FORGOTTEN = "forgotten"
_NOTES = (SLOW_PATH, FORGOTTEN, COST)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """One shard: its file's name, rows, SHA-256 (hex) and size in bytes."""

    name: str
    rows: int
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a stage's output folder holds.

    Attributes:
        kind: What the folder is: "corpus", "kbest", "soft", "model", "evaluation" ...
        fingerprint: What made it; see `fingerprint()`.
        rows: Rows in all shards.
        source_tokens: Source subwords in all rows, without special ids.
        target_tokens: Target subwords in all rows, without special ids.
        shards: In order of their number.
        vocabulary: SHA-256 (hex) of the vocabulary's model file; "" where there is none.
        counts: Rows by reason, e.g. why they were left out.
        extra: Whatever else the kind records; JSON values.
    """

    kind: str
    fingerprint: dict[str, Any]
    rows: int = 0
    source_tokens: int = 0
    target_tokens: int = 0
    shards: list[ShardInfo] = field(default_factory=list)
    vocabulary: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """SHA-256 (hex) of everything but the seqkd version and notes: equal digests mean equal contents."""
        values = self._values()
        values["extra"] = {name: value for name, value in self.extra.items() if name not in _NOTES}
        return hashlib.sha256(canonical(values)).hexdigest()

    def to_json(self) -> str:
        """The file's text."""
        values = {"format": FORMAT, "seqkd": __version__, **self._values()}
        return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def _values(self) -> dict[str, Any]:
        values = {name.name: getattr(self, name.name) for name in dataclasses.fields(self)}
        values["shards"] = [dataclasses.asdict(shard) for shard in in_order(self.shards)]
        return values


def in_order(shards: Iterable[ShardInfo]) -> list[ShardInfo]:
    """Sort shards by their number, not by their name: 100000 comes after 99999."""
    return sorted(shards, key=lambda shard: (shard_index(shard.name) or 0, shard.name))


def read_record(text: bytes, path: Path) -> dict[str, Any]:
    """Parse one of seqkd's JSON records (a manifest, a note of a stage under way) and check that it is ours.

    Raises:
        CorpusError: Not JSON, not seqkd's, or of a newer format.
    """
    try:
        values = json.loads(text)
        canonical(values)  # numbers and letters that cannot be written again: NaN, half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise damaged(f"not JSON: {error}", path) from None
    if not isinstance(values, dict) or "seqkd" not in values or not isinstance(values.get("format"), int):
        raise CorpusError("not written by seqkd", where=str(path), expected="the keys `format` and `seqkd`")
    if values["format"] > FORMAT:
        raise CorpusError(
            f"format {values['format']}, written by seqkd {values['seqkd']}, is newer than this seqkd {__version__}",
            where=str(path),
            expected=f"format {FORMAT} or older",
            hint="update seqkd",
        )
    return values


def parse(values: dict[str, Any], path: Path) -> Manifest:
    """Make a Manifest of a record's values; `path` is named in the CorpusError when they do not fit."""
    types = {
        "kind": str,
        "fingerprint": dict,
        "rows": int,
        "source_tokens": int,
        "target_tokens": int,
        "shards": list,
        "vocabulary": str,
        "counts": dict,
        "extra": dict,
    }
    for name, kind in types.items():
        if not isinstance(values.get(name), kind):
            raise damaged(f"`{name}` is missing or not of type {kind.__name__}", path)
        if kind is int and not 0 <= values[name] <= _MOST:
            raise damaged(f"`{name}` is no number of rows or tokens", path)
    shards = [_parse_shard(shard, index, path) for index, shard in enumerate(values["shards"])]
    if shards and sum(shard.rows for shard in shards) != values["rows"]:
        raise damaged(f"the shards' rows do not add up to `rows` ({values['rows']})", path)
    if len({shard.name for shard in shards}) < len(shards):
        raise damaged("a shard is listed twice", path)
    return Manifest(**{name: values[name] for name in types if name != "shards"}, shards=in_order(shards))


def _parse_shard(value: Any, index: int, path: Path) -> ShardInfo:
    ok = (
        isinstance(value, dict)
        and value.keys() == {"name", "rows", "sha256", "bytes"}
        and isinstance(value["name"], str)
        and shard_index(value["name"]) is not None  # a plain file name: nothing can point out of the folder
        and all(isinstance(value[key], int) and 0 <= value[key] <= _MOST for key in ("rows", "bytes"))
        and isinstance(value["sha256"], str)
        and _HEX.match(value["sha256"]) is not None
    )
    if not ok:
        raise damaged(f"`shards.{index}` is not a shard's name, rows, sha256 and bytes", path)
    return ShardInfo(**value)


def damaged(what: str, path: Path) -> CorpusError:
    """What to raise for a file of ours that is not as we write it."""
    return CorpusError(f"damaged: {what}", where=str(path), hint="make the folder again with the stage that wrote it")

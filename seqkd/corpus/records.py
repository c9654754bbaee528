"""The contents of a manifest, its file, and the checks when it is read."""

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
from seqkd.corpus.files import atomic_write
from seqkd.corpus.fingerprints import canonical_json
from seqkd.errors import CorpusError

# The schema version of the folders. It is raised when older versions of seqkd could not read the folders or would
# misread them. Every version reads the folders of earlier ones.
# 1: fingerprints contain every option, and for three stages the precision and the device that were used.
# 2: fingerprints contain the options that are not neutral, as written; the machine's choices are recorded in `extra`.
# 3: soft targets are packed. Folders of other kinds are written as 2, so that earlier versions read them.
FORMAT = 3

MANIFEST = "manifest.json"

_SHARD = re.compile(r"^shard-(\d{5,9})\.arrow$", re.ASCII)
_MOST = 2**53  # largest number of rows or bytes: JSON readers agree on integers up to this one
_HEX = re.compile(r"^[0-9a-f]{64}$")


def format_of(kind: str) -> int:
    """Return the schema version with which a folder of this kind is written."""
    return FORMAT if kind == "soft" else 2


def shard_name(index: int) -> str:
    """Return the file name of a shard: `shard-00000.arrow` for 0, with more digits if five are too few."""
    return f"shard-{index:05d}.arrow"


def shard_index(name: str) -> int | None:
    """Return the number in the name of a shard, or None if it is not the name of a shard."""
    found = _SHARD.match(name)
    if found is None or shard_name(int(found.group(1))) != name:
        return None
    return int(found.group(1))


# The key in a manifest's `extra` for the reason why a slower path was taken. It is not part of the contents.
SLOW_PATH = "slow_path"
# The key for the fact that the shards were deleted by `seqkd forget`. It is not part of the contents, either.
FORGOTTEN = "forgotten"
# The key for facts about external workers, of which the times differ from run to run.
WORKERS = "workers"
_NOTES = (SLOW_PATH, FORGOTTEN, WORKERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """One shard: its file name, number of rows, SHA-256 (hex) and size in bytes."""

    name: str
    rows: int
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The description of a stage's output folder.

    Attributes:
        kind: The kind of the folder: "corpus", "kbest", "soft", "model", "evaluation" and so on.
        fingerprint: The settings and inputs that made it; see `build_fingerprint`.
        rows: Rows in all shards.
        source_tokens: Source subwords in all rows, without special ids.
        target_tokens: Target subwords in all rows, without special ids.
        shards: The shards in the order of their numbers.
        vocabulary: SHA-256 (hex) of the vocabulary's model file, or "" if there is none.
        counts: Numbers of rows by reason, for example the reasons why they were left out.
        extra: Further facts that depend on the kind, as JSON values.
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
        """Return the SHA-256 (hex) of everything but the seqkd version and notes. Equal digests mean equal contents."""
        values = self._values()
        values["extra"] = {name: value for name, value in self.extra.items() if name not in _NOTES}
        return hashlib.sha256(canonical_json(values)).hexdigest()

    def to_json(self) -> str:
        """Return the text of the file."""
        values = {"format": format_of(self.kind), "seqkd": __version__, **self._values()}
        return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def _values(self) -> dict[str, Any]:
        values = {name.name: getattr(self, name.name) for name in dataclasses.fields(self)}
        values["shards"] = [dataclasses.asdict(shard) for shard in sort_shards(self.shards)]
        return values


def sort_shards(shards: Iterable[ShardInfo]) -> list[ShardInfo]:
    """Sort shards by number, not by name: 100000 comes after 99999."""
    return sorted(shards, key=lambda shard: (shard_index(shard.name) or 0, shard.name))


def read_record(text: bytes, path: Path) -> dict[str, Any]:
    """Parse a JSON record of seqkd, which is a manifest or the note of a running stage.

    Raises:
        CorpusError: The text is not JSON, was not written by seqkd, or has a newer format.
    """
    try:
        values = json.loads(text)
        canonical_json(values)  # fails for values that cannot be written again: NaN, half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise damage_error(f"not JSON: {error}", path) from None
    if not isinstance(values, dict) or "seqkd" not in values or not isinstance(values.get("format"), int):
        raise CorpusError("was not written by seqkd", where=str(path), expected="the keys `format` and `seqkd`")
    if values["format"] > FORMAT:
        raise CorpusError(
            f"format {values['format']}, written by seqkd {values['seqkd']}, is newer than this seqkd {__version__}",
            where=str(path),
            expected=f"format {FORMAT} or older",
            hint="update seqkd",
        )
    return values


def parse_manifest(values: dict[str, Any], path: Path) -> Manifest:
    """Make a Manifest from the values of a record.

    Raises:
        CorpusError: The values are not those of a manifest. The message names `path`.
    """
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
            raise damage_error(f"`{name}` is missing or not of type {kind.__name__}", path)
        if kind is int and not 0 <= values[name] <= _MOST:
            raise damage_error(f"`{name}` is not a number of rows or tokens", path)
    shards = [_parse_shard(shard, index, path) for index, shard in enumerate(values["shards"])]
    if shards and sum(shard.rows for shard in shards) != values["rows"]:
        raise damage_error(f"the rows of the shards do not add up to `rows` ({values['rows']})", path)
    if len({shard.name for shard in shards}) < len(shards):
        raise damage_error("a shard is listed twice", path)
    return Manifest(**{name: values[name] for name in types if name != "shards"}, shards=sort_shards(shards))


def _parse_shard(value: Any, index: int, path: Path) -> ShardInfo:
    ok = (
        isinstance(value, dict)
        and value.keys() == {"name", "rows", "sha256", "bytes"}
        and isinstance(value["name"], str)
        and shard_index(value["name"]) is not None  # a plain file name, which cannot point outside the folder
        and all(isinstance(value[key], int) and 0 <= value[key] <= _MOST for key in ("rows", "bytes"))
        and isinstance(value["sha256"], str)
        and _HEX.match(value["sha256"]) is not None
    )
    if not ok:
        raise damage_error(f"`shards.{index}` does not hold the name, rows, sha256 and bytes of a shard", path)
    return ShardInfo(**value)


def damage_error(what: str, path: Path) -> CorpusError:
    """Make the error for a file of seqkd that is damaged."""
    return CorpusError(f"damaged: {what}", where=str(path), hint="make the folder again with the stage that wrote it")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into `folder`, whole or not at all; everything else there must be written by now.

    Raises:
        WorkError: The system refuses: disk full, no permission.
        ValueError: A shard has an invalid name, or the rows of the shards do not add up to the rows of the manifest.
    """
    names = [shard.name for shard in manifest.shards]
    if any(shard_index(name) is None for name in names) or len(set(names)) < len(names):
        raise ValueError(f"shard names must be unique and like {shard_name(0)}: {names}")
    if manifest.shards and sum(shard.rows for shard in manifest.shards) != manifest.rows:
        raise ValueError(f"the shards' rows do not add up to {manifest.rows}")
    atomic_write(folder / MANIFEST, manifest.to_json().encode())


def read_manifest(folder: str | Path) -> Manifest:
    """Read `folder`'s manifest.

    Raises:
        CorpusError: There is no folder or no manifest, or it is damaged, not seqkd's or of a newer format.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not folder.is_dir():
        raise CorpusError(
            "not a folder" if folder.exists() else "no such folder",
            where=str(folder),
            expected=f"a folder that a seqkd stage wrote, with a {MANIFEST}",
        )
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise CorpusError(
            f"not a finished seqkd output: no {MANIFEST}",
            where=str(folder),
            expected=f"a folder that a seqkd stage wrote; its {MANIFEST} comes last",
            hint="run the stage that makes it again (it goes on where it stopped), or check the path",
        ) from None
    except OSError as error:
        raise CorpusError(
            f"cannot be read: {error.strerror}", where=str(path), hint="check its owner and permissions"
        ) from None
    return parse_manifest(read_record(text, path), path)

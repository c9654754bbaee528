"""The only reader of TOML, all problems of a file in one message, and the writer of stage files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from seqkd.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T", bound=BaseModel)

RUN = "{run}/"  # what paths in the run folder begin with in stage files: the folder can be moved and copied

MOST_CHARACTERS = 1_000_000
MOST_DOTS = 1_000


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: The file is missing, not UTF-8 or not TOML; or it is none that a person would write.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows write a byte order mark
        # The reader's time grows with the square of a key's parts.
        if len(text) > MOST_CHARACTERS or any(line.count(".") > MOST_DOTS for line in text.splitlines()):
            what = f"more than {MOST_CHARACTERS:,} characters, or a line with more than {MOST_DOTS:,} dots"
            raise ConfigError(what, where=str(path), expected="a stage or pipeline file")
        if "\0" in text or "\\u0000" in text or "\\U00000000" in text:
            raise ConfigError("holds a null character", where=str(path), expected="text")
        return tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(
            "no such file", where=str(path), expected="a UTF-8 TOML file", hint="check the path"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path), expected="a UTF-8 TOML file") from None
    except (ValueError, RecursionError) as error:  # beside its own error the reader lets through those of int()
        raise ConfigError(f"not valid TOML: {error}", where=str(path)) from None


def load_stage(kind: type[T], path: str | Path) -> T:
    """Read a stage file. A path that begins with `{run}/` lies in the run folder, which is above the file's own folder.

    Raises:
        ConfigError: Unreadable, or with unknown keys or wrong values; all of them in one message.
    """
    run = os.path.normpath(Path(path).parent / "..")
    return validate(kind, replaced(read_toml(path), RUN, f"{run}/"), str(path))


def replaced(value: Any, start: str, new: str) -> Any:
    """Plain values in which every text that begins with `start` begins with `new` in its place."""
    if isinstance(value, dict):
        return {key: replaced(item, start, new) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item, start, new) for item in value]
    return new + value.removeprefix(start) if isinstance(value, str) and value.startswith(start) else value


def validate(kind: type[T], values: dict[str, Any], where: str) -> T:
    """Make a `kind` of plain values; raise one ConfigError that lists every problem."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise listed([f"{dotted(loc)}: {text}" for loc, text in problems(error)], where) from None


def problems(error: ValidationError) -> list[tuple[tuple[str | int, ...], str]]:
    """Each problem's place in the file and what is wrong there.

    A list whose entries are all wrong counts as empty to pydantic. The entries' own problems say it better.
    """
    errors = error.errors()
    found = []
    for problem in errors:
        loc = problem["loc"]
        if problem["type"] == "too_short" and any(
            len(other["loc"]) > len(loc) and other["loc"][: len(loc)] == loc for other in errors
        ):
            continue
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            text = "unknown key"
        elif problem["type"] == "missing":
            text = "missing"
        elif isinstance(problem["input"], (dict, BaseModel)):  # about several keys at once; the message names them
            text = problem["msg"].removeprefix("Value error, ")
        else:
            text, given = problem["msg"].removeprefix("Value error, "), repr(problem["input"])
            named = isinstance(problem["input"], str) and given in text  # by a check of seqkd's own
            text += "" if named else f", got {given}"
        found.append((_untagged(loc), text))
    return found


def _untagged(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """A place without what pydantic chose among several kinds by, which is not written there in the file."""
    return tuple(
        part
        for before, part in zip((None, *loc), loc, strict=False)
        if not (before in ("corpus", "target") and part in ("one", "several"))
    )


def dotted(loc: tuple[str | int, ...]) -> str:
    """A place in a file as one word: `students.0.model.dim`."""
    return ".".join(str(part) for part in loc) or "(file)"


def listed(lines: list[str], where: str) -> ConfigError:
    """One error for all problems of a file."""
    what = f"{len(lines)} problem{'s' * (len(lines) > 1)}:\n    " + "\n    ".join(lines)
    return ConfigError(what, where=where)


def to_toml(config: BaseModel, run: Path | None = None) -> str:
    """Write a stage file's values as TOML; reading it back gives an equal `config`.

    Args:
        config: The values.
        run: The run folder, relative to which paths in it are written; the file must then lie in a folder of it.
    """
    values = config.model_dump(mode="json", exclude_none=True)
    if run is not None:
        values = replaced(values, f"{run}/", RUN)
    return "\n".join(_table(values, ())).lstrip("\n") + "\n"


def _table(values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """Lines of a table: its plain values first, since what follows a header belongs to that header."""
    lines = [f"{key} = {_value(value)}" for key, value in values.items() if not isinstance(value, dict)]
    if path:
        lines = ["", f"[{'.'.join(path)}]", *lines]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += _table(value, (*path, key))
    return lines


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    return f"{{ {', '.join(f'{key} = {_value(item)}' for key, item in value.items())} }}"

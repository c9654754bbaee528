"""The only reader of TOML files, and the writer of stage files. One message lists all problems of a file."""

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

RUN = "{run}/"  # the start of paths in the run folder in stage files, so that the folder can be moved and copied

MOST_CHARACTERS = 1_000_000
MOST_DOTS = 1_000


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: The file is missing, not UTF-8, not TOML, or far larger than a file that a person would write.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows write a byte order mark
        # The reader's time grows with the square of the number of parts of a key.
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
    except (ValueError, RecursionError) as error:  # besides its own errors, the reader raises those of int()
        raise ConfigError(f"not valid TOML: {error}", where=str(path)) from None


def load_stage(kind: type[T], path: str | Path) -> T:
    """Read a stage file. A path that starts with `{run}/` lies in the run folder, the parent of the file's folder.

    Raises:
        ConfigError: The file cannot be read, or has unknown keys or wrong values; one message lists all of them.
    """
    run = os.path.normpath(Path(path).parent / "..")
    return validate(kind, replace_prefix(read_toml(path), RUN, f"{run}/"), str(path))


def replace_prefix(value: Any, start: str, new: str) -> Any:
    """Return plain values with the prefix `start` of every text replaced by `new`."""
    if isinstance(value, dict):
        return {key: replace_prefix(item, start, new) for key, item in value.items()}
    if isinstance(value, list):
        return [replace_prefix(item, start, new) for item in value]
    return new + value.removeprefix(start) if isinstance(value, str) and value.startswith(start) else value


def validate(kind: type[T], values: dict[str, Any], where: str) -> T:
    """Make a `kind` of plain values, or raise one ConfigError that lists all problems."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise merge_problems([f"{join_place(loc)}: {text}" for loc, text in list_problems(error)], where) from None


def list_problems(error: ValidationError) -> list[tuple[tuple[str | int, ...], str]]:
    """List the problems of a file, each as its place in the file and a message.

    Pydantic reports a list whose entries are all wrong as empty, too. That problem is left out.
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
        elif isinstance(problem["input"], (dict, BaseModel)):  # a problem of several keys, which the message names
            text = problem["msg"].removeprefix("Value error, ")
        else:
            text, given = problem["msg"].removeprefix("Value error, "), repr(problem["input"])
            named = (
                isinstance(problem["input"], str) and given in text
            )  # the message of a check of seqkd names the value
            text += "" if named else f", got {given}"
        found.append((_drop_tags(loc), text))
    return found


def _drop_tags(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Drop the tags by which pydantic tells kinds apart from a place. The file does not contain them."""
    return tuple(
        part
        for before, part in zip((None, *loc), loc, strict=False)
        if not (before in ("corpus", "target", "prepared") and part in ("one", "several"))
        and not (before in ("best_by", "teacher") and part in ("name", "one", "table"))
    )


def join_place(loc: tuple[str | int, ...]) -> str:
    """Write a place in a file as one word: `students.0.model.dim`."""
    return ".".join(str(part) for part in loc) or "(file)"


def merge_problems(lines: list[str], where: str) -> ConfigError:
    """Merge the problems of a file into one error."""
    what = f"{len(lines)} problem{'s' * (len(lines) > 1)}:\n    " + "\n    ".join(lines)
    return ConfigError(what, where=where)


def to_toml(config: BaseModel, run: Path | None = None) -> str:
    """Write a stage file's values as TOML; reading it back gives an equal `config`.

    Args:
        config: The values.
        run: The run folder. Paths in it are written relative to it; the file must be in a folder directly below it.
    """
    values = config.model_dump(mode="json", exclude_none=True)
    if run is not None:
        values = replace_prefix(values, f"{run}/", RUN)
    return "\n".join(_table(values, ())).lstrip("\n") + "\n"


def _table(values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """Write the lines of a table: its plain values first, because all lines after a header belong to that header."""
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

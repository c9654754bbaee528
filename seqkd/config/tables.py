"""Tables of a file that name a record of a registry and hold the settings that the record declares."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, cast

from pydantic import ConfigDict, SerializationInfo, TypeAdapter, ValidationError

from seqkd.errors import ConfigError
from seqkd.extensions import Registry, resolve, settings_class


@cache
def adapter(settings: str) -> TypeAdapter[Any]:
    """Return the reader and writer of the settings that a record names as `module:attribute`."""
    kind = settings_class(settings)
    kind.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    return TypeAdapter(kind)


def find_record(registry: Registry[Any], name: str) -> Any:
    """Find the record of a name.

    Raises:
        ValueError: There is no record of this name.
        ExtensionError: The entry point of this name cannot be used.
    """
    record = registry.find(name)
    if record is None:
        known = registry.known() or "(none is installed)"
        raise ValueError(f"unknown {registry.kind} {name!r}, expected one of: {known}")
    return record


def read_table(registry: Registry[Any], key: str, default: str, table: Any) -> dict[str, Any]:
    """Read a table: the name under `key`, and the settings under the other keys."""
    if not isinstance(table, dict):
        raise ValueError("Input should be a table")
    name = str(table.get(key, default))
    record = find_record(registry, name)
    given = {setting: value for setting, value in table.items() if setting != key}
    return {key: name, "settings": adapter(record.settings).validate_python(given)}


def read_options(settings: str, options: Mapping[str, Any]) -> Any:
    """Make settings of command-line options. An option that is None was not given.

    Raises:
        ConfigError: Values are out of bounds; one message lists all of them.
    """
    try:
        return adapter(settings).validate_python({name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        lines = []
        for line in error.errors():
            name = ".".join(map(str, line["loc"])).replace("_", "-")  # "" for an error about several options
            lines.append((f"--{name}: " if name else "") + line["msg"].removeprefix("Value error, "))
        raise ConfigError("; ".join(lines), where="options", hint="see --help") from None


def dump_settings(settings: str, values: Any, info: SerializationInfo) -> dict[str, Any]:
    """Return settings as plain values."""
    found: dict[str, Any] = adapter(settings).dump_python(
        values,
        mode="json" if info.mode_is_json() else "python",
        include=cast(Any, info.include),
        exclude=cast(Any, info.exclude),
        exclude_none=bool(info.exclude_none),
        exclude_defaults=bool(info.exclude_defaults),
    )
    return found


def identify(record: Any, settings: Any, dumped: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a record's settings that fingerprints contain; `dumped` are all of them as plain values."""
    return dict(resolve(record.identity)(settings)) if record.identity else dumped


def merge_errors(title: str, errors: list[ValidationError | tuple[str, ValidationError]]) -> ValidationError:
    """Merge the errors of several tables into one. A name before an error is its place."""
    lines: list[Any] = []
    for entry in errors:
        place, error = entry if isinstance(entry, tuple) else ("", entry)
        for line in error.errors(include_url=False):
            loc = (place, *line["loc"]) if place else line["loc"]
            lines.append({"type": line["type"], "loc": loc, "input": line["input"], "ctx": line.get("ctx", {})})
    return ValidationError.from_exception_data(title, lines)

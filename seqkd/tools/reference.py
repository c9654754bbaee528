"""The page docs/reference.md: every record that seqkd itself has, with its settings.

`python -m seqkd.tools.reference` prints the page.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter

from seqkd.extensions import resolve
from seqkd.tools.kinds import KINDS, Entry, Kind

Schema = Mapping[str, Any]  # a JSON schema

COMMAND = "python -m seqkd.tools.reference > docs/reference.md"
_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n {8,}.*)*)", re.MULTILINE)
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "pattern": "matches `{}`",
    "minItems": "{} or more entries",
    "maxItems": "at most {} entries",
}  # by the keyword of the JSON schema
_WORDS = {"object": "table", "string": "string", "integer": "integer", "number": "number", "boolean": "boolean"}


def reference(kinds: Iterable[Kind] = KINDS) -> str:
    """The page, in Markdown; records of packages outside seqkd are left out."""
    lines = [
        "# Reference",
        "",
        "The records of seqkd that pipeline files and commands can name, with the settings of each. Types are those of "
        "TOML; a path is a string. `seqkd inspect --kinds` also lists the records of installed packages. This page is "
        f"generated; after a change run `{COMMAND}`.",
    ]
    for kind in kinds:
        lines += ["", *_section(kind)]
    return "\n".join(lines) + "\n"


def settings_rows(settings: str) -> list[tuple[str, str, str, str, str]]:
    """Name, type, default, bounds and description of each setting.

    Args:
        settings: `module:attribute` of a dataclass.

    Raises:
        ExtensionError: The dataclass cannot be imported.
    """
    kind = resolve(settings)
    schema = TypeAdapter(kind).json_schema()
    described = _attributes(kind)
    return [
        (
            f"`{name}`",
            _type(setting, schema),
            _default(setting, required=name in schema.get("required", ())),
            ", ".join(_bounds(setting)),
            str(setting.get("description") or described.get(name, "")),
        )
        for name, setting in schema.get("properties", {}).items()
    ]


def _section(kind: Kind) -> list[str]:
    lines = [f"## {kind.title}", "", kind.place]
    if kind.registry is not None:
        lines[-1] += f" Packages add records with entry points of the group `{kind.registry.group}`."
    if not kind.own:
        return [*lines, "", "seqkd itself has none."]
    tables = {entry.name: settings_rows(entry.settings) for entry in kind.own}
    if not any(tables.values()):
        return [*lines, "", *_table(("name", "description"), [(f"`{entry.name}`", entry.help) for entry in kind.own])]
    for entry in kind.own:
        lines += ["", *_record(entry, tables[entry.name])]
    return lines


def _record(entry: Entry, rows: list[tuple[str, str, str, str, str]]) -> list[str]:
    lines = [f"### `{entry.name}`", "", f"{entry.help}."]
    return [*lines, "", *_table(("setting", "type", "default", "bounds", "description"), rows)] if rows else lines


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *cells)]


def _attributes(kind: type) -> dict[str, str]:
    """The descriptions of a dataclass' fields in its docstring and in those of its bases."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        _, _, section = (inspect.cleandoc(base.__doc__ or "")).partition("Attributes:\n")
        section, _, _ = section.partition("\n\n")
        found |= {name: " ".join(text.split()) for name, text in _ATTRIBUTE.findall(section)}
    return found


def _alternatives(schema: Schema) -> list[Schema]:
    """The schemas that a value may follow; null is left out, since TOML has none."""
    others = schema.get("anyOf", schema.get("oneOf", [schema]))
    return [other for other in others if other.get("type") != "null"]


def _type(schema: Schema, root: Schema) -> str:
    return _either(list(dict.fromkeys(_single(other, root) for other in _alternatives(schema))))


def _either(words: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _single(schema: Schema, root: Schema) -> str:
    if "$ref" in schema:
        return _type(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "enum" in schema:
        return _either([f"`{json.dumps(value)}`" for value in schema["enum"]])
    if schema.get("type") == "array":
        return f"array of {_type(_entries(schema), root)}s"
    return "path" if schema.get("format") == "path" else _WORDS[schema["type"]]


def _bounds(schema: Schema) -> list[str]:
    found = []
    for other in _alternatives(schema):
        if "prefixItems" in other:
            found.append(f"{len(other['prefixItems'])} entries")
        else:
            found += [text.format(_number(other[bound])) for bound, text in BOUNDS.items() if bound in other]
        if other.get("type") == "array":
            found += [f"each {bound}" for bound in _bounds(_entries(other))]
    return list(dict.fromkeys(found))


def _entries(array: Schema) -> Schema:
    """The schema of an array's entries; those of a tuple of fixed length are alike."""
    found: Schema = array["prefixItems"][0] if "prefixItems" in array else array["items"]
    return found


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _default(schema: Schema, *, required: bool) -> str:
    if required:
        return "(required)"
    value = schema.get("default", {})  # a default that a function makes is an empty table
    return "(none)" if value is None else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    print(reference(), end="")

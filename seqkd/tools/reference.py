"""The writer of docs/reference.md, with all records of seqkd itself and their settings.

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
Row = tuple[str, str, str, str, str]

COMMAND = "python -m seqkd.tools.reference > docs/reference.md"
_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n {8,}.*)*)", re.MULTILINE)
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "pattern": "matches `{}`",
    "minLength": "{} or more characters",
    "minItems": "{} or more entries",
    "maxItems": "at most {} entries",
}  # by the keyword of the JSON schema
_WORDS = {"object": "table", "string": "string", "integer": "integer", "number": "number", "boolean": "boolean"}


def write_reference(kinds: Iterable[Kind] = KINDS) -> str:
    """Return the page in Markdown. Records of packages outside seqkd are left out."""
    lines = [
        "# Reference",
        "",
        "The records of seqkd that pipeline files and commands can name, with the settings of each. Types are those of "
        "TOML; a path is a string. `seqkd inspect --kinds` also lists the records of installed packages. This page is "
        f"generated; after a change run `{COMMAND}`.",
    ]
    for kind in kinds:
        lines += ["", *_write_section(kind)]
    return "\n".join(lines) + "\n"


def settings_rows(settings: str) -> list[Row]:
    """Return the name, type, default, bounds and description of each setting.

    Args:
        settings: `module:attribute` of a dataclass.

    Raises:
        ExtensionError: The dataclass cannot be imported.
    """
    kind = resolve(settings)
    schema = TypeAdapter(kind).json_schema()
    described = _read_attributes(kind)
    return [
        (
            f"`{name}`",
            _name_type(setting, schema),
            _format_default(setting, required=name in schema.get("required", ())),
            ", ".join(_list_bounds(setting)),
            str(setting.get("description") or described.get(name, "")),
        )
        for name, setting in schema.get("properties", {}).items()
    ]


def _write_section(kind: Kind) -> list[str]:
    lines = [f"## {kind.title}", "", kind.place]
    if kind.registry is not None:
        lines[-1] += f" Packages add records with entry points of the group `{kind.registry.group}`."
    if not kind.own:
        return [*lines, "", "seqkd itself has none."]
    tables = {entry.name: (settings_rows(entry.settings), settings_rows(entry.export_settings)) for entry in kind.own}
    if not any(any(rows) for rows in tables.values()):
        return [
            *lines,
            "",
            *_write_table(("name", "description"), [(f"`{entry.name}`", entry.help) for entry in kind.own]),
        ]
    for entry in kind.own:
        lines += ["", *_write_record(entry, *tables[entry.name])]
    return lines


def _write_record(entry: Entry, rows: list[Row], export_rows: list[Row]) -> list[str]:
    lines = [f"### `{entry.name}`", "", f"{entry.help}."]
    for name, table in (("setting", rows), ("setting of the export", export_rows)):
        if table:
            lines += ["", *_write_table((name, "type", "default", "bounds", "description"), table)]
    return lines


def _write_table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *cells)]


def _read_attributes(kind: type) -> dict[str, str]:
    """Read the descriptions of the fields of a dataclass from its docstring and those of its bases."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        _, _, section = (inspect.cleandoc(base.__doc__ or "")).partition("Attributes:\n")
        section, _, _ = section.partition("\n\n")
        found |= {name: " ".join(text.split()) for name, text in _ATTRIBUTE.findall(section)}
    return found


def _list_alternatives(schema: Schema) -> list[Schema]:
    """List the schemas that a value may follow, without null, which TOML does not have."""
    others = schema.get("anyOf", schema.get("oneOf", [schema]))
    return [other for other in others if other.get("type") != "null"]


def _name_type(schema: Schema, root: Schema) -> str:
    return _join_words(list(dict.fromkeys(_name_single_type(other, root) for other in _list_alternatives(schema))))


def _join_words(words: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _name_single_type(schema: Schema, root: Schema) -> str:
    if "$ref" in schema:
        return _name_type(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "enum" in schema:
        return _join_words([f"`{json.dumps(value)}`" for value in schema["enum"]])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if schema.get("type") == "array":
        return f"array of {_name_type(_get_entry_schema(schema), root)}s"
    return "path" if schema.get("format") == "path" else _WORDS[schema["type"]]


def _list_bounds(schema: Schema) -> list[str]:
    found = []
    for other in _list_alternatives(schema):
        if "prefixItems" in other:
            found.append(f"{len(other['prefixItems'])} entries")
        else:
            found += [text.format(_format_number(other[bound])) for bound, text in BOUNDS.items() if bound in other]
        if other.get("type") == "array":
            found += [f"each {bound}" for bound in _list_bounds(_get_entry_schema(other))]
    return list(dict.fromkeys(found))


def _get_entry_schema(array: Schema) -> Schema:
    """Return the schema of the entries of an array. All entries of a tuple of fixed length have the same schema."""
    found: Schema = array["prefixItems"][0] if "prefixItems" in array else array["items"]
    return found


def _format_number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _format_default(schema: Schema, *, required: bool) -> str:
    if required:
        return "(required)"
    value = schema.get("default", {})  # a default from a function is shown as an empty table
    return "(none)" if value is None else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    print(write_reference(), end="")

"""docs/reference.md is the page that the records and their settings give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, TypeAdapter

from seqkd.extensions import resolve
from seqkd.tools.kinds import KINDS, Entry, Kind
from seqkd.tools.reference import BOUNDS, COMMAND, settings_rows, write_reference
from tests.snippets import ROOT

OWN = {f"{kind.title}: {entry.name}": entry for kind in KINDS for entry in kind.own}
# Keywords that hold no bound, and the ones that need not be shown.
SHOWN = {
    "title",
    "description",
    "default",
    "type",
    "format",
    "enum",
    "const",
    "anyOf",
    "oneOf",
    "items",
    "prefixItems",
    "$ref",
}


@dataclass(frozen=True, kw_only=True)
class Base:
    """Settings.

    Attributes:
        width: Width of
            a thing.
        kind: Not shown, since the class that inherits it describes it too.
    """

    width: Annotated[int, Field(ge=8, lt=64)] = 16
    kind: Literal["a", "b", "c"]


@dataclass(frozen=True, kw_only=True)
class Derived(Base):
    """Further settings.

    Attributes:
        kind: Which thing.

    Raises:
        ValueError: Never.
    """

    path: Annotated[Path | None, Field(description="a | b")] = None
    span: tuple[Annotated[float, Field(gt=0.5)], float] | None = (0.75, 2.0)
    names: Annotated[tuple[str, ...], Field(min_length=1)]


def test_the_page_in_docs_is_the_generated_one() -> None:
    written = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert written == write_reference(), f"run `{COMMAND}`"


def test_settings_have_their_type_default_bounds_and_description() -> None:
    assert settings_rows(f"{__name__}:Derived") == [
        ("`width`", "integer", "`16`", "at least 8, below 64", "Width of a thing."),
        ("`kind`", '`"a"`, `"b"` or `"c"`', "(required)", "", "Which thing."),
        ("`path`", "path", "(none)", "", "a | b"),
        ("`span`", "array of numbers", "`[0.75, 2.0]`", "2 entries, each above 0.5", ""),
        ("`names`", "array of strings", "(required)", "1 or more entries", ""),
    ]


def test_a_page_has_a_section_for_each_kind() -> None:
    entries = (Entry(name="thing", help="A thing", settings=f"{__name__}:Derived"), Entry(name="bare", help="Bare"))
    page = write_reference(
        [
            Kind(title="Things", place="Anywhere.", own=entries),
            Kind(title="Plain", place="Here.", own=(Entry(name="x", help="An x"),)),
            Kind(title="Nothing", place="Nowhere.", own=()),
        ]
    )
    assert "## Things\n\nAnywhere.\n\n### `thing`\n\nA thing.\n\n| setting | type |" in page
    assert "| `path` | path | (none) |  | a \\| b |\n" in page
    assert "### `bare`\n\nBare.\n\n## Plain\n\nHere.\n\n| name | description |\n| --- | --- |\n| `x` | An x |\n" in page
    assert page.endswith("## Nothing\n\nNowhere.\n\nseqkd itself has none.\n")


@pytest.mark.parametrize("entry", OWN.values(), ids=OWN)
def test_every_setting_is_described(entry: Entry) -> None:
    assert [name for name, *_, text in settings_rows(entry.settings) if not text or text.startswith("See `")] == []


def keywords(schema: Any) -> Iterator[str]:
    """All keywords of the schema of a setting, without those of tables in it."""
    if isinstance(schema, Mapping):
        yield from schema
        for key in ("anyOf", "oneOf", "items", "prefixItems"):
            yield from keywords(schema.get(key))
    elif isinstance(schema, list):
        for part in schema:
            yield from keywords(part)


@pytest.mark.parametrize("entry", OWN.values(), ids=OWN)
def test_no_bound_is_left_out(entry: Entry) -> None:
    properties = TypeAdapter(resolve(entry.settings)).json_schema().get("properties", {})
    found = {key for setting in properties.values() for key in keywords(setting)}
    assert found <= {*SHOWN, *BOUNDS, "additionalProperties"}

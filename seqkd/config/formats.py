"""The tables of formats of other toolkits, and the stage files of `import` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from pydantic import Field, SerializationInfo, model_serializer, model_validator

from seqkd.config.search import Strict
from seqkd.config.tables import adapter, dump_settings, find_record, read_table
from seqkd.extensions import display_name
from seqkd.interop.formats import FORMATS, Format


class ImportFormat(Strict):
    """A format that seqkd imports, and the settings of the import.

    In a file they are one table, with the name under `type`. A format without settings can be given by its name alone.
    """

    type: str
    settings: Any

    @property
    def record(self) -> Format:
        """The format's record."""
        return cast(Format, FORMATS.find(self.type))

    @model_validator(mode="before")
    @classmethod
    def _from_table(cls, values: Any) -> Any:
        if isinstance(values, cls):
            return values
        table = _as_table(values)
        _check_way(table, "read", "import")
        return read_table(FORMATS, "type", "", table)

    @model_serializer
    def _to_table(self, info: SerializationInfo) -> dict[str, Any]:
        return {"type": self.type, **dump_settings(self.record.settings, self.settings, info)}


class ExportFormat(Strict):
    """A format that seqkd exports, and the settings of the export, in the same form as `ImportFormat`."""

    type: str
    settings: Any

    @property
    def record(self) -> Format:
        """The format's record."""
        return cast(Format, FORMATS.find(self.type))

    @model_validator(mode="before")
    @classmethod
    def _from_table(cls, values: Any) -> Any:
        if isinstance(values, cls):
            return values
        table = _as_table(values)
        record = _check_way(table, "write", "export")
        given = {setting: value for setting, value in table.items() if setting != "type"}
        return {"type": record.name, "settings": adapter(record.export_settings).validate_python(given)}

    @model_serializer
    def _to_table(self, info: SerializationInfo) -> dict[str, Any]:
        return {"type": self.type, **dump_settings(self.record.export_settings, self.settings, info)}


def _as_table(values: Any) -> Any:
    return {"type": values} if isinstance(values, str) else values


def _check_way(table: Any, function: str, verb: str) -> Format:
    """Refuse a format whose record does not have the function that reads or writes models."""
    if not isinstance(table, dict):
        raise ValueError("Input should be the name of a format, or a table")
    record: Format = find_record(FORMATS, str(table.get("type", "")))
    able = [each.name for each in FORMATS.all() if getattr(each, function) is not None and each.exports == "model"]
    if record.name not in able:
        names = ", ".join(map(display_name, able))
        raise ValueError(f"seqkd cannot {verb} models in the format {record.name!r}, expected one of: {names}")
    return record


class ImportConfig(Strict):
    """Settings that turn a model of another toolkit into a model folder."""

    path: Path = Field(..., description="the file or folder of the model")
    format: ImportFormat = Field(..., description="the name of the format, or a table with its settings")


class ExportConfig(Strict):
    """Settings that turn a model folder into files of another toolkit."""

    model: Path = Field(..., description="a model folder")
    format: ExportFormat = Field(..., description="the name of the format, or a table with its settings")

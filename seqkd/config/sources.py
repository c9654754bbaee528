"""The table of a source of k-best lists in stage and pipeline files."""

from __future__ import annotations

from typing import Any, cast

from pydantic import SerializationInfo, model_serializer, model_validator

from seqkd.config.search import Strict
from seqkd.config.tables import dump_settings, identify, read_table
from seqkd.extensions import resolve
from seqkd.interop.sources import MODELS, SOURCES, WORKER, KBestSource


class SourceConfig(Strict):
    """A source of k-best lists and its settings. In a file they are one table, with the name under `type`.

    Without `type` the source is an external worker.
    """

    type: str
    settings: Any

    @property
    def record(self) -> KBestSource:
        """The source's record."""
        return cast(KBestSource, SOURCES.find(self.type))

    @model_validator(mode="before")
    @classmethod
    def _from_table(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("type") == MODELS:
            raise ValueError(f"models of {MODELS} are not a `source`: name them as the teacher, and leave `source` out")
        return values if isinstance(values, cls) else read_table(SOURCES, "type", WORKER, values)

    @property
    def unscored(self) -> bool:
        """Whether the lists never have scores and log-probabilities."""
        return bool(self.record.unscored) and bool(resolve(self.record.unscored)(self.settings))

    def identify(self) -> dict[str, Any]:
        """Return the values on which the lists depend, for fingerprints."""
        table: dict[str, Any] = self.model_dump(mode="json")
        return {"type": self.type, **identify(self.record, self.settings, table)}

    @model_serializer
    def _to_table(self, info: SerializationInfo) -> dict[str, Any]:
        return {"type": self.type, **dump_settings(self.record.settings, self.settings, info)}

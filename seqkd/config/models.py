"""Architectures and objectives as pipeline and stage files give them.

A table names a record of a registry; its other keys are the settings that the record names. A file that does not name
the architecture means a Transformer; one that does not name the objective means the architecture's own.
"""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from pydantic import ConfigDict, SerializationInfo, TypeAdapter, model_serializer, model_validator

from seqkd.config.search import Strict
from seqkd.extensions import Registry, resolve
from seqkd.models.registry import ARCHITECTURES, DEFAULT, Architecture
from seqkd.models.settings import StackSettings
from seqkd.objectives.registry import OBJECTIVES, Objective, TaughtSettings, suited


class ModelConfig(Strict):
    """An architecture and its settings. In a file they are one table, with the name under `arch`."""

    arch: str
    settings: Any

    @property
    def record(self) -> Architecture:
        """The architecture's record."""
        return cast(Architecture, ARCHITECTURES.find(self.arch))

    @model_validator(mode="before")
    @classmethod
    def _of_table(cls, values: Any) -> Any:
        return values if isinstance(values, cls) else _read(ARCHITECTURES, "arch", DEFAULT, values)

    @model_serializer
    def _to_table(self, info: SerializationInfo) -> dict[str, Any]:
        written = list(_written(self.record.settings, self.settings, info).items())
        # The settings that stacks share have always stood before `arch`: a plan stays the same in every byte.
        shared = len(fields(StackSettings)) if isinstance(self.settings, StackSettings) else 0
        return dict([*written[:shared], ("arch", self.arch), *written[shared:]])


class ObjectiveConfig(Strict):
    """An objective and its settings. In a file they are one table, with the name under `type`."""

    type: str
    settings: Any

    @property
    def record(self) -> Objective:
        """The objective's record."""
        return cast(Objective, OBJECTIVES.find(self.type))

    @property
    def taught(self) -> TaughtSettings | None:
        """The settings, if the objective needs a teacher's distributions."""
        return cast(TaughtSettings, self.settings) if self.record.needs.teacher_distributions else None

    def taught_by(self, *, teachers: tuple[Path, ...] = (), soft_targets: Path | None = None) -> ObjectiveConfig:
        """The same with these teachers, or with what they wrote down; only for an objective that has `taught`."""
        changed = replace(self.settings, teachers=teachers, soft_targets=soft_targets)
        return self.model_copy(update={"settings": changed})

    @model_validator(mode="before")
    @classmethod
    def _of_table(cls, values: Any) -> Any:
        return values if isinstance(values, cls) else _read(OBJECTIVES, "type", "nll", values)

    @model_serializer
    def _to_table(self, info: SerializationInfo) -> dict[str, Any]:
        return {"type": self.type, **_written(self.record.settings, self.settings, info)}


def default_model() -> ModelConfig:
    """The model of a file that has no table for it."""
    return ModelConfig.model_validate({})


def default_objective() -> ObjectiveConfig:
    """The objective of a file that has no table for it, and no architecture that could name one."""
    return ObjectiveConfig.model_validate({})


@cache
def _adapter(settings: str) -> TypeAdapter[Any]:
    """Reads and writes the settings that a record names as `module:attribute`."""
    kind = resolve(settings)
    kind.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)
    return TypeAdapter(kind)


def _read(registry: Registry[Any], key: str, default: str, table: Any) -> dict[str, Any]:
    """The name that stands in a table under `key`, and the settings that the table holds besides."""
    if not isinstance(table, dict):
        raise ValueError("Input should be a table")
    name = str(table.get(key, default))
    record = registry.find(name)
    if record is None:
        raise ValueError(f"unknown {registry.kind} {name!r}, expected one of: {registry.known()}")
    given = {setting: value for setting, value in table.items() if setting != key}
    return {key: name, "settings": _adapter(record.settings).validate_python(given)}


def _written(settings: str, values: Any, info: SerializationInfo) -> dict[str, Any]:
    """Settings as plain values."""
    written: dict[str, Any] = _adapter(settings).dump_python(
        values,
        mode="json" if info.mode_is_json() else "python",
        exclude=cast(Any, info.exclude),
        exclude_none=bool(info.exclude_none),
    )
    return written


def with_objective(values: Any) -> Any:
    """Name the objective of a table with `model` and `objective` after its architecture, where it does not."""
    if not isinstance(values, dict):
        return values
    objective, model = values.get("objective", {}), values.get("model", {})
    if not isinstance(objective, dict) or "type" in objective:
        return values
    if isinstance(model, dict):
        arch = str(model.get("arch", DEFAULT))
    else:
        arch = model.arch if isinstance(model, ModelConfig) else ""
    record = ARCHITECTURES.find(arch)
    return values if record is None else {**values, "objective": {**objective, "type": record.objective}}


def check_objective(model: ModelConfig, objective: ObjectiveConfig) -> None:
    """Raise ValueError if an architecture cannot be trained with an objective."""
    if not objective.record.fits(model.record):
        raise ValueError(
            f"objective.type {objective.type!r} does not fit model.arch {model.arch!r}, which takes "
            f"{', '.join(suited(model.record))}"
        )


def weighing() -> list[str]:
    """Names of the objectives that count each row by its weight."""
    return [record.name for record in OBJECTIVES.all() if record.needs.row_weights]

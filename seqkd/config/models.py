"""The tables of architectures, objectives and hooks in pipeline and stage files.

A table names a record of a registry. Its other keys are the settings that the record declares. The default
architecture is the Transformer, and the default objective is that of the architecture.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

from pydantic import Field, SerializationInfo, model_serializer, model_validator

from seqkd.config.search import Strict
from seqkd.config.tables import dump_settings, read_table
from seqkd.models.registry import ARCHITECTURES, DEFAULT, Architecture
from seqkd.models.settings import LATER, StackSettings
from seqkd.objectives.registry import OBJECTIVES, AskingSettings, Objective, TaughtSettings, suitable_objectives
from seqkd.training.hooks import HOOKS, HookKind


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
    def _from_table(cls, values: Any) -> Any:
        return values if isinstance(values, cls) else read_table(ARCHITECTURES, "arch", DEFAULT, values)

    @model_serializer
    def _to_table(self, info: SerializationInfo) -> dict[str, Any]:
        # The settings that all stacks share stand before `arch`, and later ones at the end, so that plans do not change
        # in a single byte.
        found = sorted(
            dump_settings(self.record.settings, self.settings, info).items(), key=lambda item: item[0] in LATER
        )
        stacked = isinstance(self.settings, StackSettings)
        shared = sum(option.name not in LATER for option in fields(StackSettings)) if stacked else 0
        return dict([*found[:shared], ("arch", self.arch), *found[shared:]])


class TermConfig(Strict):
    """A term of an objective. In a file it is one table, with the term's name under `type`."""

    type: str
    weight: float = Field(1.0, gt=0.0, allow_inf_nan=False)
    settings: Any

    @property
    def record(self) -> Objective:
        """The term's record."""
        return cast(Objective, OBJECTIVES.find(self.type))

    @property
    def asking(self) -> AskingSettings | None:
        """The settings, if the term asks a teacher."""
        return cast(AskingSettings, self.settings) if self.record.needs.teacher else None

    @property
    def taught(self) -> TaughtSettings | None:
        """The settings, if the term reads a teacher's distributions from stored soft targets."""
        able = self.record.needs.soft_targets and self.settings.soft_targets is not None
        return cast(TaughtSettings, self.settings) if able else None

    @model_validator(mode="before")
    @classmethod
    def _from_table(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        own = {name: values[name] for name in ("weight",) if name in values}
        return own | read_table(
            OBJECTIVES, "type", "", {name: value for name, value in values.items() if name not in own}
        )

    @model_serializer
    def _to_table(self, info: SerializationInfo) -> dict[str, Any]:
        weight = {} if self.weight == 1.0 else {"weight": self.weight}
        return {"type": self.type, **weight, **dump_settings(self.record.settings, self.settings, info)}


class ObjectiveConfig(Strict):
    """A sum of terms. In a file it is a list under `terms`, or the table of a single term."""

    terms: tuple[TermConfig, ...] = Field(..., min_length=1)
    listed: bool = Field(description="whether the file holds a list of terms")

    @property
    def type(self) -> str:
        """The terms' names: `nll + word_kd`."""
        return " + ".join(term.type for term in self.terms)

    @property
    def asking(self) -> tuple[AskingSettings, ...]:
        """The settings of the terms that ask a teacher."""
        return tuple(term.asking for term in self.terms if term.asking is not None)

    @property
    def taught(self) -> tuple[TaughtSettings, ...]:
        """The settings of the terms that read stored soft targets."""
        return tuple(term.taught for term in self.terms if term.taught is not None)

    @property
    def live(self) -> bool:
        """Whether a term asks teachers that run beside the student."""
        return len(self.asking) > len(self.taught)

    @property
    def teachers(self) -> tuple[Path, ...]:
        """Folders of the teachers that run beside the student. All terms have the same ones."""
        return next((settings.teachers for settings in self.asking if settings.teachers), ())

    @property
    def soft_targets(self) -> Path | None:
        """The stored soft targets. All terms that read soft targets read the same ones."""
        return self.taught[0].soft_targets if self.taught else None

    @property
    def weighs_rows(self) -> bool:
        """Whether every term counts each row by its weight."""
        return all(term.record.needs.row_weights for term in self.terms)

    @property
    def reads_rivals(self) -> bool:
        """Whether a term reads the rivals of targets."""
        return any(term.record.needs.rivals for term in self.terms)

    def with_teachers(self, *, teachers: tuple[Path, ...] = (), soft_targets: Path | None = None) -> ObjectiveConfig:
        """Return a copy with these teachers for terms that run one, and these soft targets for terms that read some."""

        def set_teachers(term: TermConfig) -> TermConfig:
            if term.asking is None:
                return term
            changed = {"teachers": teachers} if term.taught is None else {"soft_targets": soft_targets}
            return term.model_copy(update={"settings": replace(term.settings, **changed)})

        return self.model_copy(update={"terms": tuple(map(set_teachers, self.terms))})

    @model_validator(mode="before")
    @classmethod
    def _from_table(cls, values: Any) -> Any:
        if isinstance(values, cls):
            return values
        if not isinstance(values, dict) or "terms" not in values:
            alone = TermConfig.model_construct(weight=1.0, **read_table(OBJECTIVES, "type", "nll", values))
            return {"terms": (alone,), "listed": False}
        if len(values) > 1:
            others = ", ".join(name for name in values if name != "terms")
            raise ValueError(f"{others}: belongs to a term; an objective with `terms` has no other keys")
        return {**values, "listed": True}

    @model_validator(mode="after")
    def _check_same_teachers(self) -> ObjectiveConfig:
        live = {(settings.teachers, settings.precision) for settings in self.asking if settings.teachers}
        if len(live) > 1 or len({settings.soft_targets for settings in self.taught}) > 1:
            raise ValueError("terms: different teachers, precisions or soft targets; give all terms the same ones")
        return self

    @model_validator(mode="after")
    def _check_beside(self) -> ObjectiveConfig:
        if all(term.record.needs.rivals for term in self.terms):
            raise ValueError(
                f"{self.type}: stands beside another term; list it under `terms` together with, for example, nll"
            )
        return self

    @model_serializer
    def _to_table(self, info: SerializationInfo) -> dict[str, Any]:
        tables = [term._to_table(info) for term in self.terms]
        return {"terms": tables} if self.listed else tables[0]


class HookConfig(Strict):
    """A hook of the training loop. In a file it is one table, with the hook's name under `type`."""

    type: str
    settings: Any

    @property
    def record(self) -> HookKind:
        """The hook's record."""
        return cast(HookKind, HOOKS.find(self.type))

    @model_validator(mode="before")
    @classmethod
    def _from_table(cls, values: Any) -> Any:
        return values if isinstance(values, cls) else read_table(HOOKS, "type", "", values)

    @model_serializer
    def _to_table(self, info: SerializationInfo) -> dict[str, Any]:
        return {"type": self.type, **dump_settings(self.record.settings, self.settings, info)}


def default_model() -> ModelConfig:
    """Return the model of a file that has no table for it."""
    return ModelConfig.model_validate({})


def default_objective() -> ObjectiveConfig:
    """Return the objective of a file that has no table for it and names no architecture."""
    return ObjectiveConfig.model_validate({})


def with_objective(values: Any) -> Any:
    """Fill in the objective of a table with `model` and `objective`: if it has none, the architecture's own."""
    if not isinstance(values, dict):
        return values
    objective, model = values.get("objective", {}), values.get("model", {})
    if not isinstance(objective, dict) or "type" in objective or "terms" in objective:
        return values
    if isinstance(model, dict):
        arch = str(model.get("arch", DEFAULT))
    else:
        arch = model.arch if isinstance(model, ModelConfig) else ""
    record = ARCHITECTURES.find(arch)
    return values if record is None else {**values, "objective": {**objective, "type": record.objective}}


def check_objective(model: ModelConfig, objective: ObjectiveConfig) -> None:
    """Raise ValueError if an architecture cannot be trained with an objective."""
    for term in objective.terms:
        if not term.record.fits(model.record):
            raise ValueError(
                f"objective.type {term.type!r} does not fit model.arch {model.arch!r}, which takes "
                f"{', '.join(suitable_objectives(model.record))}"
            )


def list_weighing_objectives() -> list[str]:
    """List the names of the objectives that count each row by its weight."""
    return [record.name for record in OBJECTIVES.all() if record.needs.row_weights]

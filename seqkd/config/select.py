"""How targets are selected, as stage and pipeline files give it."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from typing_extensions import Self

from seqkd.config.search import Strict
from seqkd.config.tables import adapter, read_table, record_of, together, written
from seqkd.extensions import settings_class
from seqkd.metrics.tokenizers import TokenizerChoice
from seqkd.selection.registry import DEFAULT_SCORER, FILTERS, RULES, SCORERS, Filter, Read, Rule, Scorer


class FilterConfig(Strict):
    """What is rejected besides empty hypotheses. Lengths are subwords.

    In a file it is one table with a key for each filter; see `Filter.name`.
    """

    settings: dict[str, Any] = Field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        """The value of a filter's key, or its settings if the key holds a table; None if the key is missing."""
        settings = self.settings.get(name)
        return getattr(settings, name) if settings is not None and _is_one(type(settings), name) else settings

    def is_one(self, name: str) -> bool:
        """Whether a filter's key holds one value and not a table."""
        return _is_one(type(self.settings[name]), name)

    @property
    def active(self) -> list[Filter]:
        """The filters that reject something."""
        found = []
        for record in FILTERS.all():
            value = self[record.name]
            if value is not None and value is not False and (record.off is None or value != record.off):
                found.append(record)
        return found

    def reads(self, what: Read) -> list[str]:
        """The names of the filters that are on and look at this."""
        return [record.name for record in self.active if what in record.reads]

    @model_validator(mode="before")
    @classmethod
    def _of_table(cls, values: Any) -> Any:
        if isinstance(values, cls):
            return values
        if not isinstance(values, dict):
            raise ValueError("Input should be a table")
        found: dict[str, Any] = {}
        errors: list[ValidationError | tuple[str, ValidationError]] = []
        for name in [*FILTERS.own, *(name for name in values if name not in FILTERS.own)]:
            record = FILTERS.find(name)
            if record is None:
                unknown = [{"type": "extra_forbidden", "loc": (name,), "input": values[name]}]
                errors.append(ValidationError.from_exception_data(cls.__name__, cast(Any, unknown)))
                continue
            kind = settings_class(record.settings)
            one = _is_one(kind, name)
            if name not in values and not (one and fields(kind)[0].default is not MISSING):
                continue
            table = {key: values[key] for key in (name,) if key in values} if one else values[name]
            try:
                found[name] = adapter(record.settings).validate_python(table)
            except ValidationError as error:
                errors.append(error if one else (name, error))
        if errors:
            raise together(cls.__name__, errors)
        return {"settings": found}

    @model_serializer
    def _to_table(self, info: SerializationInfo) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for name, settings in self.settings.items():
            values = written(cast(Filter, FILTERS.find(name)).settings, settings, info)
            table |= values if _is_one(type(settings), name) else {name: values}
        return table


def _is_one(settings: Any, name: str) -> bool:
    """Whether settings are one field that is called as the filter itself."""
    return [field.name for field in fields(settings)] == [name]


class ScorerConfig(Strict):
    """A scorer and its settings. In a file they are one table, with the name under `type`."""

    type: str
    settings: Any

    @property
    def record(self) -> Scorer:
        """The scorer's record."""
        return cast(Scorer, SCORERS.find(self.type))

    @property
    def models(self) -> dict[str, Path]:
        """The model folders that it reads, by the names of their settings."""
        found = {name: getattr(self.settings, name) for name in self.record.folders}
        return {name: folder for name, folder in found.items() if folder is not None}

    @model_validator(mode="before")
    @classmethod
    def _of_table(cls, values: Any) -> Any:
        return values if isinstance(values, cls) else read_table(SCORERS, "type", DEFAULT_SCORER, values)

    @model_serializer
    def _to_table(self, info: SerializationInfo) -> dict[str, Any]:
        name = {} if self.type == DEFAULT_SCORER else {"type": self.type}
        return {**name, **written(self.record.settings, self.settings, info)}


class SelectSettings(Strict):
    """Which hypothesis becomes the target. The rule's own settings stand in the same table of a file."""

    rule: str
    settings: Any = None
    tokenizer: TokenizerChoice | Literal["pieces"] = Field(
        "auto", description="of sentence BLEU; auto: by the target's language; pieces: the vocabulary's subwords"
    )
    smoothing: Literal["exp", "floor", "add-k", "none"] = Field("exp", description="of sentence BLEU")
    seed: int = Field(1, ge=0, description='of rule "sample"')
    rerank: ScorerConfig | None = Field(None, description='the scorer of rule "rerank"')
    filters: FilterConfig = FilterConfig()
    rejected: Literal["drop", "next", "gold"] = Field(
        "drop", description="what a row gets whose choice is rejected: nothing, the next best, or its gold target"
    )
    workers: int = Field(0, ge=0, description="processes; 0: one for each core")

    @property
    def record(self) -> Rule:
        """The rule's record."""
        return cast(Rule, RULES.find(self.rule))

    @property
    def keeps_all(self) -> bool:
        """Whether every hypothesis is kept, with a weight."""
        return self.record.values is None

    @property
    def reads_references(self) -> bool:
        """Whether the choice or a filter depends on the references."""
        return "references" in self.record.reads or bool(self.filters.reads("references"))

    @field_validator("rule")
    @classmethod
    def _known(cls, name: str) -> str:
        record_of(RULES, name)
        return name

    @model_validator(mode="wrap")
    @classmethod
    def _of_table(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(values, dict):
            return handler(values)
        record = RULES.find(str(values.get("rule", "")))
        if record is None:
            return handler(values)
        own = {name: value for name, value in values.items() if name not in cls.model_fields or name == "settings"}
        others = {name: value for name, value in values.items() if name not in own}
        errors: list[ValidationError | tuple[str, ValidationError]] = []
        settings = None
        try:
            settings = adapter(record.settings).validate_python(own)
        except ValidationError as error:
            errors.append(error)
        try:
            made = handler({**others, "settings": settings})
        except ValidationError as error:
            errors.append(error)
        if errors:
            raise together(cls.__name__, errors)
        return made

    @model_validator(mode="after")
    def _fits(self) -> SelectSettings:
        if ("scorer" in self.record.reads) != (self.rerank is not None):
            raise ValueError('a rule that reads a scorer, such as "rerank", and the table `rerank` go together')
        if self.keeps_all and self.rejected == "next":
            raise ValueError(
                f'rule "{self.rule}" keeps every hypothesis that no filter rejects: rejected is "drop" or "gold"'
            )
        return self

    @model_serializer(mode="wrap")
    def _to_table(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        table = handler(self)
        table.pop("settings", None)
        own = written(self.record.settings, self.settings, info)
        return {**{name: value for name, value in table.items() if name == "rule"}, **own, **table}

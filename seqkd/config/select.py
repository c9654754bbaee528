"""The settings of the selection of targets in stage and pipeline files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
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
from seqkd.config.tables import adapter, dump_settings, find_record, identify, merge_errors, read_table
from seqkd.extensions import settings_class
from seqkd.interop.workers import ScorerSettings
from seqkd.metrics.tokenizers import TokenizerChoice
from seqkd.selection.registry import DEFAULT_SCORER, FILTERS, RULES, SCORERS, Filter, Read, Rule, Scorer


class FilterConfig(Strict):
    """The filters, which reject hypotheses besides empty ones. Lengths are in subwords.

    In a file it is one table with a key for each filter; see `Filter.name`.
    """

    settings: dict[str, Any] = Field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        """Return the value of a filter's key, or its settings if the key holds a table; None if the key is missing."""
        settings = self.settings.get(name)
        return getattr(settings, name) if settings is not None and _holds_one_value(type(settings), name) else settings

    def holds_one_value(self, name: str) -> bool:
        """Whether a filter's key holds one value and not a table."""
        return _holds_one_value(type(self.settings[name]), name)

    def identify(self) -> dict[str, Any]:
        """Return the values on which the choice depends, for fingerprints."""
        table: dict[str, Any] = self.model_dump(mode="json")
        return table | {
            name: identify(record, settings, table[name])
            for name, settings in self.settings.items()
            if not self.holds_one_value(name) and (record := FILTERS.find(name)) is not None
        }

    @property
    def active(self) -> list[Filter]:
        """The filters that are switched on."""
        found = []
        for record in FILTERS.all():
            value = self[record.name]
            if value is not None and value is not False and (record.off is None or value != record.off):
                found.append(record)
        return found

    def reads(self, what: Read) -> list[str]:
        """List the names of the active filters that read this."""
        return [record.name for record in self.active if what in record.reads]

    @model_validator(mode="before")
    @classmethod
    def _from_table(cls, values: Any) -> Any:
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
            one = _holds_one_value(kind, name)
            if name not in values and not (one and fields(kind)[0].default is not MISSING):
                continue
            table = {key: values[key] for key in (name,) if key in values} if one else values[name]
            try:
                found[name] = adapter(record.settings).validate_python(table)
            except ValidationError as error:
                errors.append(error if one else (name, error))
        if errors:
            raise merge_errors(cls.__name__, errors)
        return {"settings": found}

    @model_serializer
    def _to_table(self, info: SerializationInfo) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for name, settings in self.settings.items():
            values = dump_settings(cast(Filter, FILTERS.find(name)).settings, settings, info)
            table |= values if _holds_one_value(type(settings), name) else {name: values}
        return table


def _holds_one_value(settings: Any, name: str) -> bool:
    """Whether settings are one field that has the name of the filter."""
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
        """The model folders that the scorer reads, by the names of their settings."""
        found = {name: getattr(self.settings, name) for name in self.record.folders}
        return {name: folder for name, folder in found.items() if folder is not None}

    def with_models(self, folders: Mapping[str, Path]) -> ScorerConfig:
        """Return the scorer with other model folders, by the names of their settings."""
        return self.model_copy(update={"settings": replace(self.settings, **folders)})

    @property
    def reads_references(self) -> bool:
        """Whether the scorer gets the references."""
        return isinstance(self.settings, ScorerSettings) and self.settings.reference

    def identify(self) -> dict[str, Any]:
        """Return the values on which the scores depend besides the model folders, for fingerprints."""
        table: dict[str, Any] = self.model_dump(mode="json", exclude=set(self.record.folders))
        if not self.record.identity:
            return table
        return {"type": self.type, **identify(self.record, self.settings, table)}

    @model_validator(mode="before")
    @classmethod
    def _from_table(cls, values: Any) -> Any:
        return values if isinstance(values, cls) else read_table(SCORERS, "type", DEFAULT_SCORER, values)

    @model_serializer
    def _to_table(self, info: SerializationInfo) -> dict[str, Any]:
        name = {} if self.type == DEFAULT_SCORER else {"type": self.type}
        return {**name, **dump_settings(self.record.settings, self.settings, info)}


EXPECTED_SCORE = "mbr-score"  # a rule


class SelectSettings(Strict):
    """The choice of the hypothesis that becomes the target. In a file the rule's own settings are in the same table."""

    rule: str
    settings: Any = None
    tokenizer: TokenizerChoice | Literal["pieces"] = Field(
        "auto",
        description="tokenizer of sentence BLEU; auto: by the target's language; pieces: the vocabulary's subwords",
    )
    smoothing: Literal["exp", "floor", "add-k", "none"] = Field("exp", description="smoothing of sentence BLEU")
    seed: int = Field(1, ge=0, description='seed of rule "sample"')
    keep: int = Field(1, ge=1, description='hypotheses of each row that become targets, with weights as in rule "all"')
    scorer: ScorerConfig | None = Field(None, description="the scorer of a rule that reads one")
    rerank: ScorerConfig | None = Field(None, description="the earlier name of `scorer`")
    filters: FilterConfig = FilterConfig()
    rejected: Literal["drop", "next", "gold"] = Field(
        "drop",
        description="if the chosen hypothesis is rejected: drop the row, take the next best, or take the gold target",
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
    def weighs(self) -> bool:
        """Whether a row may have several targets, which then have weights."""
        return self.keeps_all or self.keep > 1

    @property
    def judge(self) -> ScorerConfig | None:
        """The scorer of the rule, or None."""
        return self.scorer if self.rerank is None else self.rerank

    @property
    def reads_scores(self) -> list[str]:
        """The keys of the rule and of the filters that read the scores or log-probabilities of the lists."""
        found = ["rule"] if "scores" in self.record.reads else []
        return found + [f"filters.{name}" for name in self.filters.reads("scores")]

    @property
    def reads_references(self) -> bool:
        """Whether the choice or a filter depends on the references."""
        read = "references" in self.record.reads or bool(self.filters.reads("references"))
        compares = self.judge is not None and self.judge.reads_references and self.rule != EXPECTED_SCORE
        return read or compares

    @field_validator("rule")
    @classmethod
    def _check_rule(cls, name: str) -> str:
        find_record(RULES, name)
        return name

    @model_validator(mode="wrap")
    @classmethod
    def _from_table(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(values, dict):
            return handler(values)
        record = RULES.find(str(values.get("rule", cls.model_fields["rule"].default)))
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
            raise merge_errors(cls.__name__, errors)
        return made

    @model_validator(mode="after")
    def _check_settings(self) -> SelectSettings:
        given = [name for name in ("scorer", "rerank") if getattr(self, name) is not None]
        if len(given) == 2:
            raise ValueError("give one scorer: the table `scorer`, or `rerank`, which is its earlier name")
        if "scorer" in self.record.reads and not given:
            raise ValueError(f'rule "{self.rule}" requires the table `scorer`, which describes a scorer')
        if given and "scorer" not in self.record.reads:
            raise ValueError(f'rule "{self.rule}" does not read a scorer: leave the table `{given[0]}` out')
        if self.rule == EXPECTED_SCORE and not cast(ScorerConfig, self.judge).reads_references:
            raise ValueError(
                f'rule "{self.rule}" requires a scorer that compares with a reference: '
                'give a scorer of type "worker" with reference = true'
            )
        if self.keeps_all and self.keep > 1:
            raise ValueError(f'rule "{self.rule}" keeps every hypothesis: leave `keep` out, or choose another rule')
        if self.record.rivals is not None and self.keep > 1:
            raise ValueError(f'rule "{self.rule}" keeps one target and its rival: leave `keep` out')
        if self.keeps_all and self.rejected == "next":
            raise ValueError(
                f'rule "{self.rule}" keeps every hypothesis that no filter rejects: rejected is "drop" or "gold"'
            )
        return self

    @model_serializer(mode="wrap")
    def _to_table(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        table = handler(self)
        table.pop("settings", None)
        own = dump_settings(self.record.settings, self.settings, info)
        return {**{name: value for name, value in table.items() if name == "rule"}, **own, **table}

"""Neutral options, which fingerprints leave out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError

from seqkd.config.models import HookConfig, ModelConfig, ObjectiveConfig, TermConfig
from seqkd.config.select import FilterConfig, ScorerConfig, SelectSettings
from seqkd.config.sources import SourceConfig


@dataclass(frozen=True, slots=True)
class Introduced:
    """Annotates an option whose default has changed: `Annotated[int, Introduced(5)] = 4`.

    In a fingerprint without the option, it has the default of the version that introduced it.

    Attributes:
        default: The default of that version, as a JSON value.
    """

    default: Any


@dataclass(frozen=True, slots=True)
class _Option:
    """A field of a settings class. If it has no default, `default` is `dataclasses.MISSING`."""

    name: str
    type: Any
    default: Any
    marks: tuple[Any, ...]


def find_neutral(settings: Any) -> dict[str, Any]:
    """Find the neutral values of options, by dotted name. Fingerprints leave out options that have their neutral value.

    The neutral value of an option is the default of the version that introduced it. The names of kinds (`arch`, `type`)
    are always in the fingerprint, because the defaults of the other options depend on them.

    Args:
        settings: The settings of a stage. Their classes, also of nested tables, are pydantic models or dataclasses.
    """
    return dict(_iterate_neutral(settings, ""))


def fill_in_neutral(kind: Any, written: Mapping[str, Any]) -> dict[str, Any]:
    """Add the options that a fingerprint leaves out to its settings.

    Args:
        kind: The class of the settings, or a union of classes.
        written: The settings in a fingerprint of any version.

    Returns:
        `written` itself if it holds options that this version does not have.
    """
    try:
        settings = TypeAdapter(kind).validate_python(dict(written))
    except ValidationError:
        return dict(written)
    full: dict[str, Any] = TypeAdapter(kind).dump_python(settings, mode="json")
    return full | {
        name: value for name, value in find_neutral(settings).items() if name not in written and "." not in name
    }


def _iterate_neutral(settings: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(settings, ObjectiveConfig):
        for index, term in enumerate(settings.terms):
            yield from _iterate_neutral(term, f"{prefix}terms.{index}." if settings.listed else prefix)
        return
    # These are one table in a file, with the name and the settings.
    if isinstance(settings, (ModelConfig, TermConfig, HookConfig, ScorerConfig, SourceConfig)):
        yield from _iterate_neutral(settings.settings, prefix)
        return
    if isinstance(settings, FilterConfig):
        for name, values in settings.settings.items():
            yield from _iterate_neutral(values, prefix if settings.holds_one_value(name) else f"{prefix}{name}.")
        return
    if isinstance(settings, SelectSettings):
        yield from _iterate_neutral(settings.settings, prefix)
    for option in _list_options(settings):
        if isinstance(settings, SelectSettings) and option.name == "settings":
            continue
        if get_origin(option.type) is Literal and len(get_args(option.type)) == 1:
            continue
        key, value = f"{prefix}{option.name}", getattr(settings, option.name)
        if _is_settings(value):
            yield from _iterate_neutral(value, f"{key}.")
            if _is_settings(option.default):
                yield key, {}  # the table itself; a table that is absent by default is in the fingerprint
            continue
        if isinstance(value, tuple):
            for index, item in enumerate(value):
                if _is_settings(item):
                    yield from _iterate_neutral(item, f"{key}.{index}.")
        introduced = [mark.default for mark in option.marks if isinstance(mark, Introduced)]
        if introduced:
            yield key, introduced[0]
        elif option.default is not dataclasses.MISSING and not _is_settings(option.default):
            yield key, json.loads(json.dumps(option.default, default=str))


def _is_settings(value: Any) -> bool:
    return isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def _list_options(settings: Any) -> Iterator[_Option]:
    if isinstance(settings, BaseModel):
        for name, info in type(settings).model_fields.items():
            default = dataclasses.MISSING if info.is_required() else info.get_default(call_default_factory=True)
            yield _Option(name, info.annotation, default, tuple(info.metadata))
        return
    hints = get_type_hints(type(settings), include_extras=True)
    for option in dataclasses.fields(settings):
        made = option.default_factory() if option.default_factory is not dataclasses.MISSING else option.default
        hint = hints[option.name]
        kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        yield _Option(option.name, kind, made, tuple(marks))

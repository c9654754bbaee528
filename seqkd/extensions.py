"""Registries: seqkd's own records of one kind, and the records that installed packages add through entry points.

A registry is a dict literal of records by name. A record names its code as `module:attribute`. Listing a registry
therefore imports none of that code, and a record may name code of a package that is imported later. A package outside
seqkd adds a record with an entry point. Its name is the name of the record, and its value is the record:

    [project.entry-points."seqkd.architectures"]
    mine = "my_package.model:RECORD"
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, is_dataclass
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Protocol, TypeVar

from seqkd.errors import ExtensionError

OWN = "seqkd"
_MEMBER = re.compile(r"[A-Za-z0-9_]+")


class Record(Protocol):
    """An entry of a registry.

    Attributes:
        name: The name that files use. A name that ends with a colon is the prefix of a family, as in `fairseq:NAME`.
        help: A description in one line.
    """

    @property
    def name(self) -> str:
        """See above."""
        ...

    @property
    def help(self) -> str:
        """See above."""
        ...


R = TypeVar("R", bound=Record)


NO_SETTINGS = "seqkd.extensions:NoSettings"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoSettings:
    """The settings of a record without settings."""


def find_entry_points(group: str) -> Iterable[EntryPoint]:
    """Return the entry points of a group in all installed packages."""
    return list(_all_entry_points().select(group=group))


@cache
def _all_entry_points() -> Any:
    """Return all entry points. The search through the installed packages is slow, and the same for every group."""
    return entry_points()


class Registry(Generic[R]):
    """All records of one kind.

    Entry points are looked up at the first query. Each one is imported when its record is first requested.

    Args:
        kind: A noun for messages, such as "architecture".
        record: The type of the records.
        group: The group of the entry points.
        own: seqkd's own records by name.
        check: Returns the problem of another package's record, or "" if the record is valid.
        find: Returns the entry points of a group.
    """

    def __init__(
        self,
        kind: str,
        record: type[R],
        *,
        group: str,
        own: dict[str, R],
        check: Callable[[R], str] = lambda _: "",
        find: Callable[[str], Iterable[EntryPoint]] = find_entry_points,
    ) -> None:
        self.kind, self.group, self.own = kind, group, own
        self._record, self._check, self._find = record, check, find
        self._loaded: dict[str, R | ExtensionError] = {}

    def names(self) -> list[str]:
        """Return all names, seqkd's own first, without importing any extension.

        Raises:
            ExtensionError: Two packages register the same name.
        """
        return [*self.own, *self._added]

    def known(self) -> str:
        """Return all names in one line, for messages: `transformer, lstm, fairseq:NAME`."""
        return ", ".join(display_name(name) for name in self.names())

    def find(self, name: str) -> R | None:
        """Return the record of a name or of the family that the name belongs to, or None if there is no such record.

        Raises:
            ExtensionError: Two packages register the same name, or the entry point of this name cannot be used.
        """
        family, colon, member = name.partition(":")
        if colon:
            if not _MEMBER.fullmatch(member):
                return None
            name = f"{family}:"
        if name in self._added:
            found = self._load(name)
            if isinstance(found, ExtensionError):
                raise found
            return found
        return self.own.get(name)

    def get(self, name: str) -> R:
        """Return the record of a name that is known to exist.

        Raises:
            ExtensionError: The package that registers the name is not installed or cannot be used.
        """
        record = self.find(name)
        if record is None:
            raise ExtensionError(
                f"no {self.kind} is called {name!r}",
                where=f"entry points {self.group!r}",
                expected=f"one of: {self.known()}",
                hint="install the package that registers it",
            )
        return record

    def package(self, name: str) -> str:
        """Return the package that registers a name, which is one of `names`.

        Raises:
            ExtensionError: Two packages register the same name.
        """
        return _package(self._added[name]) if name in self._added else OWN

    def all(self) -> list[R]:
        """Return all records in the order of `names`, without the entry points that cannot be used; see `broken`.

        Raises:
            ExtensionError: Two packages register the same name.
        """
        return [*self.own.values(), *(found for found in self._load_all() if not isinstance(found, ExtensionError))]

    def broken(self) -> list[ExtensionError]:
        """Return an error for each entry point that cannot be used.

        Raises:
            ExtensionError: Two packages register the same name.
        """
        return [found for found in self._load_all() if isinstance(found, ExtensionError)]

    @cached_property
    def _added(self) -> dict[str, EntryPoint]:
        """The entry points by name."""
        added: dict[str, EntryPoint] = {}
        for point in sorted(self._find(self.group), key=lambda point: (point.name, _package(point))):
            other = OWN if point.name in self.own else _package(added[point.name]) if point.name in added else None
            if other is not None:
                raise ExtensionError(
                    f"two packages register the {self.kind} {point.name!r}: {other} and {_package(point)}",
                    where=f"entry points {self.group!r}",
                    expected="one package for each name",
                    hint="uninstall one of the two packages, or rename the entry point in one of them",
                )
            added[point.name] = point
        return added

    def _load_all(self) -> list[R | ExtensionError]:
        return [self._load(name) for name in self._added]

    def _load(self, name: str) -> R | ExtensionError:
        """Import an entry point, at most once."""
        if name not in self._loaded:
            self._loaded[name] = self._import(self._added[name])
        return self._loaded[name]

    def _import(self, point: EntryPoint) -> R | ExtensionError:
        where = f"entry point {point.name!r} of the group {self.group!r}, package {_package(point)}"
        hint = f"repair or uninstall the package {_package(point)}"
        try:
            found = point.load()
        except Exception as error:  # a package may fail at import in any way
            what = f"{point.value} cannot be imported: {type(error).__name__}: {error}"
            return ExtensionError(what, where=where, hint=hint)
        if not isinstance(found, self._record) or found.name != point.name:
            expected = f"a {self._record.__name__} whose name is {point.name!r}"
            return ExtensionError(f"{point.value} is {found!r:.200}", where=where, expected=expected, hint=hint)
        try:
            if hasattr(found, "settings"):
                settings_class(found.settings)
            wrong = self._check(found)
        except ExtensionError as error:
            return ExtensionError(
                f"its settings class {error.where}: {error.what}", where=where, expected=error.expected, hint=hint
            )
        return ExtensionError(f"{point.value} {wrong}", where=where, hint=hint) if wrong else found


def display_name(name: str) -> str:
    """Return a name as messages show it. The name of a family is followed by NAME."""
    return f"{name}NAME" if name.endswith(":") else name


def resolve(reference: str) -> Any:
    """Import an object that a record names as `module:attribute`.

    Raises:
        ExtensionError: The module cannot be imported or has no such attribute.
    """
    module, _, attribute = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ExtensionError(
            f"cannot be imported: {error}",
            where=reference,
            hint="install the packages that the module needs, or repair or uninstall the package of the record",
        ) from error


def settings_class(reference: str) -> Any:
    """Import the settings class that a record names.

    Raises:
        ExtensionError: The class cannot be imported or is not a frozen dataclass.
    """
    kind = resolve(reference)
    if isinstance(kind, type) and is_dataclass(kind) and kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return kind
    raise ExtensionError(
        f"is {kind!r:.200}",
        where=reference,
        expected="a frozen dataclass, with the bounds of its fields in `Annotated`",
        hint="decorate the class with @dataclass(frozen=True)",
    )


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "(unknown)"

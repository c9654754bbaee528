"""Registries: the records of one kind that seqkd has, and those that installed packages add through entry points.

A registry is a dict literal of records by name. A record names the code behind it as `module:attribute`, so that
listing a registry imports none of that code, and a record may name code of a package that is imported later. A package
outside seqkd adds a record with an entry point whose name is the record's and whose value is the record:

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
        name: By which files name it. A name that ends with a colon is the prefix of a family, `fairseq:NAME`.
        help: One line about it.
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
    """The settings of a record that has none."""


def installed(group: str) -> Iterable[EntryPoint]:
    """The entry points of a group in all installed packages."""
    return list(_everything().select(group=group))


@cache
def _everything() -> Any:
    """All entry points: looking through the installed packages takes a while, and is the same for every group."""
    return entry_points()


class Registry(Generic[R]):
    """All records of one kind.

    Entry points are looked up at the first question, and each is imported when its record is first asked for.

    Args:
        kind: A noun for messages, such as "architecture".
        record: The type of the records.
        group: The entry points' group.
        own: seqkd's own records by name.
        check: Says what is wrong with the record of another package, or "" if nothing is.
        find: Gives the entry points of a group.
    """

    def __init__(
        self,
        kind: str,
        record: type[R],
        *,
        group: str,
        own: dict[str, R],
        check: Callable[[R], str] = lambda _: "",
        find: Callable[[str], Iterable[EntryPoint]] = installed,
    ) -> None:
        self.kind, self.group, self.own = kind, group, own
        self._record, self._check, self._find = record, check, find
        self._loaded: dict[str, R | ExtensionError] = {}

    def names(self) -> list[str]:
        """All names, seqkd's own first. No extension is imported.

        Raises:
            ExtensionError: Two packages register one name.
        """
        return [*self.own, *self._added]

    def known(self) -> str:
        """All names in one line, for messages: `transformer, lstm, fairseq:NAME`."""
        return ", ".join(shown(name) for name in self.names())

    def find(self, name: str) -> R | None:
        """The record of a name, or of the family that the name belongs to; None if there is none.

        Raises:
            ExtensionError: Two packages register one name, or the entry point of this name cannot be used.
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

    def named(self, name: str) -> R:
        """The record of a name that is known to be there.

        Raises:
            ExtensionError: The package that registers it has gone, or cannot be used.
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
        """The package that registers a name, one of `names`.

        Raises:
            ExtensionError: Two packages register one name.
        """
        return _package(self._added[name]) if name in self._added else OWN

    def all(self) -> list[R]:
        """All records, in the order of `names`, without the entry points that cannot be used; see `broken`.

        Raises:
            ExtensionError: Two packages register one name.
        """
        return [*self.own.values(), *(found for found in self._tried() if not isinstance(found, ExtensionError))]

    def broken(self) -> list[ExtensionError]:
        """What is wrong with each entry point that cannot be used.

        Raises:
            ExtensionError: Two packages register one name.
        """
        return [found for found in self._tried() if isinstance(found, ExtensionError)]

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
                    expected="each name once",
                    hint="uninstall one of the two packages, or rename the entry point in one of them",
                )
            added[point.name] = point
        return added

    def _tried(self) -> list[R | ExtensionError]:
        return [self._load(name) for name in self._added]

    def _load(self, name: str) -> R | ExtensionError:
        """Import an entry point, once."""
        if name not in self._loaded:
            self._loaded[name] = self._import(self._added[name])
        return self._loaded[name]

    def _import(self, point: EntryPoint) -> R | ExtensionError:
        where = f"entry point {point.name!r} of the group {self.group!r}, package {_package(point)}"
        hint = f"mend or uninstall the package {_package(point)}"
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
                f"its settings {error.where}: {error.what}", where=where, expected=error.expected, hint=hint
            )
        return ExtensionError(f"{point.value} {wrong}", where=where, hint=hint) if wrong else found


def shown(name: str) -> str:
    """A name as messages show it: that of a family is followed by NAME."""
    return f"{name}NAME" if name.endswith(":") else name


def resolve(reference: str) -> Any:
    """Import what a record names as `module:attribute`.

    Raises:
        ExtensionError: The module cannot be imported, or has no such attribute.
    """
    module, _, attribute = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ExtensionError(
            f"cannot be imported: {error}",
            where=reference,
            hint="install what the module needs, or mend or uninstall the package whose record names it",
        ) from error


def settings_class(reference: str) -> Any:
    """Import the settings that a record names.

    Raises:
        ExtensionError: They cannot be imported, or are not a frozen dataclass.
    """
    kind = resolve(reference)
    if isinstance(kind, type) and is_dataclass(kind) and kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return kind
    raise ExtensionError(
        f"is {kind!r:.200}",
        where=reference,
        expected="the settings of a record: a frozen dataclass, with bounds in `Annotated`",
        hint="decorate the class with @dataclass(frozen=True)",
    )


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "(unknown)"

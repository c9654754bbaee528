"""Registries: what seqkd has of each kind, and what installed packages add."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from typing import Any

import pytest

from seqkd.errors import ExtensionError
from seqkd.extensions import Registry, resolve, settings_class
from seqkd.metrics.registry import METRICS
from seqkd.models.registry import ARCHITECTURES, Architecture
from seqkd.objectives.registry import OBJECTIVES, Needs, Objective, find_missing_settings, suitable_objectives
from seqkd.selection.registry import FILTERS, RULES, SCORERS

GROUP = "seqkd.things"
REGISTRIES: tuple[Registry[Any], ...] = (ARCHITECTURES, OBJECTIVES, RULES, FILTERS, SCORERS, METRICS)


@dataclass(frozen=True)
class Thing:
    name: str
    help: str = "a thing"


ROCK = Thing("rock")
TREE = Thing("tree")


def install(folder: Path, package: str, **points: str) -> None:
    """What pip leaves of a package that has these entry points."""
    there = folder / f"{package}-1.0.dist-info"
    there.mkdir(parents=True)
    (there / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {value}\n" for name, value in points.items()]
    (there / "entry_points.txt").write_text(f"[{GROUP}]\n{''.join(lines)}")


def finder(folder: Path) -> Callable[[str], Iterable[EntryPoint]]:
    return lambda group: [
        point for found in distributions(path=[str(folder)]) for point in found.entry_points if point.group == group
    ]


def things(folder: Path) -> Registry[Thing]:
    return Registry(
        "thing", Thing, group=GROUP, own={"stone": Thing("stone"), "moss:": Thing("moss:")}, find=finder(folder)
    )


HERE = "tests.unit.test_extensions"


def test_packages_add_records_after_seqkds_own(tmp_path: Path) -> None:
    install(tmp_path, "forest", tree=f"{HERE}:TREE", rock=f"{HERE}:ROCK")
    found = things(tmp_path)
    assert found.names() == ["stone", "moss:", "rock", "tree"]
    assert found.known() == "stone, moss:NAME, rock, tree"
    assert found.find("tree") is TREE
    assert found.find("stone") is found.own["stone"]
    assert found.find("sand") is None
    assert [record.name for record in found.all()] == found.names()
    assert found.broken() == []


def test_a_family_has_one_record_for_all_its_names(tmp_path: Path) -> None:
    found = things(tmp_path)
    assert found.find("moss:green_1") is found.own["moss:"]
    for name in ("moss:", "moss:a b", "moss:a:b", "fern:green", "moss"):
        assert found.find(name) is None


@pytest.mark.parametrize(("name", "other"), [("tree", "forest"), ("stone", "seqkd")])
def test_two_packages_with_one_name_are_named(tmp_path: Path, name: str, other: str) -> None:
    install(tmp_path, "forest", tree=f"{HERE}:TREE")
    install(tmp_path, "wood", **{name: f"{HERE}:TREE"})
    found = things(tmp_path)
    asked: list[Callable[[], object]] = [found.names, found.all, lambda: found.find("stone")]
    for ask in asked:
        with pytest.raises(ExtensionError, match=f"two packages register the thing '{name}': {other} and wood"):
            ask()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "no_such_module_anywhere:TREE",
            "cannot be imported: ModuleNotFoundError: No module named 'no_such_module_any",
        ),
        (f"{HERE}:SHRUB", "cannot be imported: AttributeError"),
        (f"{HERE}:GROUP", "expected: a Thing whose name is 'tree'"),
        (f"{HERE}:ROCK", "expected: a Thing whose name is 'tree'"),
    ],
)
def test_an_entry_point_that_cannot_be_used_troubles_only_who_asks_for_it(
    tmp_path: Path, value: str, message: str
) -> None:
    install(tmp_path, "forest", tree=value, rock=f"{HERE}:ROCK")
    found = things(tmp_path)
    assert found.find("rock") is ROCK
    assert [record.name for record in found.all()] == ["stone", "moss:", "rock"]
    with pytest.raises(ExtensionError) as caught:
        found.find("tree")
    for part in ("entry point 'tree' of the group 'seqkd.things', package forest", value, message):
        assert part in str(caught.value)
    assert caught.value.exit_code == 2
    assert [str(error) for error in found.broken()] == [str(caught.value)]


def test_an_entry_point_is_imported_once_and_only_if_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    (tmp_path / "seqkd_test_lazy.py").write_text(
        f"from {HERE} import TREE\nwith open({str(log)!r}, 'a') as file:\n    file.write('imported ')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "lazy", tree="seqkd_test_lazy:TREE")
    found = things(tmp_path)
    assert found.known().endswith("tree")
    assert found.find("stone") is not None
    assert not log.exists()
    assert found.find("tree") is found.find("tree") is TREE
    assert log.read_text() == "imported "


def test_what_cannot_be_resolved_is_named() -> None:
    for reference in ("no_such_module_anywhere:x", f"{HERE}:SHRUB"):
        with pytest.raises(ExtensionError, match="cannot be imported") as caught:
            resolve(reference)
        assert caught.value.where == reference


def references(record: Any) -> list[str]:
    """The `module:attribute` strings of a record."""
    found = []
    for field in fields(record):
        value = getattr(record, field.name)
        if field.name not in ("name", "help") and isinstance(value, str) and ":" in value:
            found.append(value)
        elif is_dataclass(value):
            found += references(value)
    return found


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_every_record_has_its_name_its_help_and_code_that_is_there(registry: Registry[Any]) -> None:
    for name, record in registry.own.items():
        assert record.name == name
        assert record.help
        assert "\n" not in record.help
        for reference in references(record):
            if reference.startswith("seqkd.interop.fairseq") and importlib.util.find_spec("fairseq") is None:
                assert importlib.util.find_spec(reference.partition(":")[0]) is not None
            else:
                assert callable(resolve(reference))


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_settings_are_frozen_and_given_by_name(registry: Registry[Any]) -> None:
    for record in registry.own.values():
        if not hasattr(record, "settings"):
            continue
        kind = settings_class(record.settings)
        assert all(field.kw_only for field in fields(kind))


def test_objectives_suit_the_architectures_that_they_say() -> None:
    three = ["nll", "word_kd", "margin"]
    expected = {"transformer": three, "lstm": three, "sru": three, "fairseq:": ["fairseq"]}
    for name, record in ARCHITECTURES.own.items():
        assert suitable_objectives(record) == expected.get(name, [name])
        assert record.objective in OBJECTIVES.own
    settings = "tests.unit.test_extensions:Thing"
    mine = Objective(name="mine", help="x", settings=settings, build=settings, suits=frozenset({"nat"}))
    assert [name for name, record in ARCHITECTURES.own.items() if mine.fits(record)] == ["nat"]
    own = Architecture(name="own", help="x", settings=settings, build=settings, decodes="one label", objective="mine")
    assert mine.fits(own)


def test_objectives_that_need_distributions_have_the_settings_for_teachers() -> None:
    taught = [record for record in OBJECTIVES.own.values() if record.needs.teacher_distributions]
    assert taught == [OBJECTIVES.own["word_kd"]]
    for record in taught:
        settings = resolve(record.settings)()
        assert (settings.teachers, settings.soft_targets) == ((), None)
        assert (settings.temperature, settings.direction, settings.precision) == (1.0, "forward", "auto")


@dataclass
class Melting:
    x: int = 1


@dataclass(frozen=True)
class Set:
    name: str
    settings: str
    help: str = "a thing with settings"


MELTING = Set("melting", f"{HERE}:Melting")
MISSING = Set("missing", f"{HERE}:Nothing")
SOUND = Set("sound", f"{HERE}:Thing")


def test_settings_that_are_no_frozen_dataclass_are_refused(tmp_path: Path) -> None:
    install(tmp_path, "snow", melting=f"{HERE}:MELTING", missing=f"{HERE}:MISSING", sound=f"{HERE}:SOUND")
    found = Registry("thing", Set, group=GROUP, own={}, find=finder(tmp_path))
    assert found.find("sound") is SOUND
    with pytest.raises(ExtensionError, match=r"(?s)'melting'.*its settings .*:Melting: is .*expected: .*frozen datac"):
        found.find("melting")
    with pytest.raises(ExtensionError, match=r"its settings .*:Nothing: cannot be imported"):
        found.find("missing")
    assert len(found.broken()) == 2


TEACHABLE = Objective(
    name="taught",
    help="x",
    settings="seqkd.objectives.nll:NllSettings",
    build="seqkd.objectives.nll:build",
    needs=Needs(teacher_distributions=True, soft_targets=True),
)


def test_an_objective_that_asks_a_teacher_takes_one(tmp_path: Path) -> None:
    install(tmp_path, "school", taught=f"{HERE}:TEACHABLE")
    found = Registry("objective", Objective, group=GROUP, own={}, check=find_missing_settings, find=finder(tmp_path))
    with pytest.raises(ExtensionError, match="its settings lack teachers, precision, soft_targets, temperature, dir"):
        found.find("taught")


def test_registries_are_listed_without_torch() -> None:
    code = (
        "import sys; import seqkd.config.models; from seqkd.config.models import ARCHITECTURES, OBJECTIVES;"
        "from seqkd.config.select import *; FILTERS.names(), RULES.names(), SCORERS.names();"
        "OBJECTIVES.names(), ARCHITECTURES.names(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""`seqkd inspect --kinds`: the records of seqkd and those of installed packages."""

from __future__ import annotations

import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from seqkd.cli.main import main
from seqkd.tools.kinds import KINDS, Kind, make_registry_kind, show_kinds
from tests.snippets import ROOT
from tests.unit.test_extensions import HERE, install, things


def printed(kinds: list[Kind]) -> list[list[str]]:
    """The lines that are printed, each as the texts of its cells."""
    file = StringIO()
    show_kinds(kinds, console=Console(file=file, width=300))
    return [[cell.strip() for cell in re.split("[│┃]", line) if cell.strip()] for line in file.getvalue().split("\n")]


def test_records_of_packages_are_marked_and_broken_entry_points_are_named(tmp_path: Path) -> None:
    install(tmp_path, "forest", tree=f"{HERE}:TREE", shrub=f"{HERE}:SHRUB")
    lines = printed([make_registry_kind(things(tmp_path), title="Things", place="Anywhere.")])
    assert ["stone", "a thing", "seqkd"] in lines
    assert ["moss:NAME", "a thing", "seqkd"] in lines
    assert ["tree", "a thing", "forest"] in lines
    assert not any(line[:1] == ["shrub"] for line in lines)
    [broken] = [line[0] for line in lines if line and "cannot be imported" in line[0]]
    assert broken.startswith(f"Things: entry point 'shrub' of the group 'seqkd.things', package forest: {HERE}:SHRUB ")


def test_two_packages_with_one_name_leave_the_other_kinds_and_seqkds_own_records(tmp_path: Path) -> None:
    install(tmp_path / "two", "forest", tree=f"{HERE}:TREE")
    install(tmp_path / "two", "wood", tree=f"{HERE}:TREE")
    install(tmp_path / "one", "forest", tree=f"{HERE}:TREE")
    kinds = [make_registry_kind(things(tmp_path / name), title=name, place="Anywhere.") for name in ("two", "one")]
    lines = printed(kinds)
    assert lines.count(["stone", "a thing", "seqkd"]) == 2
    assert lines.count(["tree", "a thing", "forest"]) == 1
    assert any("two packages register the thing 'tree': forest and wood" in "".join(line) for line in lines)


def test_text_in_brackets_is_shown_as_it_is() -> None:
    assert any(line[:1] == ["[[students]]"] for line in printed(list(KINDS)))


def test_every_registry_is_listed() -> None:
    declared = {
        group
        for path in (ROOT / "seqkd").rglob("*.py")
        for group in re.findall(r' = Registry\([^)]*?group="([a-z_.]+)"', path.read_text(encoding="utf-8"))
    }
    assert len(declared) >= 9
    assert {kind.registry.group for kind in KINDS if kind.registry is not None} == declared


def test_the_command_prints_all_names_and_descriptions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--kinds"]) == 0
    said = capsys.readouterr()
    assert not said.err
    for kind in KINDS:
        assert kind.title in said.out
        for entry in kind.own:
            assert entry.name in said.out
            assert entry.help.split()[0] in said.out


@pytest.mark.parametrize("arguments", [[], [".", "--kinds"]])
def test_inspect_wants_a_folder_or_kinds(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", *arguments]) == 2
    assert "give either a folder or --kinds" in capsys.readouterr().err


def test_kinds_are_listed_without_torch() -> None:
    code = "import sys; from seqkd.tools.kinds import KINDS; assert KINDS; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

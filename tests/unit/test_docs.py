"""Commands, links and excerpts in the README and the docs are right; a slow test of pipelines runs the Python there."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import pytest

from seqkd.cli.main import main
from tests.snippets import ROOT, anchors, blocks, commands, excerpts, links, makes, mentions

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without the files that commands name: they are parsed, and then end with one message."""
    monkeypatch.chdir(tmp_path)


def complaint(text: str, capsys: Capture) -> str:
    """What is wrong with the words of a command, by the command line itself; empty if nothing is."""
    assert main(shlex.split(text)) == 2
    said = capsys.readouterr().err
    return said if "Usage: seqkd" in said else ""


@pytest.mark.parametrize(("place", "text"), [*commands()])
def test_commands_in_blocks_are_whole(place: str, text: str, capsys: Capture) -> None:
    variables = re.sub(r"\$\w+", "1", text)
    assert complaint(variables, capsys) == "", place


@pytest.mark.parametrize(("place", "text"), [*mentions()])
def test_commands_in_the_prose_have_these_options(place: str, text: str, capsys: Capture) -> None:
    """The prose names a command and an option, not all that the command needs: its help is asked for."""
    assert main([*shlex.split(text), "--help"]) == 0, f"{place}: {capsys.readouterr().err}"


@pytest.mark.parametrize("text", ["train --config a --out b --speed 3", "trains --config a --out b", "train --out b"])
def test_a_command_that_is_not_there_would_be_found(text: str, capsys: Capture) -> None:
    assert complaint(text, capsys)


@pytest.mark.parametrize("text", ["train --speed 3", "trains"])
def test_an_option_that_is_not_there_would_be_found(text: str) -> None:
    assert main([*text.split(), "--help"]) == 2


@pytest.mark.parametrize(("place", "text"), [*makes()])
def test_calls_of_make_name_targets_and_pipelines(place: str, text: str) -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    words = shlex.split(text)
    assert {word for word in words if "=" not in word} <= {*phony[1].split()}, place
    names = [word.removeprefix("PIPELINE=") for word in words if word.startswith("PIPELINE=")]
    shipped = {path.stem for path in ROOT.glob("pipelines/**/*.toml")}
    assert all(name in shipped or name.endswith(".toml") for name in names), place


def test_there_are_commands_and_programs_to_look_at() -> None:
    assert len([*commands()]) > 8
    assert len([*mentions()]) > 5
    assert len([*makes()]) > 4
    assert any(block.is_python for block in blocks())
    assert len([*links()]) > 100
    assert len([*excerpts()]) > 15


def test_links_lead_to_files_and_headings() -> None:
    broken = []
    for page, target in links():
        name, _, heading = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (heading and heading not in anchors(file)):
            broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


def test_excerpts_are_in_the_files_that_they_name() -> None:
    """The page may indent them less than the file does."""
    changed = []
    for place, file, text in excerpts():
        source = (ROOT / file).read_text(encoding="utf-8")
        if not any(textwrap.indent(text, " " * indent) in source for indent in (0, 4, 8)):
            changed.append(f"{place}: {file} does not have: {text}")
    assert not changed

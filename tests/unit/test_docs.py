"""Commands, TOML, links and excerpts in the README and the docs are right.

The slow tests in tests/integration/test_snippets.py run the snippets.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import pytest
from pydantic import ValidationError

from seqkd.cli.main import main
from seqkd.config import stages
from seqkd.config.search import Strict
from seqkd.config.toml import join_place, list_problems
from seqkd.pipeline import file as pipeline_file
from tests.snippets import (
    ROOT,
    Block,
    anchors,
    blocks,
    blocks_of,
    commands,
    excerpts,
    exemptions,
    language_of,
    links,
    makes,
    mentions,
    read_toml,
)

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
    assert len([*links()]) > 100
    assert len([*excerpts()]) > 15
    assert {"python", "shell", "toml"} <= {block.language for block in blocks()}


KINDS = [
    kind
    for module in (pipeline_file, stages)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Strict) and kind is not Strict
]


def misfits(text: str) -> list[str]:
    """What is wrong with a part of a pipeline or stage file, by the schema that has its keys; a part may lack some."""
    values = pipeline_file.put_in_lists(read_toml(text))
    if isinstance(values.get("students"), dict):  # a part of one of [[students]]
        values["students"] = [values["students"]]
    shared = values.pop("student", {})
    for student in values.get("students", ()):
        student |= shared | student
    found = []
    for kind in KINDS:
        if not values.keys() <= kind.model_fields.keys():
            continue
        try:
            kind.model_validate(values)
        except ValidationError as error:
            wrong = [f"{join_place(loc)}: {said}" for loc, said in list_problems(error) if said != "missing"]
            if wrong:
                found.append(wrong)
                continue
        return []
    return found[0] if found else [f"no table of a pipeline or stage file has the keys {', '.join(values)}"]


@pytest.mark.parametrize(
    "block",
    [block for block in blocks() if block.language == "toml" and block.exemption is None],
    ids=lambda block: block.place,
)
def test_toml_fits_a_pipeline_or_stage_file(block: Block) -> None:
    assert misfits(block.text) == [], block.place


@pytest.mark.parametrize(
    "text",
    ['[[students]]\nname = "a"\ncorpora = "gold"', "[teacher]\nensemble = 0", "beams = 2\ncorpus = 3", "speed = 3"],
)
def test_toml_that_does_not_fit_would_be_found(text: str) -> None:
    assert misfits(text)


def test_every_exemption_stands_above_a_snippet_and_gives_a_reason() -> None:
    assert all(len(reason.split()) > 1 for _, reason in exemptions())
    above = sorted(block.exemption for block in blocks() if block.exemption is not None)
    assert above == sorted(reason for _, reason in exemptions())


def test_snippets_are_found_by_their_indentation_or_fence_and_exempted_by_the_comment_above() -> None:
    page = "\n".join(
        [
            "Prose",
            "    that goes on, and a list:",
            "",
            "    make demo",
            "",
            "    make test",
            "",
            "<!-- not run: takes hours -->",
            "",
            "    make PIPELINE=big report",
            "",
            "```python",
            "x = [1]",
            "```",
            "<!-- not run: a part of a class -->",
            "```python",
            "def f(self): ...",
            "```",
            "",
            "    a drawing -> of boxes",
        ]
    )
    assert blocks_of(page, "page.md") == [
        Block("page.md:4", "make demo\n\nmake test", "shell"),
        Block("page.md:10", "make PIPELINE=big report", "shell", "takes hours"),
        Block("page.md:13", "x = [1]", "python"),
        Block("page.md:17", "def f(self): ...", "python", "a part of a class"),
        Block("page.md:20", "a drawing -> of boxes", "text"),
    ]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (".venv/bin/seqkd inspect runs/toy  # what is there", "shell"),
        ("PLUGIN=$(python -c 'print(1)')", "shell"),
        ("zstdcat text.zst | seqkd translate --model m", "shell"),
        ("for i in 1 2; do\n    seqkd train; done", "shell"),
        ('[[students]]\nname = "a"', "toml"),
        ("rounds = 3", "toml"),
        ("row = id % 1_000", "python"),
        ("from seqkd.corpus.reader import Corpus", "python"),
        ("runs/toy/\n  plan.mk     Make's rules", "text"),
    ],
)
def test_the_language_of_a_snippet_is_recognised(text: str, language: str) -> None:
    assert language_of(text) == language


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

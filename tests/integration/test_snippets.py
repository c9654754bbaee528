"""Every shell and Python snippet of the README and the docs runs, in a checkout in which the toy pipeline has run.

The page exempts a snippet with a comment, see `tests/snippets.py`. The files that snippets name beside the run are made
here: `EVERYDAY` lists them.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pytest

from seqkd.pipeline.make import write_plan
from tests.integration.pipelines import ROOT, environment, run_stages, shrunk, toy_text, write_pipeline
from tests.snippets import Block, blocks

pytestmark = pytest.mark.slow

HELD_OUT = 5
SUITE = re.compile(r"^\s*(make .*\b(test|test-plain|torture|check|bench)\b|pytest\b)", re.MULTILINE)
LINKED = ("Makefile", "constraints.txt", "data", "pyproject.toml", "seqkd")


def sources(checkout: Path) -> bytes:
    """A few sentences of the source language."""
    return (checkout.parent / "text" / "test.src").read_bytes()


def pairs(checkout: Path) -> bytes:
    """The same with their translations, separated by tabs."""
    targets = (checkout.parent / "text" / "test.tgt").read_bytes().splitlines()
    return b"".join(b"%s\t%s\n" % pair for pair in zip(sources(checkout).splitlines(), targets, strict=True))


def stage_file(name: str) -> Callable[[Path], bytes]:
    """A stage file of the run, moved out of it."""
    return lambda checkout: (checkout / "runs/toy/config" / f"{name}.toml").read_bytes().replace(b"{run}", b"runs/toy")


# The files of a user beside the run, by the names that the pages give them.
EVERYDAY: Mapping[str, Callable[[Path], bytes]] = {
    "text": sources,
    "text.gz": lambda checkout: gzip.compress(sources(checkout)),
    "text.zst": lambda checkout: pa.compress(sources(checkout), codec="zstd", asbytes=True),
    "pairs.tsv": pairs,
    "distill.toml": stage_file("distill.beam5"),
    "select.toml": stage_file("select.seqkd"),
}
# And folders that a user has copied out of the run.
COPIED = {
    "models/teacher": "teacher",
    "runs/own/students/small": "students/seqkd",
    "corpora/seqkd": "corpora/seqkd",
    "archive/run7": "",
    "runs/toy-large": "",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkout in `pristine`, whose paths are those of `work` beside it."""
    folder = tmp_path_factory.mktemp("snippets")
    checkout = folder / "work"
    (checkout / "pipelines").mkdir(parents=True)
    for name in LINKED:
        (checkout / name).symlink_to(ROOT / name)
    values = shrunk(ROOT / "pipelines/toy.toml", toy_text(folder / "text", rows=100, held_out=HELD_OUT))
    values["students"] = values["students"][:2]
    write_pipeline(values, checkout / "pipelines")
    programs = checkout / ".venv/bin"
    programs.mkdir(parents=True)
    for name, words in {"python": "", "seqkd": "-m seqkd"}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (programs / name).chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(checkout)
        write_plan(Path("pipelines/toy.toml"), Path("runs"))
        run(Block("", "make -n PIPELINE=toy report", "shell"), checkout)  # Make notes the sizes and times of the text
        run_stages(Path("pipelines/toy.toml"), Path("runs"))
    for name, content in EVERYDAY.items():
        (checkout / name).write_bytes(content(checkout))
    for name, original in COPIED.items():
        shutil.copytree(checkout / "runs/toy" / original, checkout / name)
    checkout.rename(folder / "pristine")
    return folder


@pytest.fixture
def checkout(made: Path) -> Path:
    """The checkout as it was before any snippet ran, always in the same place: Make compares paths and times."""
    shutil.rmtree(made / "work", ignore_errors=True)
    shutil.copytree(made / "pristine", made / "work", symlinks=True)
    return made / "work"


def run(block: Block, checkout: Path) -> subprocess.CompletedProcess[str]:
    """Run a snippet as a user would, in the checkout, whose Make uses this Python and installs nothing."""
    words = [sys.executable, "-c"] if block.language == "python" else ["bash", "-e", "-o", "pipefail", "-c"]
    here = {
        "VENV": "",
        "PYTHON": sys.executable,
        "DEVICE": "cpu",
        "PATH": f"{checkout / '.venv/bin'}:{os.environ['PATH']}",
        "HF_HOME": str(checkout / "hf"),
        "HF_HUB_OFFLINE": "1",
    }
    return subprocess.run(
        [*words, block.text],
        cwd=checkout,
        env=environment() | here,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("block", [block for block in blocks() if block.runs], ids=lambda block: block.place)
def test_a_snippet_of_the_docs_runs(block: Block, checkout: Path) -> None:
    assert not SUITE.search(block.text), f"{block.place}: the test suite cannot run inside itself: exempt the snippet"
    done = run(block, checkout)
    assert done.returncode == 0, f"{block.place}\n{done.stdout}"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("seqkd inspect runs/nothing\ntrue", "shell"),
        ("false | cat", "shell"),
        ("import nothing_of_that_name", "python"),
    ],
)
def test_a_snippet_that_fails_would_be_found(text: str, language: str, checkout: Path) -> None:
    assert run(Block("here", text, language), checkout).returncode != 0


def test_the_prepared_run_is_finished_for_make(checkout: Path) -> None:
    done = run(Block("here", "make PIPELINE=toy report", "shell"), checkout)
    assert "Nothing to be done for 'report'" in done.stdout

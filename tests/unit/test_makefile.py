"""What the Makefile says; nothing is installed or trained here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("train", "valid", "test")


def make(*words: str) -> tuple[int, str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", *words], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


def test_help_is_the_default_and_names_every_goal_and_pipeline() -> None:
    code, shown = make()
    assert code == 0
    listed = set(re.findall(r"^  ([a-z -]+?)  +\S", shown, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    assert set(" ".join(listed).split()) == set(phony[1].split())
    assert all(path.stem in shown.splitlines()[-1] for path in ROOT.glob("pipelines/**/*.toml"))


@pytest.mark.parametrize("words", [["report"], ["PIPELINE=nope", "report"], ["PIPELINE=nope.toml", "students"]])
def test_a_pipeline_that_is_not_there_is_answered_with_those_that_are(words: list[str]) -> None:
    code, shown = make("VENV=", f"PYTHON={sys.executable}", *words)
    assert code == 2
    assert "there are: " in shown
    assert "toy" in shown
    assert len(shown.splitlines()) == 1


@pytest.mark.parametrize("python", ["false", "no-such-python"])
def test_a_python_that_is_too_old_or_missing_is_answered(python: str, tmp_path: Path) -> None:
    code, shown = make(f"VENV={tmp_path / 'venv'}", f"PYTHON={python}", "setup")
    assert code == 2
    assert "error: seqkd needs Python 3.10 or newer" in shown
    assert "make PYTHON=" in shown
    assert not (tmp_path / "venv").exists()


def test_a_mistake_in_a_pipeline_file_stops_make_with_its_message(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n')
    code, shown = make("VENV=", f"PYTHON={sys.executable}", f"PIPELINE={path}", f"RUNS={tmp_path}", "report")
    assert code == 2
    assert f"error: {path}: 2 problems:" in shown
    assert "Traceback" not in shown


def test_another_pipeline_file_of_the_same_name_is_refused(tmp_path: Path) -> None:
    data = {part: f'{{ source = "{tmp_path}/{part}.src", target = "{tmp_path}/{part}.tgt" }}' for part in PARTS}
    texts = "\n".join(f"{part} = {names}" for part, names in data.items())
    text = f'name = "mine"\n[data]\n{texts}\n[teacher.training]\nmax_updates = 1\n'
    files = [tmp_path / name / "mine.toml" for name in ("one", "two")]
    for number, file in enumerate(files):
        file.parent.mkdir()
        file.write_text(f"seed = {number}\n{text}")
    words = ["VENV=", f"PYTHON={sys.executable}", f"RUNS={tmp_path}/runs", "--dry-run", "prepare"]
    for _ in range(2):
        code, shown = make(*words, f"PIPELINE={files[0]}")
        assert code == 0, shown
        assert "seqkd prepare" in shown
    code, shown = make(*words, f"PIPELINE={files[1]}")
    assert code == 2
    assert f"the run folder belongs to {files[0]}, another pipeline file with the same name" in shown

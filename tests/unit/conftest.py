from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.unit.cli.cli_stub import Run
from tests.unit.pipeline.pipeline_files import PIPELINE


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline file in the working folder, with the files that it names."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.src", "a.tgt", "b.src", "b.tgt", "c.tsv"):
        (tmp_path / name).write_text("x\n")
    path = tmp_path / "small.toml"
    path.write_text(PIPELINE)
    return path


@pytest.fixture
def select_file(tmp_path: Path) -> Path:
    """A stage file of `seqkd select`."""
    path = tmp_path / "select.toml"
    path.write_text('kbest = "k"\ngold = "g"\nprepared = "p"\nrule = "seqkd"\n')
    return path


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    """Puts a function in the place of `seqkd select`'s stage."""

    def install(run: Run) -> None:
        module = ModuleType("seqkd.stages.select.select")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "seqkd.stages.select.select", module)

    return install

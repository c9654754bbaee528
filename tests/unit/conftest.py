from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.pipeline_files import PIPELINE


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline file in the working folder, with the files that it names."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.src", "a.tgt", "b.src", "b.tgt", "c.tsv"):
        (tmp_path / name).write_text("x\n")
    path = tmp_path / "small.toml"
    path.write_text(PIPELINE)
    return path

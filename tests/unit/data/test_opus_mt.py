"""The script of the pipeline `opus-mt` with a folder that is given. The shipped pipeline is run without one."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest


def test_the_variable_names_the_folder(
    teaching: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text"
    words = ["--out", str(tmp_path / "out"), "--text", str(text), str(text)]
    monkeypatch.setenv("OPUS_MT", str(tmp_path / "given"))
    assert teaching.main(words) == 1
    assert "has no config.json" in capsys.readouterr().err
    assert not (tmp_path / "out" / "model").exists()
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "config.json").write_text("{}")
    for _ in range(2):
        assert teaching.main(words) == 0
        assert (tmp_path / "out" / "model").resolve() == (tmp_path / "given").resolve()
    (tmp_path / "out" / "model").unlink()
    (tmp_path / "out" / "model").mkdir()
    (tmp_path / "out" / "model" / "part").write_text("")  # of a run that was killed
    assert teaching.main(words) == 0
    assert (tmp_path / "given" / "config.json").exists()

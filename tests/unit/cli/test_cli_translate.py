"""`seqkd translate` and `seqkd score`, before they reach a model; tests/unit/stages/test_translate.py has the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqkd.cli.main import main


@pytest.mark.parametrize("command", ["translate", "score"])
def test_a_folder_that_is_no_model_is_named(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text"
    text.write_text("a\n")
    extra = ["--source", str(text), "--target", str(text)] if command == "score" else []
    assert main([command, "--model", str(tmp_path), "--device", "cpu", *extra]) == 2
    assert str(tmp_path) in capsys.readouterr().err

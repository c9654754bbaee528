"""`seqkd inspect` of what it cannot show; tests/unit/stages/test_inspect.py has the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqkd.cli.main import main


def test_inspect_of_nothing_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "nope")]) == 2
    assert main(["inspect", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("error: ") == 2

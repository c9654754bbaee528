from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import torch
from pydantic import Field

from seqkd.cli.main import main
from seqkd.interop.formats import FORMATS, Format, ImportReport

HERE = "tests.unit.interop.test_formats"


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """Settings of a format of text files."""

    title: Annotated[str, Field(min_length=2, description="of the model")]
    layers: Annotated[int, Field(ge=1)] = 6
    small: bool = False


def sniff(path: Path) -> bool:
    return path.suffix == ".txt"


def read(path: Path, out: Path, settings: TextSettings, *, overwrite: bool) -> ImportReport:
    out.mkdir(exist_ok=overwrite)
    (out / "read").write_text(f"{path.read_text()} {settings.title} {settings.layers} {settings.small}")
    return ImportReport(12, ("one note",))


@pytest.fixture(autouse=True)
def text_format(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Format(
        name="story", help="Text files", settings=f"{HERE}:TextSettings", sniff=f"{HERE}:sniff", read=f"{HERE}:read"
    )
    monkeypatch.setitem(FORMATS.own, "story", record)


def test_a_format_is_a_command_with_its_settings_as_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.txt").write_text("model")
    command = ["import", "story", str(tmp_path / "model.txt"), "--out", str(tmp_path / "out")]
    assert main([*command, "--title", "big", "--small"]) == 0
    assert (tmp_path / "out" / "read").read_text() == "model big 6 True"
    assert "import: one note" in capsys.readouterr().err
    assert main([*command, "--title", "big", "--layers", "2", "--overwrite"]) == 0
    assert (tmp_path / "out" / "read").read_text() == "model big 2 False"
    capsys.readouterr()
    assert main([*command, "--title", "x", "--layers", "0"]) == 2
    message = capsys.readouterr().err
    for part in ("--title: String should have at least 2", "--layers: Input should be greater than or equal to 1"):
        assert part in message
    assert main(command) == 2  # without its title


def test_a_format_that_only_reads_has_no_export(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "fairseq" in shown
    assert "Text files" not in shown
    assert main(["export", "story", "model", "--out", "out"]) == 2


def test_files_of_another_format_are_called_by_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.txt").write_text("model")
    command = ["import", "fairseq", str(tmp_path / "model.txt"), "--dictionary", "d", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "has the format story" in message
    assert "run `seqkd import story`" in message


@pytest.mark.parametrize("zipped", [True, False])
def test_fairseqs_checkpoints_are_known(tmp_path: Path, zipped: bool) -> None:
    record = FORMATS.own["fairseq"]
    torch.save({"model": torch.zeros(2)}, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    assert record.fits(tmp_path / "model.pt")
    (tmp_path / "model.bin").write_bytes(b"PK\x03\x04 no zip file")
    assert not record.fits(tmp_path / "model.bin")
    assert not record.fits(tmp_path / "none")
    assert not record.fits(tmp_path)

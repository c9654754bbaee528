"""`seqkd import` and `seqkd export`, through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seqkd.cli.main import main
from seqkd.models.checkpoint import load_model
from tests.unit.interop.test_fairseq import model_folder


def test_a_model_that_goes_to_fairseq_and_comes_back_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, model = model_folder(tmp_path)
    assert main(["export", "fairseq", str(folder), "--out", str(tmp_path / "exported")]) == 0
    dictionary = next((tmp_path / "exported").glob("dict.*.txt"))
    command = ["import", "fairseq", str(tmp_path / "exported" / "checkpoint.pt"), "--dictionary", str(dictionary)]
    assert main([*command, "--out", str(tmp_path / "back")]) == 0
    assert "max_length" not in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "back"), "--max-len-a", "1.2", "--max-len-b", "10"]) == 0
    assert "search = { max_length_ratio = 1.2, max_length_extra = 12 }" in capsys.readouterr().err
    back = load_model(tmp_path / "back").model
    source, target = torch.tensor([[5, 6, 2]]), torch.tensor([[2, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(back(source, target), model(source, target))


def test_a_file_that_is_no_checkpoint_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    (tmp_path / "dict.txt").write_text("a 1\n")
    command = ["import", "fairseq", str(tmp_path / "checkpoint.pt"), "--dictionary", str(tmp_path / "dict.txt")]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "checkpoint.pt" in message
    assert "Traceback" not in message
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_the_stages_of_a_pipeline_make_the_folders_of_the_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = model_folder(tmp_path)
    (tmp_path / "config").mkdir()
    export, back = tmp_path / "config" / "export.toml", tmp_path / "config" / "import.toml"
    export.write_text(f'model = "{folder}"\nformat = "fairseq"\n')
    out = str(tmp_path / "exported")
    assert main(["export", "--config", str(export), "--out", out, "--device", "cpu", "--overwrite-changed"]) == 0
    made = (tmp_path / "exported" / "manifest.json").read_bytes()
    assert main(["export", "fairseq", str(folder), "--out", out]) == 0
    assert (tmp_path / "exported" / "manifest.json").read_bytes() == made
    dictionary = next((tmp_path / "exported").glob("dict.*.txt"))
    table = f'{{ type = "fairseq", dictionary = "{dictionary}" }}'
    back.write_text(f'path = "{tmp_path / "exported" / "checkpoint.pt"}"\nformat = {table}\n')
    assert main(["import", "--config", str(back), "--out", str(tmp_path / "back")]) == 0
    assert "import: 7,384 parameters" in capsys.readouterr().err
    load_model(tmp_path / "back")
    back.write_text(f'path = "{tmp_path / "none.pt"}"\nformat = {table}\n')
    assert main(["import", "--config", str(back), "--out", str(tmp_path / "other")]) == 2
    assert "none.pt" in capsys.readouterr().err


def test_a_stage_file_takes_the_place_of_a_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--config", "x.toml"]) == 2
    assert "give a format, or both --config and --out" in capsys.readouterr().err
    assert main(["export", "--out", "x", "fairseq", "model", "--out", "y"]) == 2
    assert "options of fairseq follow its name" in capsys.readouterr().err

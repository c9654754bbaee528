"""Forgotten folders: their rows are gone on purpose, and all that was made from them stays finished."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from seqkd.cli.main import main
from seqkd.config.stages import SelectConfig, SoftTargetsConfig, TrainConfig
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import CorpusError
from seqkd.stages.distill import distill, soft_targets
from seqkd.stages.select import select
from seqkd.stages.train import train
from seqkd.tools.forget import forget
from seqkd.tools.inspect import inspect
from seqkd.tools.verify import format_result, verify
from tests.unit.stages.teachers import soft_config, student_config
from tests.unit.stages.whole_run import decode_config, make_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and a student of its soft targets."""
    root = make_run(tmp_path_factory.mktemp("run"))
    train.run(written_config(root), root / "written", device="cpu")
    return root


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def written_config(root: Path) -> TrainConfig:
    return student_config(root / "gold", {"soft_targets": root / "soft"}, corpus=root / "distilled")


def select_config(root: Path, **filters: object) -> SelectConfig:
    values = {"kbest": root / "kbest", "gold": root / "gold/train", "prepared": root / "gold", "rule": "seqkd"}
    return SelectConfig.model_validate({**values, "filters": {"duplicates": True, **filters}})


def lists_of(root: Path) -> SoftTargetsConfig:
    return soft_config(root / "gold", root / "teacher", corpus=root / "distilled", top_k=4)


def test_a_forgotten_folder_and_what_was_made_from_it_stay_finished(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: read_manifest(run / name).digest() for name in ("kbest", "soft")}
    times = {name: (run / name / "manifest.json").stat().st_mtime_ns for name in before}
    assert main(["forget", str(run / "kbest"), str(run / "soft")]) == 0
    assert "MB freed" in capsys.readouterr().err
    assert not [*(run / "kbest").glob("*.arrow"), *(run / "soft").glob("*.arrow")]
    assert {name: read_manifest(run / name).digest() for name in before} == before
    assert {name: (run / name / "manifest.json").stat().st_mtime_ns for name in before} == times
    distill.run(decode_config(run), run / "kbest", device="cpu")
    soft_targets.run(lists_of(run), run / "soft", device="cpu")
    select.run(select_config(run), run / "distilled")
    train.run(written_config(run), run / "written", device="cpu")
    assert capsys.readouterr().err.count("is up to date") == 4
    assert forget(run / "kbest") == 0


def test_verify_and_inspect_know_it(run: Path) -> None:
    forget(run / "kbest")
    found = verify(run / "distilled")
    assert found.problems == []
    assert found.notes == [f"{run / 'kbest'}: its rows were deleted on purpose, by `seqkd forget`"]
    assert "forgotten" in format_result(found)
    shown = io.StringIO()
    inspect(run / "kbest", console=Console(file=shown))
    assert "rows: deleted on purpose" in shown.getvalue()


def test_what_needs_the_rows_says_so_before_it_begins(run: Path, tmp_path: Path) -> None:
    forget(run / "kbest")
    forget(run / "soft")
    digest = read_manifest(run / "distilled").digest()
    with pytest.raises(CorpusError, match="its rows were deleted by `seqkd forget`"):
        select.run(select_config(run, copies=True), run / "distilled", overwrite=True)
    assert read_manifest(run / "distilled").digest() == digest
    settings = written_config(run)
    with pytest.raises(CorpusError, match="its rows were deleted by"):
        train.run(settings.model_copy(update={"role": "teacher"}), tmp_path / "new", device="cpu")
    assert not (tmp_path / "new").exists()
    with pytest.raises(CorpusError, match="its rows were deleted by"):
        next(Corpus.open(run / "kbest").tables())


@pytest.mark.parametrize("name", ["gold", "gold/train", "distilled", "teacher", "evaluation", "report"])
def test_other_folders_are_not_forgotten(run: Path, name: str) -> None:
    files = {path: path.read_bytes() for path in (run / name).rglob("*") if path.is_file()}
    with pytest.raises(CorpusError, match="which later stages read even if they have nothing to do"):
        forget(run / name)
    assert {path: path.read_bytes() for path in (run / name).rglob("*") if path.is_file()} == files


def test_a_shard_that_is_missing_without_a_word_is_still_damage(run: Path) -> None:
    (run / "kbest" / "shard-00000.arrow").unlink()
    assert any("missing, but listed" in line for line in verify(run / "distilled").problems)
    forget(run / "kbest")
    assert verify(run / "distilled").problems == []

"""StageOutput: what happens to a folder that is there, and whether the machine and the revision count."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from seqkd.corpus.manifest import StageOutput, read_manifest
from seqkd.corpus.records import FORMAT
from seqkd.corpus.writer import finished_shards
from seqkd.errors import ConflictError, CorpusError, UnfinishedError
from tests.events import before
from tests.unit.corpus.test_output import begin, finish, made_by, names, open_output


@pytest.mark.parametrize("seed", [1, 2])
def test_overwrite_empties_an_unfinished_folder_and_says_so(
    tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    begin(out)
    (out / "train").mkdir()
    (out / "train" / "shard-00000.arrow").touch()
    with open_output(out, overwrite=True, seed=seed) as output:
        assert not output.complete
        assert names(out) == {"partial.json", ".lock"}
        assert finished_shards(out) == {}
    assert names(tmp_path) == {"out"}
    why = "as --overwrite asks" if seed == 1 else "because settings or inputs changed (config.seed: 1 -> 2)"
    assert capsys.readouterr().err == f"{out}: starting anew {why}; the unfinished files in it are deleted\n"


def test_overwrite_moves_a_finished_folder_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for number, kept in ((1, "out.old"), (2, "out.old2"), (3, "out.old3")):
        finish(out, seed=number)
        (out / "mine.txt").write_text("a note")  # what lies in the folder goes with it
        with open_output(out, overwrite=True, seed=number + 1) as output:
            assert not output.complete
            assert names(out) == {"partial.json", ".lock"}
        assert names(tmp_path / kept) == {"shard-00000.arrow", "manifest.json", "cost.json", "mine.txt"}
        assert read_manifest(tmp_path / kept).fingerprint == made_by(seed=number).fingerprint
        changed = f"because settings or inputs changed (config.seed: {number} -> {number + 1})"
        said = capsys.readouterr().err
        assert said == f"{out}: starting anew {changed}; the finished folder is now {tmp_path / kept}\n"
    assert names(tmp_path) == {"out", "out.old", "out.old2", "out.old3"}


def test_a_folder_behind_a_link_is_moved_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    out = tmp_path / "out"
    out.symlink_to(tmp_path / "disk" / "kbest")
    (tmp_path / "disk" / "kbest").mkdir()
    finish(out)
    open_output(out, overwrite=True, seed=2).close()
    assert out.is_symlink()
    assert names(tmp_path / "disk") == {"kbest", "kbest.old"}
    assert names(out) == {"partial.json"}


def test_many_reasons_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(tmp_path / "out")
    open_output(tmp_path / "out", overwrite=True, seed=2, **dict.fromkeys("abcde", 1)).close()
    (line,) = capsys.readouterr().err.splitlines()
    assert "and 3 more)" in line


def test_a_crash_after_a_folder_is_moved_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    finish(out)

    def crash(path: Any, *_: object) -> None:
        if Path(path) == out and not out.exists():
            raise KeyboardInterrupt

    with before("os.mkdir", crash), pytest.raises(KeyboardInterrupt):  # the folder is made again once it is moved
        open_output(out, overwrite=True, seed=2)
    assert names(tmp_path) == {"out.old"}
    assert read_manifest(tmp_path / "out.old").rows == 3
    finish(out, seed=2)
    assert names(tmp_path) == {"out", "out.old"}


def test_an_unfinished_folder_of_another_machine_is_refused_with_both_values(tmp_path: Path) -> None:
    out = tmp_path / "out"
    begin(out, worked={"device": "cuda", "precision": "bf16"}, revisions={"search": 2})
    open_output(out, worked={"device": "cuda", "precision": "bf16"}, revisions={"search": 2}).close()
    with pytest.raises(UnfinishedError) as caught:
        open_output(out, worked={"device": "cpu", "precision": "bf16"}, revisions={"search": 3})
    assert "device: cuda -> cpu" in caught.value.what
    assert "revision of search: 2 -> 3" in caught.value.what
    assert "precision" not in caught.value.what
    assert names(out) == {"shard-00000.arrow", "partial.json"}
    with open_output(out, overwrite=True, worked={"device": "cpu"}) as output:
        assert not output.complete


def test_a_finished_folder_is_used_whatever_machine_made_it(tmp_path: Path) -> None:
    finish(tmp_path / "out", worked={"device": "cuda", "precision": "bf16"})
    assert open_output(tmp_path / "out", worked={"device": "cpu", "precision": "float32"}).complete


def test_a_finished_folder_of_an_earlier_revision_is_used_and_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    finish(out)
    later = made_by(revisions={"search": 2})
    assert StageOutput.up_to_date(out, "corpus", later, overwrite=False)
    assert StageOutput.open(out, "corpus", later, overwrite=False).complete
    (line,) = capsys.readouterr().err.splitlines()
    assert "search of revision 1, now 2" in line
    assert str(out) in line


def test_a_folder_of_a_newer_format_is_refused_in_one_clear_error(tmp_path: Path) -> None:
    for name, make in (("a", begin), ("b", finish)):
        make(tmp_path / name)
        path = tmp_path / name / ("partial.json" if make is begin else "manifest.json")
        path.write_text(re.sub(r'"format": [0-9]+', f'"format": {FORMAT + 1}', path.read_text()))
        for overwrite in (False, True):
            with pytest.raises(ConflictError, match=rf"format {FORMAT + 1}, .* newer than this seqkd"):
                open_output(tmp_path / name, overwrite=overwrite)
    with pytest.raises(CorpusError, match="to do: update seqkd"):
        read_manifest(tmp_path / "b")

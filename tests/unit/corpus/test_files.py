from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from seqkd.corpus.files import atomic_path, atomic_write, is_temporary
from seqkd.errors import WorkError


def names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def refuse(code: int) -> OSError:
    return OSError(code, os.strerror(code))


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_is_a_work_error_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    atomic_write(path, b"old")

    def full(*_: object, **__: object) -> None:
        raise refuse(errno.ENOSPC)

    monkeypatch.setattr(os if step == "fsync" else Path, step, full)
    with pytest.raises(WorkError, match="No space left on device") as caught:
        atomic_write(path, b"new")
    assert caught.value.where == str(path)
    assert "free some space" in caught.value.hint
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_really_full_device() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(WorkError, match="No space left on device"), atomic_path(Path("/dev/never-there")):
        full.write_bytes(b"x" * 100_000)
    assert not Path("/dev/never-there").exists()


def test_a_failing_body_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_path(tmp_path / "file") as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(tmp_path) == []


def test_missing_folder_is_a_work_error(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="cannot be written"):
        atomic_write(tmp_path / "none" / "file", b"")


def test_temporary_names_are_hidden_and_recognised(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "shard-00000.arrow") as temporary:
        temporary.write_bytes(b"")
        assert is_temporary(temporary.name)
        assert temporary.name.startswith(".")
    assert not is_temporary("shard-00000.arrow")
    assert not is_temporary(".hidden")

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.corpus.files import atomic_path, atomic_write, is_kept, is_temporary, kept_path
from seqkd.errors import WorkError
from tests.events import before
from tests.unit.stages.whole_run import STAGES


def names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def refuse(code: int) -> OSError:
    return OSError(code, os.strerror(code))


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_full_disk_is_a_work_error_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    atomic_write(path, b"old")

    def full(*_: object, **__: object) -> None:
        raise refuse(errno.ENOSPC)

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", full)  # no event tells of it
    with before("os.rename", full), pytest.raises(WorkError, match="No space left on device") as caught:
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


@pytest.fixture(params=[0o022, 0o002, 0o027], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_follows_the_umask_whatever_mode_a_library_gives_it(tmp_path: Path, umask: int) -> None:
    with atomic_path(tmp_path / "weights") as temporary:
        temporary.unlink()
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600))
    atomic_write(tmp_path / "text", b"x")
    assert mode(tmp_path / "weights") == mode(tmp_path / "text") == 0o666 & ~umask


def test_every_file_of_every_stage_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        for name in ("prepare", "train", "distill", "select", "soft_targets", "evaluate"):
            STAGES[name][1](tmp_path, tmp_path / STAGES[name][0])
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"model.safetensors", "last.pt", "manifest.json", "vocab.model"}
    assert {str(path): oct(mode(path)) for path in files if mode(path) != 0o664} == {}


@given(st.from_regex(r"[a-z0-9.]{1,8}", fullmatch=True).filter(lambda name: name not in (".", "..")), st.integers(1, 4))
def test_a_name_for_a_replaced_folder_is_new_and_known(name: str, times: int) -> None:
    folder = Path("runs") / name
    kept = kept_path(folder)
    assert is_kept(kept.name)
    assert kept == folder.with_name(f"{name}.old")
    assert is_kept(f"{name}.old{times}")
    assert not is_kept(f"{name}.old{times}x")

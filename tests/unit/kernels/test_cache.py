"""Where compiled kernels are kept, and which folders are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seqkd.errors import InputError
from seqkd.kernels.cache import cache_folder


def nowhere() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_the_folder_is_in_the_users_cache_unless_it_is_moved(tmp_path: Path) -> None:
    home, named = tmp_path / "home", tmp_path / "named" / "kernels"
    assert cache_folder({}, lambda: home) == home / ".cache" / "seqkd"
    assert cache_folder({"XDG_CACHE_HOME": str(tmp_path / "xdg")}, lambda: home) == tmp_path / "xdg" / "seqkd"
    assert cache_folder({"XDG_CACHE_HOME": "relative"}, lambda: home) == home / ".cache" / "seqkd"
    assert cache_folder({"XDG_CACHE_HOME": str(tmp_path / "xdg"), "SEQKD_CACHE": str(named)}, nowhere) == named
    assert named.stat().st_mode & 0o777 == 0o700


def test_without_a_home_it_is_a_private_folder_of_the_user(tmp_path: Path) -> None:
    def temporary() -> str:
        return str(tmp_path)

    found = cache_folder({}, nowhere, temporary=temporary)
    assert found == tmp_path / f"seqkd-{os.geteuid()}"
    assert found.stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("")
    assert (
        cache_folder({}, lambda: tmp_path / "file", temporary=temporary) == found
    )  # a home where no folder can be made
    assert cache_folder({"XDG_CACHE_HOME": str(tmp_path / "file")}, nowhere, temporary=temporary) == found


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o1777])
def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "seqkd"
    folder.mkdir()
    folder.chmod(mode)
    for environ in ({"SEQKD_CACHE": str(folder)}, {"XDG_CACHE_HOME": str(tmp_path)}):
        with pytest.raises(InputError, match="other users can write") as caught:
            cache_folder(environ, nowhere)
        assert caught.value.where == str(folder)
        assert f"chmod go-w {folder}" in caught.value.hint
    folder.chmod(0o755)
    assert cache_folder({"SEQKD_CACHE": str(folder)}) == folder


def test_a_folder_of_another_user_is_refused_unless_it_is_roots(tmp_path: Path) -> None:
    owner = tmp_path.stat().st_uid
    stranger = owner + 1
    environ = {"SEQKD_CACHE": str(tmp_path)}
    tmp_path.chmod(0o755)
    assert cache_folder(environ, user=owner) == tmp_path
    if owner == 0:
        assert cache_folder(environ, user=stranger) == tmp_path
    else:
        with pytest.raises(InputError, match=f"belongs to uid {owner}"):
            cache_folder(environ, user=stranger)


def test_a_link_leads_to_the_folder_that_is_checked(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "open")
    with pytest.raises(InputError, match="other users can write") as caught:
        cache_folder({"SEQKD_CACHE": str(tmp_path / "link")})
    assert caught.value.where == str(tmp_path / "open")


def test_a_named_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made: Not a directory") as caught:
        cache_folder({"SEQKD_CACHE": str(tmp_path / "file" / "below")})
    assert "SEQKD_CACHE" in caught.value.hint

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from seqkd.errors import ModelError
from seqkd.interop.pickles import check_pickles


@pytest.mark.parametrize("old", [False, True])
def test_what_torch_wrote_passes(tmp_path: Path, old: bool) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "x.pt", _use_new_zipfile_serialization=not old)
    check_pickles(tmp_path / "x.pt")


def test_long_names(tmp_path: Path) -> None:
    (tmp_path / "old.pt").write_bytes(pickle.dumps(1, 2) + b"cargparse\nName" + b"e" * 5000 + b"\n.")
    with zipfile.ZipFile(tmp_path / "new.pt", "w") as archive:
        archive.writestr("x/data.pkl", b"cargparse\nName" + b"e" * 5000 + b"\n.")
    for name in ("old.pt", "new.pt"):
        with pytest.raises(ModelError, match="a class of 5,013 letters"):
            check_pickles(tmp_path / name)


def test_archives_that_grow(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data/0", bytes(10_000_000))
    with pytest.raises(ModelError, match="its parts are larger than the file"):
        check_pickles(tmp_path / "x.pt")


def test_what_is_no_pickle_is_left_to_torch(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"\x80\x63 none")
    check_pickles(tmp_path / "x.pt")

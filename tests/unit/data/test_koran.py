from __future__ import annotations

import gzip
import hashlib
import urllib.error
from pathlib import Path
from types import ModuleType

import pytest

PARTS = ("train", "dev", "test")
TEXTS = {f"{part}.{language}": f"{part} in {language}\na  b\n" for part in PARTS for language in ("de", "en")}
SQUEEZED = {name: text.replace("  ", " ").encode() for name, text in TEXTS.items()}
CHECKSUMS = {name: hashlib.sha256(text).hexdigest() for name, text in SQUEEZED.items()}


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    folder = tmp_path / "mirror" / "multidomain-de-en"
    folder.mkdir(parents=True)
    for part in PARTS:
        rows = zip(*(SQUEEZED[f"{part}.{language}"].splitlines() for language in ("de", "en")), strict=True)
        text = b"".join(b"\t".join(row) + b"\n" for row in rows)
        (folder / f"koran.{part}.tsv.gz").write_bytes(gzip.compress(text, mtime=0))
    return folder.parent


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_mirror_and_home_have_the_same_text(koran: ModuleType, mirror: Path, tmp_path: Path) -> None:
    koran.fetch(tmp_path / "out", mirror=mirror, checksums=CHECKSUMS)
    assert contents(tmp_path / "out") == SQUEEZED
    asked: list[str] = []

    def download(url: str) -> bytes:
        asked.append(url)
        return TEXTS[url.rsplit("/", 1)[1]].encode()

    (tmp_path / "out" / "dev.en").write_bytes(b"cut")
    koran.fetch(tmp_path / "out", mirror=None, checksums=CHECKSUMS, download=download)
    assert contents(tmp_path / "out") == SQUEEZED
    assert [url.rsplit("/", 1)[1] for url in asked] == ["dev.de", "dev.en"]  # the other files are there
    assert asked[0].startswith("https://raw.githubusercontent.com/")


def test_a_bad_file_stops_everything(koran: ModuleType, mirror: Path, tmp_path: Path) -> None:
    path = mirror / "multidomain-de-en" / "koran.test.tsv.gz"
    for content, message in (
        (gzip.compress(b"other\ttext\n"), "another text than expected"),
        (gzip.compress(b"one column\n"), "does not have 2 columns"),
        (b"not packed", "cannot be read"),
    ):
        path.write_bytes(content)
        with pytest.raises(koran.FetchError, match=message):
            koran.fetch(tmp_path / "out", mirror=mirror, checksums=CHECKSUMS)
        assert contents(tmp_path / "out") == {}

    def refuse(url: str) -> bytes:
        raise urllib.error.URLError(f"no route to {url}")

    with pytest.raises(koran.FetchError, match="check the network"):
        koran.fetch(tmp_path / "out", mirror=None, checksums=CHECKSUMS, download=refuse)


def test_made_rows_need_no_network(koran: ModuleType, tmp_path: Path) -> None:
    assert koran.main(["--out", str(tmp_path / "out"), "--tiny"]) == 0
    found = {name: text.decode().splitlines() for name, text in contents(tmp_path / "out").items()}
    assert {name: len(lines) for name, lines in found.items()} == {
        f"{part}.{language}": rows for part, rows in koran.TINY_ROWS.items() for language in ("de", "en")
    }
    rows = [line for part in PARTS for line in found[f"{part}.de"]]
    assert len(set(rows)) == len(rows)

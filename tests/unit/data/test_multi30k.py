from __future__ import annotations

import gzip
import hashlib
import http.client
import re
import urllib.error
from pathlib import Path
from types import ModuleType

import pytest

TEXTS = {
    f"{part}.{language}": f"{part} in {language}\n".encode() * 3
    for part in ("train", "val", "test_2016_flickr")
    for language in ("en", "de", "fr", "cs")
}
CHECKSUMS = {name: hashlib.sha256(text).hexdigest() for name, text in TEXTS.items()}
EN_DE = {name: text for name, text in TEXTS.items() if name.endswith((".en", ".de"))}


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    folder = tmp_path / "mirror" / "multi30k"
    folder.mkdir(parents=True)
    for name, text in TEXTS.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(text, mtime=0))
    return folder.parent


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_the_files_of_a_pair_from_a_mirror(fetching: ModuleType, mirror: Path, tmp_path: Path) -> None:
    fetching.fetch(tmp_path / "out", "en-de", mirror=mirror, checksums=CHECKSUMS)
    assert contents(tmp_path / "out") == EN_DE
    fetching.fetch(tmp_path / "other", "cs-fr", mirror=mirror, checksums=CHECKSUMS)
    assert {name.split(".")[1] for name in contents(tmp_path / "other")} == {"cs", "fr"}
    fetching.fetch(tmp_path / "all", "en-de-fr-cs", mirror=mirror, checksums=CHECKSUMS)
    assert contents(tmp_path / "all") == TEXTS


def test_halves_have_every_second_row_and_are_made_again(fetching: ModuleType, mirror: Path, tmp_path: Path) -> None:
    texts = {"train.en": b"a\nb\nc\n", "train.de": b"A\nB\nC\n"}
    for name, text in texts.items():
        (mirror / "multi30k" / f"{name}.gz").write_bytes(gzip.compress(text))
    known = CHECKSUMS | {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
    for _ in range(2):  # the second time the whole text is there
        fetching.fetch(tmp_path / "out", "en-de", mirror=mirror, halves=True, checksums=known)
        found = contents(tmp_path / "out")
        assert found == EN_DE | texts | {
            "train-1.en": b"a\nc\n",
            "train-2.en": b"b\n",
            "train-1.de": b"A\nC\n",
            "train-2.de": b"B\n",
        }
        (tmp_path / "out" / "train-2.de").unlink()


def test_downloads_from_the_public_home(fetching: ModuleType, mirror: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def download(url: str) -> bytes:
        asked.append(url)
        return (mirror / "multi30k" / url.rsplit("/", 1)[1]).read_bytes()

    fetching.fetch(tmp_path / "out", "en-de", mirror=None, checksums=CHECKSUMS, download=download)
    assert contents(tmp_path / "out") == EN_DE
    assert asked[0] == "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/train.en.gz"


def test_files_that_are_there_are_not_fetched_again(fetching: ModuleType, mirror: Path, tmp_path: Path) -> None:
    fetching.fetch(tmp_path / "out", "en-de", mirror=mirror, checksums=CHECKSUMS)
    (tmp_path / "out" / "val.de").write_bytes(b"cut")
    for path in (mirror / "multi30k").iterdir():
        if path.name != "val.de.gz":
            path.unlink()
    fetching.fetch(tmp_path / "out", "en-de", mirror=mirror, checksums=CHECKSUMS)
    assert contents(tmp_path / "out") == EN_DE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"another text\n", mtime=0), "another text than expected"),
        (gzip.compress(b"text\n" * 500, mtime=0)[:-9], "cannot be decompressed"),
        (b"<html>not found</html>", "cannot be decompressed"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_file_stops_everything(
    fetching: ModuleType, mirror: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = mirror / "multi30k" / "test_2016_flickr.de.gz"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(fetching.FetchError, match=message) as caught:
        fetching.fetch(tmp_path / "out", "en-de", mirror=mirror, checksums=CHECKSUMS)
    assert str(path) in str(caught.value)
    assert contents(tmp_path / "out") == {}


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route"), TimeoutError("timed out"), http.client.IncompleteRead(b"x")]
)
def test_a_network_failure_is_one_clear_error(
    fetching: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    def fail(_url: str) -> bytes:
        raise error

    monkeypatch.delenv("SEQKD_DATA_MIRROR", raising=False)
    assert fetching.main(["--out", str(tmp_path / "out"), "--pair", "en-de"], download=fail) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: https://")
    assert message.count("error:") == 1
    assert "SEQKD_DATA_MIRROR" in message
    assert contents(tmp_path / "out") == {}


@pytest.mark.parametrize("pair", ["en", "en-en", "en-xx", "en-de-en", ""])
def test_unknown_pairs(fetching: ModuleType, tmp_path: Path, pair: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetching.main(["--out", str(tmp_path / "out"), "--pair", pair]) == 1
    assert "expected two or more of en, de, fr, cs" in capsys.readouterr().err


def test_the_environment_names_the_mirror_and_the_text_is_checked(
    fetching: ModuleType,
    mirror: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SEQKD_DATA_MIRROR", str(mirror))
    assert fetching.main(["--out", str(tmp_path / "out"), "--pair", "en-de"]) == 1
    assert "another text than expected" in capsys.readouterr().err  # the real corpus has other checksums


def test_a_folder_that_cannot_be_written(fetching: ModuleType, mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(fetching.FetchError, match="cannot be written"):
        fetching.fetch(tmp_path / "out", "en-de", mirror=mirror, checksums=CHECKSUMS)


def test_every_file_has_a_checksum(fetching: ModuleType) -> None:
    assert fetching.CHECKSUMS.keys() == TEXTS.keys()
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in fetching.CHECKSUMS.values())
    assert len(set(fetching.CHECKSUMS.values())) == 12


def test_made_rows_share_their_sources(fetching: ModuleType, tmp_path: Path) -> None:
    def fail(url: str) -> bytes:
        raise AssertionError(url)

    for pair in ("en-de", "en-cs"):
        assert fetching.main(["--out", str(tmp_path / pair), "--pair", pair, "--tiny"], download=fail) == 0
    made = {pair: contents(tmp_path / pair) for pair in ("en-de", "en-cs")}
    assert made["en-de"]["train.en"] == made["en-cs"]["train.en"]
    assert made["en-de"]["train.de"] != made["en-cs"]["train.cs"]
    for found in made.values():
        assert sorted(len(text.splitlines()) for text in found.values()) == [40, 40, 40, 40, 300, 300]
    with pytest.raises(fetching.FetchError, match="expected two or more of"):
        fetching.make_tiny(tmp_path / "out", "en-xx")


def test_the_targets_of_most_rows_can_be_hidden(fetching: ModuleType, mirror: Path, tmp_path: Path) -> None:
    for language in ("en", "de"):
        text = "".join(f"row {row} in {language}\n" for row in range(10)).encode()
        (mirror / "multi30k" / f"train.{language}.gz").write_bytes(gzip.compress(text, mtime=0))
    names = [f"train.{language}" for language in ("en", "de")]
    texts = {name: gzip.decompress((mirror / "multi30k" / f"{name}.gz").read_bytes()) for name in names}
    checksums = CHECKSUMS | {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
    fetching.fetch(tmp_path / "out", "en-de", mirror=mirror, checksums=checksums)
    fetching.hide(tmp_path / "out", "en-de", 3)
    found = {path.name: path.read_text().splitlines() for path in (tmp_path / "out").iterdir()}
    assert found["gold.en"] == [f"row {row} in en" for row in (3, 6, 9)]
    assert found["gold.de"] == [f"row {row} in de" for row in (3, 6, 9)]
    assert found["mono.en"] == [f"row {row} in en" for row in (0, 1, 2, 4, 5, 7, 8)]
    assert "mono.de" not in found
    for wrong in (0, 10):
        with pytest.raises(fetching.FetchError, match="expected at least 1 and at most 9"):
            fetching.hide(tmp_path / "out", "en-de", wrong)

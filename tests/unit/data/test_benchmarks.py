"""The scripts that fetch benchmarks, against archives that are made here."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from seqkd.config.stages import PrepareConfig
from seqkd.corpus.reader import Corpus
from seqkd.stages.prepare import prepare

WMT14 = {
    "training-parallel-europarl-v7.tgz": {
        "training/europarl-v7.fr-en.en": b"of another pair\n",
        "training/europarl-v7.de-en.de": b"Wiederaufnahme\nDas ist alles.\n",
        "training/europarl-v7.de-en.en": b"Resumption\nThat is all.\n",
    },
    "training-parallel-commoncrawl.tgz": {
        "commoncrawl.de-en.de": "ein Netz\u2028ohne Ende".encode(),  # without a line feed at its end
        "commoncrawl.de-en.en": b"a web &amp; no end",
    },
    "training-parallel-nc-v9.tgz": {
        "training/news-commentary-v9.de-en.de": b"Steigt Gold?\n",
        "training/news-commentary-v9.de-en.en": b"Gold rises?\n",
    },
    "test.tgz": {
        "test/newstest2013-src.de.sgm": b'<doc>\n<seg id="1"> Eine\tStrategie </seg>\n<seg id="2">zwei</seg></doc>',
        "test/newstest2013-src.en.sgm": b'<doc>\n<seg id="1">A strategy</seg>\n<seg id="2">two </seg></doc>',
    },
    "test-full.tgz": {
        "test-full/newstest2014-deen-ref.de.sgm": b'<refset>\n<seg id="1">Im Dorf</seg>\n',
        "test-full/newstest2014-deen-src.en.sgm": b'<srcset>\n<seg id="1">In the village</seg>\n',
    },
}
WMT14_TEXTS = {
    "train.en": b"Resumption\nThat is all.\na web &amp; no end\nGold rises?\n",
    "train.de": "Wiederaufnahme\nDas ist alles.\nein Netz\u2028ohne Ende\nSteigt Gold?\n".encode(),
    "newstest2013.en": b"A strategy\ntwo\n",
    "newstest2013.de": b"Eine Strategie\nzwei\n",
    "newstest2014.en": b"In the village\n",
    "newstest2014.de": b"Im Dorf\n",
}
TALK = "<url>http://a/{0}</url>\n<keywords>talks</keywords>\n<talkid>{0}</talkid>\n<title>{1}: Talk {0}</title>\n"
TESTS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")


def talks(side: str) -> bytes:
    """Two talks of 25 lines each, one of which is empty on the German side."""
    text = ""
    for number in (1, 2):
        text += TALK.format(number, side) + f"<description>{side}: About {number}</description>\n"
        text += "".join(f"{side} {number}.{line}\n" for line in range(23))
        text += "\n" if side == "de" else "thanks\n"
    return text.encode()


IWSLT14 = {
    "de-en.tgz": {
        f"de-en/train.tags.de-en.{side}": talks(side) for side in ("de", "en")
    } | {
        f"de-en/IWSLT14.{test}.de-en.{side}.xml": f'<seg id="1"> {test} {side} </seg>\n'.encode()
        for test in TESTS for side in ("de", "en")
    },
}  # fmt: skip


def packed(files: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


ARCHIVES = {name: packed(files) for name, files in (WMT14 | IWSLT14).items()}


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    for folder, names in (("wmt14", WMT14), ("iwslt14", IWSLT14)):
        (tmp_path / "mirror" / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / "mirror" / folder / name).write_bytes(ARCHIVES[name])
    return tmp_path / "mirror"


def made(benchmarks: ModuleType, name: str) -> Any:
    """A corpus with the digests of the archives that are made here; one by MD5, and that of TED talks by none."""
    corpus = benchmarks.CORPORA[name]

    def digest(archive: Any) -> str | None:
        if archive.digest is None:
            return None
        kind = archive.digest.partition(":")[0]
        return f"{kind}:{hashlib.new(kind, ARCHIVES[archive.name]).hexdigest()}"

    return dataclasses.replace(
        corpus, archives=tuple(dataclasses.replace(archive, digest=digest(archive)) for archive in corpus.archives)
    )


def contents(folder: Path) -> dict[str, bytes]:
    if not folder.exists():
        return {}
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def texts(folder: Path) -> dict[str, bytes]:
    return {name: text for name, text in contents(folder).items() if name != "SHA256SUMS"}


def test_wmt14_is_three_corpora_in_order_and_two_test_sets(
    benchmarks: ModuleType, mirror: Path, tmp_path: Path
) -> None:
    benchmarks.fetch(tmp_path / "out", made(benchmarks, "wmt14-en-de"), mirror=mirror)
    assert texts(tmp_path / "out") == WMT14_TEXTS


def test_iwslt14_is_talks_without_their_markup(benchmarks: ModuleType, mirror: Path, tmp_path: Path) -> None:
    benchmarks.fetch(tmp_path / "out", made(benchmarks, "iwslt14-de-en"), mirror=mirror)
    found = {name: text.decode().splitlines() for name, text in texts(tmp_path / "out").items()}
    rows = [line for number in (1, 2) for line in (
        f"en: Talk {number}", f"en: About {number}", *(f"en {number}.{line}" for line in range(23))
    )]  # fmt: skip
    assert found["valid.en"] == [rows[22], rows[45]]
    assert found["train.en"] == [row for row in rows if row not in found["valid.en"]]
    assert found["train.de"] == [row.replace("en", "de", 1) for row in found["train.en"]]
    assert found["test.de"] == [f"{test} de" for test in TESTS]


def test_archives_are_downloaded_from_their_homes_and_not_twice(benchmarks: ModuleType, tmp_path: Path) -> None:
    asked: list[str] = []

    def download(url: str, path: Path) -> None:
        asked.append(url)
        name = url.rsplit("/", 1)[1]
        if name == "test.tgz" and asked.count(url) == 1:
            path.write_bytes(ARCHIVES[name][:50])
            raise urllib.error.URLError("no route")
        path.write_bytes(ARCHIVES[name])

    corpus, out = made(benchmarks, "wmt14-en-de"), tmp_path / "out"
    with pytest.raises(benchmarks.FetchError, match="SEQKD_DATA_MIRROR"):
        benchmarks.fetch(out, corpus, mirror=None, download=download)
    assert contents(out).keys() == {f"archives/{name}" for name in list(WMT14)[:3]}
    benchmarks.fetch(out, corpus, mirror=None, download=download)
    assert texts(out) == WMT14_TEXTS
    assert [url.rsplit("/", 1)[1] for url in asked] == [*list(WMT14)[:4], "test.tgz", "test-full.tgz"]
    assert asked[0] == "https://www.statmt.org/wmt13/training-parallel-europarl-v7.tgz"
    benchmarks.fetch(out, corpus, mirror=None, download=download)
    assert len(asked) == 6


def test_digests_are_recorded_at_the_first_fetch_and_checked_afterwards(
    benchmarks: ModuleType, mirror: Path, tmp_path: Path
) -> None:
    corpus, out, archive = made(benchmarks, "iwslt14-de-en"), tmp_path / "out", mirror / "iwslt14" / "de-en.tgz"
    benchmarks.fetch(out, corpus, mirror=mirror)
    before = contents(out)
    record = dict(line.split("  ")[::-1] for line in before["SHA256SUMS"].decode().splitlines())
    files = texts(out) | {"de-en.tgz": ARCHIVES["de-en.tgz"]}
    assert record == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    # A damaged text is written again, from the same archive alone.
    (out / "valid.de").write_bytes(b"cut")
    benchmarks.fetch(out, corpus, mirror=mirror)
    assert contents(out) == before
    (out / "valid.de").write_bytes(b"cut")
    archive.write_bytes(packed(IWSLT14["de-en.tgz"] | {"de-en/README": b"another archive"}))
    with pytest.raises(benchmarks.FetchError, match="has changed since the first fetch"):
        benchmarks.fetch(out, corpus, mirror=mirror)
    assert contents(out) == before | {"valid.de": b"cut"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("training-parallel-nc-v9.tgz", packed({"other": b""}), "is not the archive that is expected: sha256"),
        ("test-full.tgz", b"<html>not found</html>", "is not the archive that is expected: md5"),
        ("test.tgz", None, "no such file"),
    ],
    ids=["another archive", "a page", "missing"],  # the content of an archive has the time at which it was made
)
def test_a_bad_archive_stops_everything(
    benchmarks: ModuleType, mirror: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = mirror / "wmt14" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(benchmarks.FetchError, match=message) as caught:
        benchmarks.fetch(tmp_path / "out", made(benchmarks, "wmt14-en-de"), mirror=mirror)
    assert str(path) in str(caught.value)
    assert contents(tmp_path / "out") == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ARCHIVES["de-en.tgz"][:-200], "is cut, or another archive: it lacks IWSLT14"),
        (b"<html>not found</html>", "cannot be read as an archive"),
        (packed({"de-en/train.tags.de-en.de": b""}), "it lacks train.tags.de-en.en, "),
        (packed(IWSLT14["de-en.tgz"] | {"de-en/train.tags.de-en.de": b"one\n"}), "different numbers of lines"),
    ],
)
def test_an_archive_without_a_published_digest_is_still_read_with_care(
    benchmarks: ModuleType, mirror: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    (mirror / "iwslt14" / "de-en.tgz").write_bytes(content)
    with pytest.raises(benchmarks.FetchError, match=message):
        benchmarks.fetch(tmp_path / "out", made(benchmarks, "iwslt14-de-en"), mirror=mirror)
    assert contents(tmp_path / "out") == {}


def test_the_command_names_the_mirror_and_the_fault(
    benchmarks: ModuleType,
    mirror: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SEQKD_DATA_MIRROR", str(mirror))
    assert benchmarks.main(["--out", str(tmp_path / "ted"), "--corpus", "iwslt14-de-en"]) == 0
    assert benchmarks.main(["--out", str(tmp_path / "wmt"), "--corpus", "wmt14-en-de"]) == 1  # has other digests
    assert "error: " in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert benchmarks.main(["--out", str(tmp_path / "file"), "--corpus", "iwslt14-de-en"]) == 1
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["wmt14-en-de", "iwslt14-de-en"])
def test_made_rows_need_nothing_and_are_not_taken_for_the_corpus(
    benchmarks: ModuleType, mirror: Path, tmp_path: Path, name: str
) -> None:
    corpus, out = made(benchmarks, name), tmp_path / "out"

    def fail(url: str, _path: Path) -> None:
        raise AssertionError(url)

    assert benchmarks.main(["--out", str(out), "--corpus", name, "--tiny"], download=fail) == 0
    lines = {file: text.decode().splitlines() for file, text in contents(out).items()}
    assert lines.keys() == {*corpus.files}
    assert {file: len(rows) for file, rows in lines.items()} == {
        file: 300 if file.startswith("train.") else 40 for file in corpus.files
    }
    english = [row for file, rows in lines.items() if file.endswith(".en") for row in rows]
    assert len(set(english)) == len(english)  # no row of a test set is in the training text
    benchmarks.fetch(out, corpus, mirror=mirror)
    assert len((out / "train.en").read_bytes().splitlines()) < 300


def test_made_rows_are_enough_for_a_small_vocabulary(benchmarks: ModuleType, tmp_path: Path) -> None:
    """As many pieces as shrunk pipelines have."""
    text, made_of = tmp_path / "text", benchmarks.CORPORA["iwslt14-de-en"]
    benchmarks.make_tiny(text, made_of)
    parts = {
        part: {"source": str(text / f"{part}.de"), "target": str(text / f"{part}.en")}
        for part in ("train", "valid", "test")
    }
    vocabulary = {"size": 200, "byte_fallback": False}
    prepare.run(PrepareConfig.model_validate({**parts, "vocabulary": vocabulary}), tmp_path / "gold")
    assert Corpus.open(tmp_path / "gold" / "train", "corpus").rows == 300


def test_every_published_digest_is_whole(benchmarks: ModuleType) -> None:
    digests = [archive.digest for corpus in benchmarks.CORPORA.values() for archive in corpus.archives]
    sizes = {"sha256": 64, "md5": 32}
    for kind, _, value in (digest.partition(":") for digest in digests if digest is not None):
        assert len(bytes.fromhex(value)) * 2 == sizes[kind]
    assert digests.count(None) == 1

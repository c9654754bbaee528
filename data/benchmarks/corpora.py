"""The corpora: their archives, the members that hold their text, and how lines are taken from these.

No text is changed except for blanks at the ends of lines, and blanks within lines of the test sets, which are those
that sacrebleu reads. Case, punctuation and entities (`&amp;`) stay as they are. Cleaning is left to `seqkd prepare`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from archives import PIECE_BYTES, Archive, FetchError, members

STATMT = "https://www.statmt.org"
# SHA-256: tensorflow_datasets/url_checksums/wmt14_translate.txt in https://github.com/tensorflow/datasets.
# MD5: sacrebleu/dataset/__init__.py in https://github.com/mjpost/sacrebleu.
EUROPARL = Archive(
    f"{STATMT}/wmt13/training-parallel-europarl-v7.tgz",
    "sha256:0224c7c710c8a063dfd893b0cc0830202d61f4c75c17eb8e31836103d27d96e7",
)
COMMON_CRAWL = Archive(
    f"{STATMT}/wmt13/training-parallel-commoncrawl.tgz",
    "sha256:c7a74e2ea01ac6c920123108627e35278d4ccb5701e15428ffa34de86fa3a9e5",
)
NEWS_COMMENTARY = Archive(
    f"{STATMT}/wmt14/training-parallel-nc-v9.tgz",
    "sha256:cb8953f292298e6877ae433c98912b927cb0766b303f4540512ddd286c748485",
)
NEWSTEST_2013 = Archive(f"{STATMT}/wmt13/test.tgz", "md5:48eca5d02f637af44e85186847141f67")
NEWSTEST_2014 = Archive(f"{STATMT}/wmt14/test-full.tgz", "md5:a8cd784e006feb32ac6f3d9ec7eb389a")
# No digest of it is published. The first fetch records one.
TED = Archive("https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz")

# The held-out rows of fairseq's examples/translation/prepare-iwslt14.sh: each 23rd of the training text.
EACH = 23
TED_TESTS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")

_SEGMENT = re.compile(rb"<seg[^>]*>(.*?)</seg>", re.DOTALL)
_BLANKS = re.compile(rb"\s+")
_KEPT_TAGS = re.compile(rb"</?(?:title|description)>")
_TAG = re.compile(rb"</?[a-z]+[ >]")

Opened = Mapping[str, Path]


@dataclass(frozen=True)
class Corpus:
    """What can be fetched.

    Attributes:
        folder: Of a mirror.
        archives: In the order in which they are read.
        write: Writes the text files; gets the archives' paths by name, and a folder that holds nothing.
        files: What it writes.
    """

    folder: str
    archives: tuple[Archive, ...]
    write: Callable[[Opened, Path], None]
    files: tuple[str, ...]


def _write_wmt14(opened: Opened, out: Path) -> None:
    parts = ((EUROPARL, "europarl-v7"), (COMMON_CRAWL, "commoncrawl"), (NEWS_COMMENTARY, "news-commentary-v9"))
    with (out / "train.en").open("wb") as english, (out / "train.de").open("wb") as german:
        sides = {"en": english, "de": german}
        for archive, name in parts:
            path, lines = opened[archive.name], {}
            with members(path, {f"{name}.de-en.{side}": side for side in sides}) as found:
                for side, file in found:
                    lines[side] = _append(file, sides[side])
            _expect_equal(path, lines)
    for archive, names in (
        (NEWSTEST_2013, {"newstest2013-src.en.sgm": "newstest2013.en", "newstest2013-src.de.sgm": "newstest2013.de"}),
        (
            NEWSTEST_2014,
            {"newstest2014-deen-src.en.sgm": "newstest2014.en", "newstest2014-deen-ref.de.sgm": "newstest2014.de"},
        ),
    ):
        path = opened[archive.name]
        with members(path, names) as found:
            texts = {name: _segments(file.read()) for name, file in found}
        _expect_equal(path, {name: len(lines) for name, lines in texts.items()})
        for name, lines in texts.items():
            _write_lines(out / name, lines)


def _write_iwslt14(opened: Opened, out: Path) -> None:
    path, sides = opened[TED.name], ("de", "en")
    names = {f"train.tags.de-en.{side}": f"train.{side}" for side in sides}
    names |= {f"IWSLT14.{test}.de-en.{side}.xml": f"{test}.{side}" for test in TED_TESTS for side in sides}
    with members(path, names) as found:
        texts = {name: file.read() for name, file in found}
    lines = {side: texts[f"train.{side}"].splitlines() for side in sides}
    _expect_equal(path, {f"train.tags.de-en.{side}": len(lines[side]) for side in sides})
    rows = [row for row in map(_talk, lines["de"], lines["en"]) if row is not None]
    held_out = rows[EACH - 1 :: EACH]
    del rows[EACH - 1 :: EACH]
    tests = {side: [line for test in TED_TESTS for line in _segments(texts[f"{test}.{side}"])] for side in sides}
    _expect_equal(path, {f"test.{side}": len(tests[side]) for side in sides})
    for number, side in enumerate(sides):
        _write_lines(out / f"train.{side}", (row[number] for row in rows))
        _write_lines(out / f"valid.{side}", (row[number] for row in held_out))
        _write_lines(out / f"test.{side}", tests[side])


def _talk(*sides: bytes) -> tuple[bytes, ...] | None:
    """One row of a talk; None for what is no text of it, and where a side is empty."""
    row = tuple(_KEPT_TAGS.sub(b"", side).strip() for side in sides)
    return row if all(side and not _TAG.match(side) for side in row) else None


def _segments(text: bytes) -> list[bytes]:
    """The segments of a test set in SGML or XML, each on a line, with the blanks that sacrebleu leaves."""
    return [_BLANKS.sub(b" ", segment.strip()) for segment in _SEGMENT.findall(text)]


def _append(file: IO[bytes], out: IO[bytes]) -> int:
    """Copy lines, the last of which is ended; the number of lines is returned."""
    lines, last = 0, b"\n"
    while piece := file.read(PIECE_BYTES):
        out.write(piece)
        lines, last = lines + piece.count(b"\n"), piece[-1:]
    if last != b"\n":
        out.write(b"\n")
        lines += 1
    return lines


def _write_lines(path: Path, lines: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(line + b"\n" for line in lines)


def _expect_equal(place: Path, lines: Mapping[str, int]) -> None:
    if len(set(lines.values())) != 1 or 0 in lines.values():
        counted = ", ".join(f"{name}: {count}" for name, count in lines.items())
        raise FetchError(f"{place} holds sides of different numbers of lines, or empty ones: {counted}")


def _texts(*stems: str) -> tuple[str, ...]:
    return tuple(f"{stem}.{side}" for stem in stems for side in ("de", "en"))


CORPORA = {
    "wmt14-en-de": Corpus(
        folder="wmt14",
        archives=(EUROPARL, COMMON_CRAWL, NEWS_COMMENTARY, NEWSTEST_2013, NEWSTEST_2014),
        write=_write_wmt14,
        files=_texts("train", "newstest2013", "newstest2014"),
    ),
    "iwslt14-de-en": Corpus(
        folder="iwslt14", archives=(TED,), write=_write_iwslt14, files=_texts("train", "valid", "test")
    ),
}

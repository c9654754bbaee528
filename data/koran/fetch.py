"""Fetch German-English text of one domain, translations of the Koran: `python data/koran/fetch.py --out DIR`.

The split of Aharoni and Goldberg 2020 ("Unsupervised Domain Clusters in Pretrained Language Models") of the Tanzil
corpus of OPUS (Tiedemann 2012), for non-commercial research; see https://opus.nlpl.eu/Tanzil. Written are train.LL
(17,982 rows), dev.LL (2,000) and test.LL (2,000) for de and en, each run of white space as one blank. Where the
environment names a folder in SEQKD_DATA_MIRROR, its multidomain-de-en/koran.*.tsv.gz are taken and nothing is
downloaded. Every file is checked against its SHA-256.

`--tiny` writes some hundred made rows under the same names and fetches nothing, for runs that only have to work.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import http.client
import os
import sys
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

HOME = "https://raw.githubusercontent.com/rangehow/KNNLM-NMT/19bb00808884fc9207e18deaa67864b94ce9ea2f/data/koran"
MIRROR = "SEQKD_DATA_MIRROR"
FOLDER = "multidomain-de-en"
LANGUAGES = ("de", "en")  # the columns of the mirror's files
PARTS = ("train", "dev", "test")
TIMEOUT_SECONDS = 60
TINY_ROWS = {"train": 300, "dev": 40, "test": 40}

# Digests of the text that is written.
CHECKSUMS = {
    "train.de": "347ee1987b893d6db13e7703e4bcad71f8b08d46d31a922e8f7797fda3145890",
    "train.en": "86d1a4c62461c595565bc088b2d683a2ca07321864fb98ee2b4b34298f227dac",
    "dev.de": "868b8064a1a07ddf992e10711d6512c70ac01a7a8f28baed5fa3ad2649f3f470",
    "dev.en": "4f8f233bd8cd95ff7ea893338c8652a32aea9e5f00d7e9ba3e31ce69721d9220",
    "test.de": "ea60765b77bdb233ed1bc846471cfb04d0a9ac47470f4bbf8aed729c0b67c1b2",
    "test.en": "8eec96f65c0d67f1ea5aee8c369e9315014034158d108f57b9bc40b88939777e",
}

_PEOPLE = (("the poor", "den Armen"), ("the orphans", "den Waisen"), ("the traveller", "dem Reisenden"))
_DEEDS = (("Give", "Gebt"), ("Be kind to", "Seid gut zu"), ("Speak gently to", "Redet freundlich mit"))
_REASONS = (("for He is forgiving", "denn Er ist verzeihend"), ("for He sees all", "denn Er sieht alles"))


class FetchError(Exception):
    """The corpus cannot be fetched. The message gives the reason and the remedy."""


def downloaded(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
        return bytes(answer.read())


def fetch(
    out: Path,
    *,
    mirror: Path | None,
    checksums: Mapping[str, str] = CHECKSUMS,
    download: Callable[[str], bytes] = downloaded,
) -> None:
    """Write the six files to `out`; all of them, or none.

    Args:
        out: The folder to write to.
        mirror: A folder whose `multidomain-de-en/koran.*.tsv.gz` are taken; None downloads.
        checksums: SHA-256 (hex) of each file's text.
        download: Gives the contents of a URL.

    Raises:
        FetchError: A file cannot be had or written, or it holds another text than expected.
    """
    texts: dict[str, bytes] = {}
    for part in PARTS:
        names = [f"{part}.{language}" for language in LANGUAGES]
        if all(_is_there(out / name, checksums[name]) for name in names):
            continue
        found = _download(part, download) if mirror is None else _unpack(mirror / FOLDER / f"koran.{part}.tsv.gz")
        for name, (where, text) in zip(names, found, strict=True):
            texts[name] = _squeeze(text, where)
            digest = hashlib.sha256(texts[name]).hexdigest()
            if digest != checksums[name]:
                raise FetchError(
                    f"{where} holds another text than expected: SHA-256 {digest}\n  expected: {checksums[name]}"
                    "\n  to do: fetch it again; if that does not help, the corpus has changed at its home"
                )
    _write(out, texts)


def make_tiny(out: Path) -> None:
    """Write made rows to `out` under the names of the corpus.

    Raises:
        FetchError: The files cannot be written.
    """
    texts, first = {}, 0
    for part, rows in TINY_ROWS.items():
        made = [_make_row(number) for number in range(first, first + rows)]
        first += rows
        for column, language in enumerate(LANGUAGES):
            texts[f"{part}.{language}"] = "".join(f"{row[column]}\n" for row in made).encode()
    _write(out, texts)


def _make_row(number: int) -> tuple[str, str]:
    number, person = divmod(number, len(_PEOPLE))
    number, deed = divmod(number, len(_DEEDS))
    verse, reason = divmod(number, len(_REASONS))
    english = f"{_DEEDS[deed][0]} {_PEOPLE[person][0]}, {_REASONS[reason][0]} ({verse + 1})."
    german = f"{_DEEDS[deed][1]} {_PEOPLE[person][1]}, {_REASONS[reason][1]} ({verse + 1})."
    return german, english


def _is_there(path: Path, checksum: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == checksum


def _download(part: str, download: Callable[[str], bytes]) -> list[tuple[str, bytes]]:
    found = []
    for language in LANGUAGES:
        where = f"{HOME}/{part}.{language}"
        try:
            found.append((where, download(where)))
        except (OSError, http.client.HTTPException) as error:  # urllib's errors and time-outs are OSErrors
            hint = f"check the network, or put the files into DIR/{FOLDER} and set {MIRROR}=DIR"
            raise FetchError(f"{where} cannot be read: {error}\n  to do: {hint}") from None
    return found


def _unpack(path: Path) -> list[tuple[str, bytes]]:
    """Return the columns of a compressed TSV file, each with the place that messages name."""
    try:
        rows = [line.split(b"\t") for line in gzip.decompress(path.read_bytes()).splitlines()]
    except (OSError, EOFError, zlib.error) as error:
        raise FetchError(f"{path} cannot be read: {error}\n  to do: copy it again, or unset {MIRROR}") from None
    if any(len(row) != len(LANGUAGES) for row in rows):
        raise FetchError(f"{path} does not have {len(LANGUAGES)} columns in each row")
    return [(str(path), b"".join(row[column] + b"\n" for row in rows)) for column in range(len(LANGUAGES))]


def _squeeze(text: bytes, where: str) -> bytes:
    """Return a text with single blanks in place of other white space."""
    try:
        lines = text.decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise FetchError(f"{where} is not UTF-8 text: {error}") from None
    return "".join(f"{' '.join(line.split())}\n" for line in lines).encode()


def _write(out: Path, texts: Mapping[str, bytes]) -> None:
    parts = {name: out / f".{name}.part" for name in texts}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            parts[name].write_bytes(text)
        for name, part in parts.items():
            part.replace(out / name)
    except OSError as error:
        raise FetchError(f"{out} cannot be written: {error}") from None
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def main(arguments: list[str] | None = None, *, download: Callable[[str], bytes] = downloaded) -> int:
    parser = argparse.ArgumentParser(description="Fetch German-English translations of the Koran.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--tiny", action="store_true", help="write made rows and fetch nothing")
    options = parser.parse_args(arguments)
    named = os.environ.get(MIRROR)
    try:
        if options.tiny:
            make_tiny(options.out)
        else:
            fetch(options.out, mirror=Path(named) if named else None, download=download)
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"koran: {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

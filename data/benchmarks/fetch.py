"""Fetch a benchmark of machine translation: `python data/benchmarks/fetch.py --out DIR --corpus wmt14-en-de`.

wmt14-en-de: Europarl v7, Common Crawl and News Commentary v9 (some 4.5 million rows, `train.LL`), newstest2013 and the
3,003 rows of newstest2014. iwslt14-de-en: TED talks (some 160,000 rows, `train.LL`, `valid.LL`, `test.LL`). Where the
environment names a folder in SEQKD_DATA_MIRROR, the archives in its folder wmt14 or iwslt14 are taken and nothing is
downloaded.

Archives are checked against digests that others have published. `SHA256SUMS`, beside the text, records the digests of
archives and text at the first fetch; later fetches into the same folder compare them. `--tiny` writes some hundred made
rows under the same names, for runs that only have to work.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from archives import MIRROR, Download, FetchError, compare, digest_of, downloaded, obtain
from corpora import CORPORA, Corpus
from tiny import pairs

RECORD = "SHA256SUMS"
DOWNLOADS = "archives"
# Made rows of the training text, and of each held-out text.
TINY_ROWS, TINY_HELD_OUT = 300, 40


def fetch(out: Path, corpus: Corpus, *, mirror: Path | None, download: Download = downloaded) -> None:
    """Write the text of a corpus to `out`; all of it, or nothing.

    Args:
        out: The folder to write to.
        corpus: What to fetch.
        mirror: A folder that holds the archives in `corpus.folder`; None downloads them.
        download: Writes what a URL holds to a file.

    Raises:
        FetchError: An archive cannot be had or is not the expected one, or nothing can be written.
    """
    record = _read_record(out)
    if all(name in record and _holds(out / name, record[name]) for name in corpus.files):
        return

    def write(folder: Path) -> None:
        held, keep = None if mirror is None else mirror / corpus.folder, out / DOWNLOADS
        opened = {
            archive.name: obtain(archive, mirror=held, keep=keep, record=record, download=download)
            for archive in corpus.archives
        }
        corpus.write(opened, folder)

    _write(out, corpus, write, record)
    shutil.rmtree(out / DOWNLOADS, ignore_errors=True)


def make_tiny(out: Path, corpus: Corpus) -> None:
    """Write made rows under the names of a corpus's files.

    Raises:
        FetchError: Nothing can be written.
    """

    def write(folder: Path) -> None:
        stems = list(dict.fromkeys(name.rsplit(".", 1)[0] for name in corpus.files))
        rows = pairs(TINY_ROWS + TINY_HELD_OUT * (len(stems) - 1))
        for stem in stems:
            taken = list(itertools.islice(rows, TINY_ROWS if stem == "train" else TINY_HELD_OUT))
            for side, lines in zip(("en", "de"), zip(*taken, strict=True), strict=True):
                (folder / f"{stem}.{side}").write_text("\n".join(lines) + "\n", encoding="utf-8")

    _write(out, corpus, write, None)  # without a record, which would make the next fetch take the rows for the corpus


def _write(out: Path, corpus: Corpus, write: Callable[[Path], None], record: dict[str, str] | None) -> None:
    """Let `write` fill a folder of its own; then put its files in their places, and a record beside them."""
    part = out / ".part"
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write(part)
        if record is not None:
            for name in corpus.files:
                compare(name, digest_of(part / name), record, out / name)
            (part / RECORD).write_text("".join(f"{digest}  {name}\n" for name, digest in record.items()))
        for path in sorted(part.iterdir(), key=lambda path: path.name == RECORD):  # the record comes last
            path.replace(out / path.name)
    except OSError as error:
        raise FetchError(f"{out} cannot be written: {error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _read_record(out: Path) -> dict[str, str]:
    try:
        lines = (out / RECORD).read_text().splitlines()
    except OSError:
        return {}
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _holds(path: Path, digest: str) -> bool:
    return path.is_file() and digest_of(path) == digest


def main(arguments: list[str] | None = None, *, download: Download = downloaded) -> int:
    parser = argparse.ArgumentParser(description="Fetch a benchmark of machine translation.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--corpus", required=True, choices=CORPORA)
    parser.add_argument("--tiny", action="store_true", help="write some hundred made rows; nothing is fetched")
    options = parser.parse_args(arguments)
    corpus, named = CORPORA[options.corpus], os.environ.get(MIRROR)
    try:
        if options.tiny:
            make_tiny(options.out, corpus)
        else:
            fetch(options.out, corpus, mirror=Path(named) if named else None, download=download)
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.corpus}{', made rows' if options.tiny else ''}: {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

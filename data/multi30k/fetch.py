"""Fetch Multi30k task 1, raw text: `python data/multi30k/fetch.py --out DIR --pair en-de`.

Image captions in English, German, French and Czech (Elliott et al. 2016, 2017; Barrault et al. 2018), for
non-commercial research and education; see https://github.com/multi30k/dataset. Written are train.LL (29,000 rows),
val.LL (1,014) and test_2016_flickr.LL (1,000) for each language. With --halves the training text is also written as
two halves: train-1.LL has the rows 1, 3, 5, ..., and train-2.LL the rows 2, 4, 6, ... Where the environment names a
folder in SEQKD_DATA_MIRROR, its multi30k/*.gz are taken and nothing is downloaded. Every file is checked against its
SHA-256. `--tiny` writes some hundred made rows under the same names, for runs that only have to work.

`--gold N` also writes N training rows as gold.LL, for both languages, and the sources of all other rows as mono.LL, for
the first language: text whose targets are hidden, for self-training. The gold rows are spread evenly over the text.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import http.client
import os
import random
import sys
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

HOME = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
MIRROR = "SEQKD_DATA_MIRROR"
LANGUAGES = ("en", "de", "fr", "cs")
PARTS = ("train", "val", "test_2016_flickr")
TIMEOUT_SECONDS = 60
TINY_ROWS = {"train": 300, "val": 40, "test_2016_flickr": 40}

# Words of made rows.
COUNTS = ("one", "two", "three", "many", "some")
COLOURS = ("red", "blue", "old", "small", "tall", "wet")
BEINGS = ("dogs", "women", "children", "players", "birds", "riders", "cooks")
DEEDS = ("run", "sit", "jump", "wait", "sing", "look")
PLACES = ("outside", "inside", "here", "uphill", "together", "alone")

# Digests of the text, because the same text can be compressed in many ways.
CHECKSUMS = {
    "train.en": "460a15fbd157e34a7a9957ee388c1ca247fe47af3ef25fb50442af6c274e0fc6",
    "train.de": "2c2b73fd2b548fbcde3a875e0a78d6ee94d498bfdee6bd3eae3945779e9ddf72",
    "train.fr": "5925a3c18f1587b6b54b87743106e6e8ab93618edb6f65d19eac0621f853a10d",
    "train.cs": "2be68b38c8d586ff4f54eb13cc6e1baaaa053695b3f070d3038303a47f2268da",
    "val.en": "1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227",
    "val.de": "660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660",
    "val.fr": "5304e444d842e962b2dda4d816b70b22a1765b15401642b7ca37a67477e708dc",
    "val.cs": "d53827e469b0a1ca8d57e9e26b2b64c4bc4b33f5479c7b03ae87ae5c882c3e33",
    "test_2016_flickr.en": "399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182",
    "test_2016_flickr.de": "4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16",
    "test_2016_flickr.fr": "cb3160d69b002bb638e66cc7612fcd56cb0af82eadc9c142dedc438afb885ef6",
    "test_2016_flickr.cs": "45adb85f688de8407fddcbe1b36dca15d12aab868149b337e2576f2d6d2ff8d8",
}


class FetchError(Exception):
    """The corpus cannot be fetched. The message gives the reason and the remedy."""


def downloaded(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
        return bytes(answer.read())


def fetch(
    out: Path,
    pair: str,
    *,
    mirror: Path | None,
    halves: bool = False,
    checksums: Mapping[str, str] = CHECKSUMS,
    download: Callable[[str], bytes] = downloaded,
) -> None:
    """Write the three files of each language to `out`; all of them, or none.

    Args:
        out: The folder to write to.
        pair: Two or more languages, e.g. "en-de" or "en-de-fr".
        mirror: A folder whose `multi30k/*.gz` are taken; None downloads.
        halves: Whether to write the two halves of the training text, too.
        checksums: SHA-256 (hex) of each file's text.
        download: Gives the contents of a URL.

    Raises:
        FetchError: An unknown pair, a file that cannot be had or written, or one with another text than expected.
    """
    names = [f"{part}.{language}" for language in _languages(pair) for part in PARTS]
    missing = [name for name in names if not _is_there(out / name, checksums[name])]
    texts = {name: _text(name, mirror, checksums[name], download) for name in missing}
    for language in _languages(pair) if halves else ():
        name = f"train.{language}"
        texts |= _halved(language, texts[name] if name in texts else (out / name).read_bytes())
    try:
        _write(out, texts)
    except OSError as error:
        raise FetchError(f"{out} cannot be written: {error}") from None


def make_tiny(out: Path, pair: str) -> None:
    """Write made rows of a language pair. Sources in one language are the same for all pairs.

    Raises:
        FetchError: An unknown pair, or nothing can be written.
    """
    texts = {f"{part}.{language}": _make_text(part, language) for language in _languages(pair) for part in PARTS}
    try:
        _write(out, texts)
    except OSError as error:
        raise FetchError(f"{out} cannot be written: {error}") from None


def hide(out: Path, pair: str, gold: int) -> None:
    """Write `gold` training rows as gold.LL, and the sources of the others as mono.LL.

    Args:
        out: The folder with the files of `pair`, to which the new ones are written.
        pair: Two languages; the first is the source.
        gold: The number of rows whose targets are not hidden.

    Raises:
        FetchError: There are not more training rows than `gold`, or the files cannot be written.
    """
    source, target = _languages(pair)
    sides = {name: (out / f"train.{name}").read_bytes().splitlines(keepends=True) for name in (source, target)}
    rows = len(sides[source])
    if not 0 < gold < rows:
        raise FetchError(f"--gold {gold}: expected at least 1 and at most {rows - 1}: there are {rows} training rows")
    shown = [(row + 1) * gold // rows > row * gold // rows for row in range(rows)]
    texts = {
        f"gold.{name}": b"".join(line for line, own in zip(lines, shown, strict=True) if own)
        for name, lines in sides.items()
    }
    texts[f"mono.{source}"] = b"".join(line for line, own in zip(sides[source], shown, strict=True) if not own)
    try:
        _write(out, texts)
    except OSError as error:
        raise FetchError(f"{out} cannot be written: {error}") from None


def _make_text(part: str, language: str) -> bytes:
    """Make the rows of a file: captions whose words end with the language, in an order that it determines."""
    draw = random.Random(part)
    turned = LANGUAGES.index(language) % 2 == 1
    lines = []
    for _ in range(TINY_ROWS[part]):
        words = [draw.choice(group) for group in (COUNTS, COLOURS, BEINGS, DEEDS, PLACES)]
        words = [word if language == "en" else f"{word}{language}" for word in words]
        lines.append(" ".join([*words[:1], *reversed(words[1:3]), *words[3:]] if turned else words))
    return ("\n".join(lines) + "\n").encode()


def _languages(pair: str) -> list[str]:
    languages = pair.split("-")
    if len(languages) < 2 or len(set(languages)) < len(languages) or not set(languages) <= set(LANGUAGES):
        raise FetchError(f"--pair {pair!r}: expected two or more of {', '.join(LANGUAGES)}, such as en-de")
    return languages


def _is_there(path: Path, checksum: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == checksum


def _text(name: str, mirror: Path | None, checksum: str, download: Callable[[str], bytes]) -> bytes:
    where = f"{HOME}/{name}.gz" if mirror is None else str(mirror / "multi30k" / f"{name}.gz")
    try:
        packed = download(where) if mirror is None else Path(where).read_bytes()
    except (OSError, http.client.HTTPException) as error:  # urllib's errors and time-outs are OSErrors
        hint = f"check the network, or put the files into DIR/multi30k and set {MIRROR}=DIR"
        raise FetchError(f"{where} cannot be read: {error}\n  to do: {hint}") from None
    try:
        text = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise FetchError(f"{where} cannot be decompressed: {error}") from None
    found = hashlib.sha256(text).hexdigest()
    if found != checksum:
        raise FetchError(
            f"{where} holds another text than expected: SHA-256 {found}\n  expected: {checksum}"
            "\n  to do: fetch it again; if that does not help, the corpus has changed at its home"
        )
    return text


def _halved(language: str, text: bytes) -> dict[str, bytes]:
    """Divide a text into its odd and its even rows."""
    rows = text.removesuffix(b"\n").split(b"\n")
    return {f"train-{half + 1}.{language}": b"\n".join([*rows[half::2], b""]) for half in (0, 1)}


def _write(out: Path, texts: Mapping[str, bytes]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    parts = {name: out / f".{name}.part" for name in texts}
    try:
        for name, text in texts.items():
            parts[name].write_bytes(text)
        for name, part in parts.items():
            part.replace(out / name)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def main(arguments: list[str] | None = None, *, download: Callable[[str], bytes] = downloaded) -> int:
    parser = argparse.ArgumentParser(description="Fetch Multi30k task 1, raw text.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--pair", required=True, help="two or more of en, de, fr, cs, such as en-de")
    parser.add_argument("--halves", action="store_true", help="write two halves of the training text, too")
    parser.add_argument("--tiny", action="store_true", help="write some hundred made rows; nothing is fetched")
    parser.add_argument("--gold", type=int, help="write this many pairs as gold.LL, and the other sources as mono.LL")
    options = parser.parse_args(arguments)
    named = os.environ.get(MIRROR)
    try:
        mirror = Path(named) if named else None
        if options.tiny:
            make_tiny(options.out, options.pair)
        else:
            fetch(options.out, options.pair, mirror=mirror, halves=options.halves, download=download)
        if options.gold is not None:
            hide(options.out, options.pair, options.gold)
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"multi30k {options.pair}{', made rows' if options.tiny else ''}: {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

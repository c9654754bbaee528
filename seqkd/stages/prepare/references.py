"""Validation and test text, which keeps every row and may have several references."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from seqkd.config.stages import BitextConfig
from seqkd.corpus.files import atomic_path
from seqkd.errors import SeqkdError, TextError
from seqkd.text.opening import open_text
from seqkd.text.reading import BitextFacts, check_bitext, read_bitext

ACCEPTED = "accepted.jsonl"  # a file in the folder of a test set
_MOST_ROWS_NAMED = 5
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can write half of a pair, which UTF-8 cannot


def name_digests(digests: tuple[str, ...]) -> dict[str, str]:
    """Name the digests of the files of a text by role: `source`, `target`, and further references from `target2` on."""
    names = ["source", "target", *(f"target{number}" for number in range(2, len(digests)))]
    return dict(zip(names, digests, strict=False))


def accepted_file(corpus: Path) -> Path:
    """Return the file of accepted translations of a test corpus, which may not exist.

    The file of a further test set is in its folder, and that of a prepared folder's own test text beside the corpus.
    """
    inside = corpus / ACCEPTED
    return inside if inside.is_file() else corpus.parent / f"{corpus.name}.accepted.jsonl"


def check_text(bitext: BitextConfig, problems: list[SeqkdError]) -> tuple[BitextFacts | None, str]:
    """Check the files of a text that keeps every row.

    Args:
        bitext: The text.
        problems: The list to which problems are added.

    Returns:
        The number of rows and the digests of the source and of each reference, or None if a file cannot be used; and
        the digest of the accepted translations, or "".
    """
    found: BitextFacts | None = None
    accepted = ""
    for target in bitext.references or (None,):
        try:
            facts = check_bitext(bitext.source, target)
            _check_every_row(bitext.source, target)
        except TextError as error:
            if str(error) not in map(str, problems):  # a missing source is one problem for all references
                problems.append(error)
        else:
            further = () if found is None else (*found.digests, facts.digests[1])
            found = BitextFacts(rows=facts.rows, digests=further or facts.digests)
    if found is not None and bitext.accepted is not None:
        try:
            accepted = _check_accepted(bitext.accepted, found.rows)
        except TextError as error:
            problems.append(error)
    return found, accepted


def read_text(bitext: BitextConfig) -> Iterator[tuple[str, ...]]:
    """Yield the source and all references of each row of a text that has been checked."""
    streams = [read_bitext(bitext.source, target) for target in bitext.references or (None,)]
    for row, *others in zip(*streams, strict=True):
        yield (row.source or "", row.target or "", *(other.target or "" for other in others))


def copy_accepted(path: Path, out: Path) -> None:
    """Copy the accepted translations as given, like the references, in the shortest form of JSON."""
    with open_text(path) as file, atomic_path(out) as temporary, temporary.open("w", encoding="utf-8") as copy:
        for number, line in enumerate(file, 1):
            copy.write(json.dumps(_read_accepted_row(line, path, number), ensure_ascii=False) + "\n")


def _check_every_row(source: Path, target: Path | None) -> None:
    """Refuse validation and test text with rows that cannot be read, because every row must be kept."""
    bad = (row for row in read_bitext(source, target) if row.problem)
    named = [f"line {row.line} ({row.problem})" for row in islice(bad, _MOST_ROWS_NAMED)]
    if named:
        more = sum(1 for _ in bad)
        raise TextError(
            f"rows that cannot be read: {', '.join(named)}{f' and {more:,} more' if more else ''}",
            where=str(source if target is None else f"{source}, {target}"),
            hint="correct them: only training text is cleaned; all validation and test rows are kept",
        )


def _check_accepted(path: Path, rows: int) -> str:
    digest, number = hashlib.sha256(), 0
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            digest.update(line)
            _read_accepted_row(line, path, number)
    if number != rows:
        raise TextError(f"{number:,} rows for {rows:,} rows of test text", where=str(path), expected="a row for each")
    return digest.hexdigest()


def _read_accepted_row(line: bytes, path: Path, number: int) -> list[str]:
    try:
        texts = json.loads(line)
    except ValueError:
        texts = None
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise TextError(
            "not a list of translations", where=f"{path}, line {number}", expected='JSON such as ["one", "another"]'
        )
    if any(_SURROGATE.search(text) for text in texts):
        raise TextError(
            "contains half of a surrogate pair (\\ud800 to \\udfff), which is not a character",
            where=f"{path}, line {number}",
            expected="both halves of the pair, or the character itself in UTF-8",
        )
    return texts

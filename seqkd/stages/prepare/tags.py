"""The tag that the sources of a data set open with, such as `<2de>` for the target language (Johnson et al. 2017).

The tag is part of the source text. Everything that reads or encodes the text therefore treats it like a word, and only
statistics about words need to know it. The manifest of each corpus of the data set records it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from seqkd.corpus.manifest import Manifest
from seqkd.errors import ModelError
from seqkd.text.vocabularies import Vocabularies

SOURCE_TAG = "source_tag"  # in the manifest of a corpus, and in the settings of a fingerprint


def read_tag(manifest: Manifest) -> str:
    """Return the tag that the sources of a corpus open with; "" if they have none."""
    return str(manifest.extra.get(SOURCE_TAG, ""))


def describe_tag(tag: str) -> dict[str, Any]:
    """Return the entry of a manifest or of settings for a tag; empty if there is none."""
    return {SOURCE_TAG: tag} if tag else {}


def add_tag(texts: Iterable[tuple[str, ...]], tag: str) -> Iterator[tuple[str, ...]]:
    """Put the tag and a blank before the first text of each row, which is the source."""
    return ((f"{tag} {source}", *others) for source, *others in texts) if tag else iter(texts)


def remove_tag(source: str, tag: str) -> str:
    """Return a source without its tag."""
    return source.removeprefix(tag).lstrip() if tag else source


def check_tag(tag: str, vocabularies: Vocabularies) -> None:
    """Refuse a vocabulary without a piece for the tag.

    Raises:
        ModelError: The tag is no piece of the source vocabulary.
    """
    if tag and vocabularies.source.id_of(tag) is None:
        raise ModelError(
            f"has no piece {tag!r}, which is the tag that sources of the data set open with",
            where=str(vocabularies.source.path),
            expected="a vocabulary with the tag as one piece",
            hint="let the data set learn a vocabulary ([prepare.vocabulary]), which holds the tag by itself; or give "
            "`tag` a piece that this vocabulary has",
        )

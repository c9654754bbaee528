"""Rows of data sets that share their sources, joined by the text of the source."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seqkd.corpus.manifest import Manifest, read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import InputError
from seqkd.stages.prepare.tags import read_tag, remove_tag

SOURCE_ROW = "source_row"  # the column; see `CORPUS_SCHEMA`


class SourceRows:
    """The first row of each source of a data set. It takes 16 bytes of memory a row.

    Args:
        train: The training text of the data set.
    """

    def __init__(self, train: Corpus) -> None:
        tag = read_tag(train.manifest)
        ids, hashes = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
        for table in train.tables(["id", "source"]):
            ids.append(table.column("id").to_numpy())
            hashes.append(_hash([remove_tag(source, tag) for source in table.column("source").to_pylist()]))
        self._hashes, first = np.unique(np.concatenate(hashes), return_index=True)
        self._ids = np.concatenate(ids)[first]

    def find(self, sources: list[str]) -> pa.Array:
        """Find the first row of each normalised source without a tag, `[rows]` int64; null if there is none."""
        wanted = _hash(sources)
        places = np.minimum(np.searchsorted(self._hashes, wanted), max(len(self._hashes) - 1, 0))
        known = self._hashes[places] == wanted if len(self._hashes) else np.zeros(len(wanted), np.bool_)
        found = self._ids[places] if len(self._hashes) else np.zeros(len(wanted), np.int64)
        return pa.array(found, pa.int64(), mask=~known)


def _hash(texts: list[str]) -> npt.NDArray[np.uint64]:
    """Hash texts to 64 bits, among which equal hashes of different texts are not to be expected."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, dtype=np.uint64)


def check_shared(prepared: Path, source: Path, digest: str) -> Manifest:
    """Check that a data set has the same source side as another one, and return the manifest of the other.

    Args:
        prepared: The other data set, an output of `prepare`.
        source: The source file of the training text.
        digest: Its SHA-256.

    Raises:
        CorpusError: `prepared` is not a finished folder.
        InputError: The source sides differ.
    """
    manifest = read_manifest(prepared)
    theirs = str(manifest.fingerprint.get("inputs", {}).get("train.source", ""))
    if theirs != digest:
        raise InputError(
            f"differs from the source side of the data set in {prepared}, whose sources it is said to share",
            where=str(source),
            expected=f"the same lines: SHA-256 {theirs[:12]}..., found {digest[:12]}...",
            hint="give both data sets the same source text, or leave out shares_sources",
        )
    return manifest

"""The common part of all exports: the splits of a corpus, and an output folder that is whole once it has a manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from seqkd.corpus.manifest import Manifest, Provenance, StageOutput, read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import CorpusError

TRAIN = "train"
HELD_OUT = ("valid", "test")


def open_splits(corpus: Path, prepared: Path | None) -> dict[str, Corpus]:
    """Open a corpus as the split "train", and the held-out text of a prepared folder as "valid" and "test".

    A further vocabulary (`seqkd prepare --vocabulary`) has validation text alone.

    Args:
        corpus: A corpus, gold or distilled.
        prepared: A folder of `prepare`, or None.

    Raises:
        CorpusError: A folder is not finished, or is of another kind.
    """
    splits = {TRAIN: Corpus.open(corpus, "corpus")}
    if prepared is not None:
        if (kind := read_manifest(prepared).kind) != "prepared":
            raise CorpusError(
                f"is of kind {kind!r}", where=str(prepared), expected="a folder of `seqkd prepare`, such as gold"
            )
        splits |= {name: Corpus.open(prepared / name, "corpus") for name in HELD_OUT if (prepared / name).exists()}
    return splits


def digests(splits: Mapping[str, Corpus]) -> dict[str, str]:
    """Return the digest of each split, for `write_export`."""
    return {name: corpus.manifest.digest() for name, corpus in splits.items()}


def write_export(
    out: Path,
    to: str,
    inputs: Mapping[str, str],
    write: Callable[[], Mapping[str, int]],
    *,
    vocabulary: str = "",
    overwrite: bool,
) -> None:
    """Make an export folder, or do nothing if it was made from the same inputs.

    Args:
        out: The folder.
        to: The name of the format.
        inputs: Digest of each input by its role.
        write: Writes the files into `out`, each of them atomically, and returns numbers of rows by event.
        vocabulary: The digest of the vocabulary, or "".
        overwrite: Whether to replace a folder that was made from other inputs.

    Raises:
        ConflictError: `out` was made from other inputs.
        WorkError: A file cannot be written, for example because the disk is full.
    """
    made_by = Provenance(stage="export", settings={"to": to}, inputs=inputs)
    with StageOutput.open(out, "export", made_by, overwrite=overwrite) as output:
        if not output.complete:
            counts = {event: number for event, number in sorted(write().items()) if number}
            fingerprint = made_by.fingerprint
            output.commit(
                Manifest(kind="export", fingerprint=fingerprint, vocabulary=vocabulary, counts=counts, extra={"to": to})
            )

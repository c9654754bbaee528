"""The outputs of the baseline for the same test text, with which the outputs of a model are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from seqkd.corpus.fingerprints import canonical_json
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import CorpusError
from seqkd.stages.prepare.encode import find_text

FILES = "hypotheses.*.txt"
TEXT = "text"  # in a manifest: the corpus that the test corpus was encoded from; absent if it was not


@dataclass(frozen=True, slots=True)
class BaselineOutputs:
    """A finished evaluation on the same test text.

    Attributes:
        name: The name of the model.
        texts: The outputs of each decode, one per row, by the name of the file.
        digest: SHA-256 (hex) of name and texts.
    """

    name: str
    texts: Mapping[str, list[str]]
    digest: str

    @classmethod
    def open(cls, folder: Path, corpus: Corpus) -> BaselineOutputs:
        """Read an evaluation.

        Args:
            folder: The folder of the evaluation.
            corpus: The test corpus. Its text must be that of the evaluation; the vocabulary may differ.

        Raises:
            CorpusError: The folder is missing, unfinished, damaged or not an evaluation, or has another test text.
        """
        manifest = read_manifest(folder)
        if manifest.kind != "evaluation":
            raise CorpusError(
                f"is of kind {manifest.kind!r}, not an evaluation",
                where=str(folder),
                expected="the folder that `seqkd evaluate` wrote for the baseline",
            )
        inputs = manifest.fingerprint.get("inputs")
        theirs = inputs.get("corpus") if isinstance(inputs, Mapping) else None
        if manifest.extra.get(TEXT, theirs) != find_text(corpus.manifest):
            raise CorpusError(
                f"is an evaluation on a test text other than {corpus.path}",
                where=str(folder),
                expected="a baseline that was evaluated on the same test text",
                hint=f"evaluate the baseline on {corpus.path}",
            )
        name = str(manifest.extra.get("name", folder.name))
        texts = {path.name: read_outputs(path, manifest.rows, of="baseline") for path in sorted(folder.glob(FILES))}
        return cls(name, texts, hashlib.sha256(canonical_json({"name": name, "texts": texts})).hexdigest())


def name_outputs(decode: str, *, parallel: bool) -> str:
    """Return the name of the file that holds the outputs of a decode.

    Args:
        decode: The name of the decode in the results: a beam, or the name of a parallel decode.
        parallel: Whether the model writes all positions at once.
    """
    return f"hypotheses.{'' if parallel else 'beam'}{decode}.txt"


def read_outputs(path: Path, rows: int, *, of: str) -> list[str]:
    """Read the outputs of a decode, one on each line.

    Args:
        path: The file.
        rows: Number of rows of the test text.
        of: The evaluated model in words, for the message.

    Raises:
        CorpusError: The file is missing or damaged.
    """
    hint = f"evaluate the {of} again with --overwrite"
    try:
        lines = path.read_bytes().decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"cannot be read: {error}", where=str(path), hint=hint) from None
    if len(lines) - 1 != rows or lines[-1]:
        raise CorpusError(
            f"damaged: {len(lines) - 1:,} whole lines for {rows:,} rows",
            where=str(path),
            hint=hint,
        )
    return lines[:-1]

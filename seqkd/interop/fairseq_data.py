"""Export of a corpus as fairseq's binarised data (Ott et al. 2019). fairseq itself is not needed."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from seqkd.corpus.files import atomic_path, atomic_write
from seqkd.corpus.reader import Corpus
from seqkd.interop.corpus_settings import EncodedExport
from seqkd.interop.exports import TRAIN, digests, open_splits, write_export
from seqkd.interop.fairseq_dictionary import SOURCE_LANGUAGE, TARGET_LANGUAGE, dictionary_name, dictionary_text
from seqkd.progress import say
from seqkd.text.vocabularies import Vocabularies

# The index of fairseq's MMapIndexedDataset: magic bytes, version, code of the type, number of rows, then for each row
# the number of ids and the place of the first one in bytes.
_MAGIC, _VERSION = b"MMIDIDX\x00\x00", 1
# The type that fairseq-preprocess chooses for a vocabulary of a size, and the code of this type. fairseq would choose
# uint32 for large ones, which its earlier versions do not know.
_SMALL, _SMALL_TYPE, _SMALL_CODE = 65_500, np.dtype("<u2"), 8
_LARGE_TYPE, _LARGE_CODE = np.dtype("<i4"), 4
UNWEIGHTED = "rows whose weight is lost"


def export_data(corpus: Path, out: Path, settings: EncodedExport, *, overwrite: bool = False) -> None:
    """Write a corpus as `fairseq-preprocess` would: `train.src-tgt.src.bin` and `.idx`, and dict.src.txt.

    The ids are those of seqkd, so that a model that was exported with `seqkd export fairseq` reads the data.

    Args:
        corpus: The corpus.
        out: The folder to make.
        settings: The prepared folder with the vocabulary of the corpus. Its validation and test text become `valid` and
            `test`.
        overwrite: Whether to replace a folder that was made from other inputs.

    Raises:
        CorpusError: A folder is not a finished corpus, is damaged, or was made with another vocabulary.
        ModelError: A piece cannot be written in a dict.txt.
        ConflictError: `out` was made from other inputs.
        WorkError: A file cannot be written, for example because the disk is full.
    """
    splits = open_splits(corpus, settings.prepared)
    vocabularies = Vocabularies.load(settings.prepared)
    for split in splits.values():
        split.check_vocabularies(
            vocabularies, f"that of {settings.prepared}", hint="give --prepared the folder that the corpus comes from"
        )
    dictionaries = {
        dictionary_name(SOURCE_LANGUAGE): dictionary_text(vocabularies.source.path).encode(),
        dictionary_name(TARGET_LANGUAGE): dictionary_text(vocabularies.target.path).encode(),
    }
    write_export(
        out,
        "fairseq-data",
        digests(splits),
        partial(_write, splits, vocabularies, dictionaries, out),
        vocabulary=vocabularies.target.digest,
        overwrite=overwrite,
    )


def _write(
    splits: Mapping[str, Corpus], vocabularies: Vocabularies, dictionaries: Mapping[str, bytes], out: Path
) -> dict[str, int]:
    for name, text in dictionaries.items():
        atomic_write(out / name, text)
    sides = (
        ("source_ids", SOURCE_LANGUAGE, vocabularies.source.size),
        ("target_ids", TARGET_LANGUAGE, vocabularies.target.size),
    )
    for name, corpus in splits.items():
        for column, language, pieces in sides:
            corpus.check_ids(column, pieces)
            stem = f"{name}.{SOURCE_LANGUAGE}-{TARGET_LANGUAGE}.{language}"
            _write_side(corpus, column, out / f"{stem}.bin", out / f"{stem}.idx", pieces, vocabularies.target.eos_id)
    weighted = splits[TRAIN].rows if "weight" in splits[TRAIN].schema.names else 0
    if weighted:
        say(f"export: {weighted:,} {UNWEIGHTED}, because fairseq's data has no weights")
    return {UNWEIGHTED: weighted}


def _write_side(corpus: Corpus, column: str, data: Path, index: Path, pieces: int, eos: int) -> None:
    small = pieces < _SMALL
    kind, code = (_SMALL_TYPE, _SMALL_CODE) if small else (_LARGE_TYPE, _LARGE_CODE)
    lengths = [np.zeros(0, np.int32)]
    with atomic_path(data) as temporary, temporary.open("wb") as file:
        for table in corpus.tables([column]):
            for lists in table.column(column).chunks:
                ids, sizes = _end_rows(lists, eos)
                file.write(ids.astype(kind).tobytes())
                lengths.append(sizes)
    sizes = np.concatenate(lengths)
    places = np.zeros(len(sizes), np.int64)
    np.cumsum(sizes[:-1].astype(np.int64) * kind.itemsize, out=places[1:])
    head = _MAGIC + struct.pack("<QBQ", _VERSION, code, len(sizes))
    atomic_write(index, head + sizes.astype("<i4").tobytes() + places.astype("<i8").tobytes())


def _end_rows(lists: pa.ListArray, eos: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Append the end of sentence to each row.

    Returns:
        The ids of all rows `[ids + rows]`, and the number of ids of each row with its end `[rows]`.
    """
    sizes = pc.list_value_length(lists).to_numpy() + np.int32(1)
    ends = np.cumsum(sizes, dtype=np.int64) - 1
    ids = np.empty(int(sizes.sum(dtype=np.int64)), np.int32)
    inner = np.ones(len(ids), bool)
    inner[ends] = False
    ids[inner], ids[ends] = lists.flatten().to_numpy(), eos
    return ids, sizes

"""Common parts of the stages of `seqkd prepare`: judging rows, encoding shards, and listing rows left out."""

from __future__ import annotations

import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from seqkd.corpus.files import atomic_path
from seqkd.corpus.manifest import Manifest, ShardInfo, StageOutput, shard_name
from seqkd.corpus.unknowns import UNKNOWN_ROWS, count_unknown
from seqkd.corpus.writer import write_shard
from seqkd.errors import InputError, SeqkdError
from seqkd.executors.work import Completion, whole_shards
from seqkd.progress import Progress
from seqkd.stages.prepare.shared_sources import SOURCE_ROW, SourceRows
from seqkd.stages.prepare.tags import add_tag, remove_tag
from seqkd.stages.shards import ShardJob, make_shards
from seqkd.stopping import StopRequest
from seqkd.text.cleaning import Cleaner, Units
from seqkd.text.duplicates import DuplicateFinder
from seqkd.text.languages import has_blanks
from seqkd.text.normalize import Normalizer
from seqkd.text.reading import RawPair
from seqkd.text.screening import read_rejected, screen
from seqkd.text.vocabularies import Vocabularies

SAMPLE_ROWS = 20_000  # rows of training text from which script and usual ratio of lengths are determined
LENGTHS = "lengths"  # in a manifest: the units that cleaning counted; absent for words
NORMALIZED = "targets_changed_by_normalization"  # in a manifest: rows whose text differs between metrics and models


def raise_problems(problems: Sequence[SeqkdError]) -> None:
    """Raise one error for all problems of the input, if there are any.

    Raises:
        SeqkdError: The problem, if there is only one.
        InputError: All problems, if there are several.
    """
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise InputError(f"{len(problems)} problems:\n" + "\n".join(f"    {problem}" for problem in problems))


def screen_rows(
    pairs: Iterable[RawPair],
    work: Path,
    rows: int,
    *,
    normalizers: tuple[Normalizer, Normalizer],
    cleaner: Cleaner,
    drop_duplicates: bool,
    label: str,
    unit: str,
) -> Path:
    """Judge the rows. Verdicts of an earlier run are used again.

    Args:
        pairs: The rows of the files.
        work: The folder of temporary files of the run.
        rows: The number of rows.
        normalizers: The normalizers of sources and of targets.
        cleaner: The judge of single normalised rows.
        drop_duplicates: Whether to leave out pairs that equal an earlier one.
        label: The label of the progress.
        unit: The unit of the progress.

    Returns:
        The file of verdicts; see `seqkd.text.screening`.
    """
    verdicts = work / "verdicts.bin"
    if verdicts.exists():
        return verdicts
    buckets = work / "buckets"
    shutil.rmtree(buckets, ignore_errors=True)
    buckets.mkdir()
    with Progress(label, rows, unit) as progress, atomic_path(verdicts) as temporary:
        screen(
            pairs,
            temporary,
            normalizers=normalizers,
            cleaner=cleaner,
            duplicates=DuplicateFinder(buckets, rows) if drop_duplicates else None,
            advance=progress.advance,
        )
    shutil.rmtree(buckets)
    return verdicts


def find_units(
    pairs: Iterable[RawPair],
    normalizers: tuple[Normalizer, Normalizer],
    source_language: str | None,
    target_language: str | None,
) -> Units:
    """Find the units of lengths. Text is read only if a language is unknown or puts no blanks between words.

    Args:
        pairs: The rows of the files; the first ones are the sample.
        normalizers: The normalizers of sources and of targets.
        source_language: The code of the source language, or None.
        target_language: The code of the target language, or None.
    """
    if all(language is not None and has_blanks(language) for language in (source_language, target_language)):
        return Units()
    rows = [row for row in islice(pairs, SAMPLE_ROWS) if row.problem is None]
    sources = normalizers[0].normalize_all([row.source or "" for row in rows])
    targets = normalizers[1].normalize_all([row.target or "" for row in rows])
    return Units.of(list(zip(sources, targets, strict=True)), source_language, target_language)


def describe_units(units: Units) -> dict[str, Any]:
    """Return the entry of a manifest for units; empty if both sides are counted in words."""
    if units.words:
        return {}
    sides = {"source": units.source_blanks, "target": units.target_blanks}
    counted = {side: "words" if blanks else "characters" for side, blanks in sides.items()}
    return {LENGTHS: {**counted, "usual_ratio": round(units.ratio, 4)}}


def encode_shards(
    texts: Iterator[tuple[str, ...]],
    output: StageOutput,
    rows: int,
    shard_rows: int,
    vocabularies: Vocabularies,
    *,
    first_id: int = 0,
    source_rows: npt.NDArray[np.int64] | None = None,
    as_given: bool = False,
    tag: str = "",
    shared: SourceRows | None = None,
    stop: StopRequest | None = None,
) -> list[ShardInfo]:
    """Normalise, encode and write shard by shard. Finished shards of an earlier run are kept.

    Args:
        texts: For each row its source, its target, and its further references if there are any.
        output: The output folder.
        rows: The number of texts.
        shard_rows: The rows of a shard.
        vocabularies: The vocabularies of sources and of targets.
        first_id: The id of the first row; later ids count up.
        source_rows: For each row the id of the first row with the same source, for text with several targets.
        as_given: Whether the columns of text hold the text of the files, as for validation and test text, which metrics
            read there. Otherwise they hold the normalised text. Token ids are always those of the normalised text.
        tag: The tag that sources get; "" for none.
        shared: The sources that another data set shares; None for no column `source_row`.
        stop: The caller's own request to stop; None if the caller does not listen for one.

    Raises:
        WorkError: The run was stopped, or a file cannot be written.
    """
    sizes = [min(shard_rows, rows - first) for first in range(0, rows, shard_rows)]
    encode = partial(_encode_rows, vocabularies=vocabularies, as_given=as_given, tag=tag, shared=shared)
    encoder = _Encoder(texts, output.path, sizes, first_id, encode, source_rows)
    job = ShardJob(
        label=f"prepare: {output.path.name}",
        unit="pairs",
        rows=sizes,
        work=whole_shards(lambda: encoder),
        keeps=lambda index, shard: shard.rows == sizes[index],
    )
    made = make_shards(output, job, stop=stop)
    assert made is not None  # there is one process
    return made.shards


class _Encoder:
    """Encodes shards in ascending order, from texts that can be read once.

    Args:
        texts: See `encode_shards`.
        folder: The folder of the shards.
        sizes: The rows of each shard.
        first_id: The id of the first row.
        encode: Makes the table of texts, given the id of the first one.
        source_rows: See `encode_shards`.
    """

    def __init__(
        self,
        texts: Iterator[tuple[str, ...]],
        folder: Path,
        sizes: list[int],
        first_id: int,
        encode: Callable[[Iterable[tuple[str, ...]], int], pa.Table],
        source_rows: npt.NDArray[np.int64] | None,
    ) -> None:
        self._texts, self._folder, self._sizes, self._source_rows = texts, folder, sizes, source_rows
        self._first_id, self._encode = first_id, encode
        self._read = 0  # the number of texts read

    def __call__(self, shard: int) -> Completion[ShardInfo]:
        first = sum(self._sizes[:shard])
        deque(islice(self._texts, first - self._read), maxlen=0)  # the texts of finished shards
        self._read = first + self._sizes[shard]
        part = islice(self._texts, self._sizes[shard])
        table = self._encode(part, self._first_id + first)
        if self._source_rows is not None:
            table = table.append_column(SOURCE_ROW, pa.array(self._source_rows[first : first + table.num_rows]))
        return partial(write_shard, self._folder, shard, table)


def _encode_rows(
    texts: Iterable[tuple[str, ...]],
    first: int,
    *,
    vocabularies: Vocabularies,
    as_given: bool,
    tag: str,
    shared: SourceRows | None,
) -> pa.Table:
    sources, targets, *further = (list(side) for side in zip(*add_tag(texts, tag), strict=True))
    source, target = vocabularies.source.normalize(sources), vocabularies.target.normalize(targets)
    columns = {
        "id": pa.array(range(first, first + len(source)), pa.int64()),
        "source": pa.array(vocabularies.source.join_words(sources if as_given else source), pa.string()),
        "target": pa.array(vocabularies.target.join_words(targets if as_given else target), pa.string()),
        "source_ids": pa.array(vocabularies.source.encode(source), pa.list_(pa.int32())),
        "target_ids": pa.array(vocabularies.target.encode(target), pa.list_(pa.int32())),
    }
    if shared is not None:
        columns[SOURCE_ROW] = shared.find([remove_tag(text, tag) for text in source])
    if further:
        others = zip(*map(vocabularies.target.join_words, further), strict=True)
        columns["further_references"] = pa.array([list(row) for row in others], pa.list_(pa.string()))
    return pa.table(columns)


def corpus_manifest(
    output: StageOutput,
    shards: list[ShardInfo],
    vocabularies: Vocabularies,
    counts: dict[str, int],
    *,
    as_given: bool = False,
) -> Manifest:
    """Make the manifest of a corpus whose shards are written.

    Args:
        output: The output folder.
        shards: The shards.
        vocabularies: The vocabularies of sources and of targets.
        counts: Rows left out, by reason.
        as_given: See `encode_shards`.
    """
    tokens, unknown = {"source_ids": 0, "target_ids": 0}, Counter[str]()
    changed = 0
    for index in range(len(shards)):
        with pa.memory_map(str(output.path / shard_name(index))) as file:
            table = pa.ipc.open_file(file).read_all()
            for column in tokens:
                tokens[column] += pc.sum(pc.list_value_length(table[column])).as_py() or 0
            unknown.update(count_unknown([table]))
            if as_given:
                targets = [" ".join(text.split()) for text in table["target"].to_pylist()]
                normal = vocabularies.target.normalize(targets)
                changed += sum(one != other for one, other in zip(targets, normal, strict=True))
            del table
    extra: dict[str, Any] = {"source_vocabulary": vocabularies.source.digest}
    extra |= {UNKNOWN_ROWS: dict(unknown)} if unknown else {}
    extra |= {NORMALIZED: changed} if changed else {}
    return Manifest(
        kind="corpus",
        fingerprint=output.fingerprint,
        rows=sum(shard.rows for shard in shards),
        source_tokens=tokens["source_ids"],
        target_tokens=tokens["target_ids"],
        shards=shards,
        vocabulary=vocabularies.target.digest,
        counts=counts,
        extra=extra,
    )


def list_rejected(path: Path, verdicts: Path, targets: int = 1) -> None:
    """Write line and reason of each row that `screen` left out, and the number of its target if there are several."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("line\treason\ttarget\n" if targets > 1 else "line\treason\n")
        for number, reason in read_rejected(verdicts):
            line, target = divmod(number - 1, targets)
            file.write(f"{line + 1}\t{reason}\t{target + 1}\n" if targets > 1 else f"{number}\t{reason}\n")

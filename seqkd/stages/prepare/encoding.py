"""What both ways of `seqkd prepare` do: rows judged, encoded shard by shard, and those left out listed."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from seqkd.corpus.files import atomic_path
from seqkd.corpus.manifest import Manifest, ShardInfo, StageOutput, shard_name
from seqkd.corpus.writer import finished_shards, write_shard
from seqkd.errors import InputError, SeqkdError
from seqkd.progress import Progress
from seqkd.stopping import StopRequest
from seqkd.text.cleaning import Cleaner
from seqkd.text.duplicates import DuplicateFinder
from seqkd.text.normalize import Normalizer
from seqkd.text.reading import RawPair
from seqkd.text.screening import rejected, screen
from seqkd.text.vocabularies import Vocabularies


def tell_all(problems: Sequence[SeqkdError]) -> None:
    """Raise what is wrong with the input, all of it in one message; nothing if nothing is.

    Raises:
        SeqkdError: The only problem.
        InputError: Several.
    """
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise InputError(f"{len(problems)} problems:\n" + "\n".join(f"    {problem}" for problem in problems))


def screened(
    pairs: Iterable[RawPair],
    work: Path,
    rows: int,
    *,
    cleaner: Cleaner,
    drop_duplicates: bool,
    label: str,
    unit: str,
) -> Path:
    """Judge the rows; an earlier run's verdicts are taken as they are.

    Args:
        pairs: The rows as they stand in the files.
        work: Folder of the run under way.
        rows: How many there are.
        cleaner: Judges them one by one.
        drop_duplicates: A pair that an earlier row had goes.
        label: What progress is called.
        unit: What it counts.

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
            cleaner=cleaner,
            duplicates=DuplicateFinder(buckets, rows) if drop_duplicates else None,
            advance=progress.advance,
        )
    shutil.rmtree(buckets)
    return verdicts


def encode_shards(
    texts: Iterator[tuple[str, str]],
    output: StageOutput,
    rows: int,
    shard_rows: int,
    vocabularies: Vocabularies,
    stop: StopRequest,
    *,
    first_id: int = 0,
) -> list[ShardInfo]:
    """Normalise, encode and write shard by shard; shards that an earlier run finished stay.

    Args:
        texts: Sources and targets.
        output: The folder.
        rows: How many there are.
        shard_rows: Rows of a shard.
        vocabularies: Of sources and of targets.
        stop: Once it is made, no other shard is begun.
        first_id: Of the first row; those after it count up.
    """
    normalizer = Normalizer()
    finished = finished_shards(output.path)
    shards = []
    with Progress(f"prepare: {output.path.name}", rows, "pairs") as progress:
        for index, first in enumerate(range(0, rows, shard_rows)):
            number = min(shard_rows, rows - first)
            part = islice(texts, number)
            info = finished.get(index)
            if info is None or info.rows != number:
                info = write_shard(output.path, index, _table(part, first_id + first, normalizer, vocabularies))
            else:
                _exhaust(part)
            shards.append(info)
            progress.advance(number)
            if first + number < rows:
                stop.check(f"after {len(shards):,} shards of {output.path.name}")
    return shards


def _table(
    texts: Iterable[tuple[str, str]],
    first: int,
    normalizer: Normalizer,
    vocabularies: Vocabularies,
) -> pa.Table:
    sources, targets = zip(*texts, strict=True)
    source, target = normalizer.many(list(sources)), normalizer.many(list(targets))
    return pa.table(
        {
            "id": pa.array(range(first, first + len(source)), pa.int64()),
            "source": pa.array(source, pa.string()),
            "target": pa.array(target, pa.string()),
            "source_ids": pa.array(vocabularies.source.encode(source), pa.list_(pa.int32())),
            "target_ids": pa.array(vocabularies.target.encode(target), pa.list_(pa.int32())),
        }
    )


def _exhaust(items: Iterable[object]) -> None:
    for _ in items:
        pass


def corpus_manifest(
    output: StageOutput, shards: list[ShardInfo], vocabularies: Vocabularies, counts: dict[str, int]
) -> Manifest:
    """The manifest of a corpus whose shards are written.

    Args:
        output: The folder.
        shards: Its shards.
        vocabularies: Of sources and of targets.
        counts: Rows left out, by reason.
    """
    tokens = {"source_ids": 0, "target_ids": 0}
    for index in range(len(shards)):
        with pa.memory_map(str(output.path / shard_name(index))) as file:
            table = pa.ipc.open_file(file).read_all()
            for column in tokens:
                tokens[column] += pc.sum(pc.list_value_length(table[column])).as_py() or 0
            del table
    return Manifest(
        kind="corpus",
        fingerprint=output.fingerprint,
        rows=sum(shard.rows for shard in shards),
        source_tokens=tokens["source_ids"],
        target_tokens=tokens["target_ids"],
        shards=shards,
        vocabulary=vocabularies.target.digest,
        counts=counts,
        extra={"source_vocabulary": vocabularies.source.digest},
    )


def list_rejected(path: Path, verdicts: Path) -> None:
    """Write line and reason of each row that `screen` left out."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("line\treason\n")
        file.writelines(f"{line}\t{reason}\n" for line, reason in rejected(verdicts))

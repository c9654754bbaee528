"""What both ways of `seqkd prepare` do: rows judged, encoded shard by shard, and those left out listed."""

from __future__ import annotations

import shutil
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from seqkd.corpus.files import atomic_path
from seqkd.corpus.manifest import Manifest, ShardInfo, StageOutput, shard_name
from seqkd.corpus.unknowns import UNKNOWN_ROWS, count_unknown
from seqkd.corpus.writer import write_shard
from seqkd.errors import InputError, SeqkdError
from seqkd.executors.work import whole_shards
from seqkd.progress import Progress
from seqkd.stages.shards import ShardJob, make_shards
from seqkd.stopping import StopRequest
from seqkd.text.cleaning import Cleaner, Units
from seqkd.text.duplicates import DuplicateFinder
from seqkd.text.languages import has_blanks
from seqkd.text.normalize import Normalizer
from seqkd.text.reading import RawPair
from seqkd.text.screening import read_rejected, screen
from seqkd.text.vocabularies import Vocabularies

SAMPLE_ROWS = 20_000  # of the training text, for its script and its usual ratio of lengths
LENGTHS = "lengths"  # in a manifest: what cleaning counted; absent if words
NORMALIZED = "targets_changed_by_normalization"  # in a manifest: rows whose metrics see another text than models


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
    normalizers: tuple[Normalizer, Normalizer],
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
        normalizers: Of sources and of targets.
        cleaner: Judges normalised rows one by one.
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
            normalizers=normalizers,
            cleaner=cleaner,
            duplicates=DuplicateFinder(buckets, rows) if drop_duplicates else None,
            advance=progress.advance,
        )
    shutil.rmtree(buckets)
    return verdicts


def units_of(
    pairs: Iterable[RawPair],
    normalizers: tuple[Normalizer, Normalizer],
    source_language: str | None,
    target_language: str | None,
) -> Units:
    """What lengths are counted in; text is looked at only if a language is not known or puts no blanks between words.

    Args:
        pairs: The rows as they stand in the files; the first ones are the sample.
        normalizers: Of sources and of targets.
        source_language: Its code, or None.
        target_language: Likewise.
    """
    if all(language is not None and has_blanks(language) for language in (source_language, target_language)):
        return Units()
    rows = [row for row in islice(pairs, SAMPLE_ROWS) if row.problem is None]
    sources = normalizers[0].normalize_all([row.source or "" for row in rows])
    targets = normalizers[1].normalize_all([row.target or "" for row in rows])
    return Units.of(list(zip(sources, targets, strict=True)), source_language, target_language)


def units_record(units: Units) -> dict[str, Any]:
    """Units as a manifest holds them; nothing if both sides are counted in words, which is the usual way."""
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
    as_given: bool = False,
    stop: StopRequest | None = None,
) -> list[ShardInfo]:
    """Normalise, encode and write shard by shard. Shards that an earlier run finished stay.

    Args:
        texts: For each row its source, its target, and its further references if there are any.
        output: The folder.
        rows: Number of texts.
        shard_rows: Rows of a shard.
        vocabularies: Of sources and of targets.
        first_id: Id of the first row; those after it count up.
        as_given: Whether the columns of text hold what the files hold. Metrics read them there, so validation and test
            text does; otherwise they hold the normalised text. Ids are of the normalised text either way.
        stop: The caller's own request to stop; None if the caller does not listen for one.

    Raises:
        WorkError: The run was stopped, or the system refuses to write.
    """
    sizes = [min(shard_rows, rows - first) for first in range(0, rows, shard_rows)]
    encoder = _Encoder(texts, output.path, sizes, first_id, vocabularies, as_given)
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
    """Encodes and writes shards in rising order, from texts that can be read once.

    Args:
        texts: As for `encode_shards`.
        folder: Where the shards are written.
        sizes: Rows of each shard.
        first_id: Id of the first row.
        vocabularies: Of sources and of targets.
        as_given: As for `encode_shards`.
    """

    def __init__(
        self,
        texts: Iterator[tuple[str, ...]],
        folder: Path,
        sizes: list[int],
        first_id: int,
        vocabularies: Vocabularies,
        as_given: bool,
    ) -> None:
        self._texts, self._folder, self._sizes = texts, folder, sizes
        self._first_id, self._vocabularies, self._as_given = first_id, vocabularies, as_given
        self._read = 0  # texts

    def __call__(self, shard: int) -> ShardInfo:
        first = sum(self._sizes[:shard])
        deque(islice(self._texts, first - self._read), maxlen=0)  # those of shards that are there
        self._read = first + self._sizes[shard]
        part = islice(self._texts, self._sizes[shard])
        table = _table(part, self._first_id + first, self._vocabularies, self._as_given)
        return write_shard(self._folder, shard, table)


def _table(texts: Iterable[tuple[str, ...]], first: int, vocabularies: Vocabularies, as_given: bool) -> pa.Table:
    sources, targets, *further = (list(side) for side in zip(*texts, strict=True))
    source, target = vocabularies.source.normalize(sources), vocabularies.target.normalize(targets)
    columns = {
        "id": pa.array(range(first, first + len(source)), pa.int64()),
        "source": pa.array(vocabularies.source.join_words(sources if as_given else source), pa.string()),
        "target": pa.array(vocabularies.target.join_words(targets if as_given else target), pa.string()),
        "source_ids": pa.array(vocabularies.source.encode(source), pa.list_(pa.int32())),
        "target_ids": pa.array(vocabularies.target.encode(target), pa.list_(pa.int32())),
    }
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
    """The manifest of a corpus whose shards are written.

    Args:
        output: The folder.
        shards: Its shards.
        vocabularies: Of sources and of targets.
        counts: Rows left out, by reason.
        as_given: As it was for `encode_shards`.
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


def list_rejected(path: Path, verdicts: Path) -> None:
    """Write line and reason of each row that `screen` left out."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("line\treason\n")
        file.writelines(f"{line}\t{reason}\n" for line, reason in read_rejected(verdicts))

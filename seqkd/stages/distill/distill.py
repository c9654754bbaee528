"""`seqkd distill`: write the k-best lists of teachers for a corpus."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from seqkd.config.stages import DistillConfig
from seqkd.corpus.locks import Part
from seqkd.corpus.manifest import Manifest, ShardInfo, StageOutput, atomic_write
from seqkd.corpus.reader import Corpus
from seqkd.corpus.schema import KBEST_SCHEMA
from seqkd.corpus.writer import write_shard
from seqkd.errors import WorkError
from seqkd.executors.local import count_cores
from seqkd.executors.work import HERE, Completion, Scale, ShardWork
from seqkd.extensions import resolve
from seqkd.interop.sources import Answer, Place, Row, RowTranslator
from seqkd.models.protocol import SOURCE_TOO_LONG
from seqkd.progress import say
from seqkd.search.loading import Precision, team_precision
from seqkd.search.paths import slow_path
from seqkd.stages.asking import (
    Notes,
    Workers,
    ask_workers,
    check_workers,
    describe_workers,
    discard_notes,
    estimate_workers,
    find_workers,
    note_answers,
    read_refused,
    take_notes,
)
from seqkd.stages.distill.counting import UNSCORED, note_counts, read_counts
from seqkd.stages.distill.lists import kbest_table
from seqkd.stages.distill.provenance import provenance, source_of, source_settings
from seqkd.stages.prepare.encode import encode_texts
from seqkd.stages.prepare.tags import check_tag, read_tag
from seqkd.stages.rejected import REJECTED, list_rows
from seqkd.stages.shards import ShardJob, make_shards, own_device, stage_device
from seqkd.stages.slower import slow_path_note
from seqkd.stages.train.teaching import check_teachers
from seqkd.stages.train.vocabularies import teacher_vocabularies
from seqkd.text.vocabularies import Vocabularies

SPEED = "speed.json"
WAITING = "waiting_for_writing"  # the share of the time in which the search stood still because results were written
NOTHING = "no translation by the source"  # the reason for an empty list
# Rows are decoded in fixed pieces, so that neither the number of processes nor a restart changes which sentences share
# a batch. The result is then the same to the last bit.
CHUNK_ROWS = 2048


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows `start` to `stop` of a shard."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _DecodedPiece:
    """The k-best table of a piece, numbers of its rows by reason, and notes about the answers of a worker."""

    table: pa.Table
    counts: Mapping[str, int]
    notes: Notes


class _Worker:
    """Translates pieces of a corpus with a source of k-best lists.

    Args:
        config: The settings of the stage.
        settings: The settings of the source.
        place: The device and the threads of the source.
    """

    def __init__(self, config: DistillConfig, settings: Any, place: Place) -> None:
        self.corpus = Corpus.open(config.corpus, "corpus")
        self.source: RowTranslator = resolve(source_of(config).open)(settings, place)
        # The vocabulary of the corpus, for texts. Without it, models write its pieces.
        self.vocabulary = None if config.prepared is None else Vocabularies.load(config.prepared).target
        self.foreign = _foreign_vocabularies(config, self.corpus)
        self.tag = str(self.corpus.manifest.extra.get("tag", ""))

    def __call__(self, piece: _Piece) -> Completion[_DecodedPiece]:
        columns = ["id", "source", "source_ids"]
        table = self.corpus.read_shard(piece.shard, columns).slice(piece.start, piece.stop - piece.start)
        values = (table.column(name).to_pylist() for name in columns)
        rows = [Row(id=row, text=text, ids=ids) for row, text, ids in zip(*values, strict=True)]
        if self.foreign is not None:
            encoded = encode_texts([row.text for row in rows], self.foreign.source, tag=self.tag)
            rows = [replace(row, ids=ids) for row, ids in zip(rows, encoded, strict=True)]
        found = self.source(rows)
        return partial(self._complete, piece, table, rows[0].id, found, take_notes())

    def _complete(
        self, piece: _Piece, table: pa.Table, first: int, found: Answer | Callable[[], Answer], notes: Notes
    ) -> _DecodedPiece:
        """Make the texts and the table of a piece whose first row has the id `first`."""
        answer = found() if callable(found) else found
        if len(answer.lists) != table.num_rows:
            raise WorkError(
                f"the source returned {len(answer.lists):,} lists for {table.num_rows:,} rows",
                where=f"shard {piece.shard}, rows from id {first}",
                expected="one list for each row",
            )
        bare = sum(one.score is None or one.logprob is None for candidates in answer.lists for one in candidates)
        lists = answer.lists
        if self.foreign is not None:  # ids of other pieces; the texts are encoded
            lists = [[replace(candidate, ids=None) for candidate in candidates] for candidates in lists]
        counts = {**answer.counts, UNSCORED: bare}
        return _DecodedPiece(kbest_table(table, lists, self.vocabulary), counts, notes)


def run(
    config: DistillConfig, out: str | Path, *, overwrite: bool = False, device: str = "auto", scale: Scale = HERE
) -> None:
    """Decode every row of `config.corpus` into `out`, a folder of k-best lists with one shard for each shard read.

    A row whose source, with end of sentence, is longer than a teacher's positions gets an empty list. Such rows are
    counted in the manifest and listed in rejected.tsv; the setting `rejected` of `select` decides what becomes of them.

    Args:
        config: The settings of the stage.
        out: The output folder.
        overwrite: Whether to start anew if `out` was made with other settings.
        device: auto, cpu, cuda or cuda:N; on a Ray cluster auto, cpu or cuda.
        scale: The executor and the part of the work.

    Raises:
        CorpusError: The corpus is missing or damaged, or its vocabulary differs from the teacher's.
        ModelError: A teacher folder does not contain a model that decodes left to right, or the vocabularies differ.
        ConflictError: `out` was made with other settings, or another process is using it.
        InputError: The device or the precision is not available, or Ray is not installed.
        WorkError: Logits are not finite, memory or disk ran out, a worker died, or the run was stopped.
    """
    out = Path(out)
    corpus, workers = Corpus.open(config.corpus, "corpus"), _find_workers(config)
    vocabularies = _vocabularies(config, corpus)
    where = stage_device(device, scale)
    precision = team_precision(config.models, config.precision, where) if config.models else None
    made_by = provenance(config, corpus, where, precision)
    if not StageOutput.up_to_date(out, "kbest", made_by, overwrite=overwrite):
        check_workers(workers, config.workers, scale)
        mine = None if scale.part is None else scale.part.shards(len(corpus.shards))
        corpus.check_ids("source_ids", vocabularies.source.size, mine)
    with (
        StageOutput.open(
            out, "kbest", made_by, overwrite=overwrite, part=scale.part, device=own_device(where, scale)
        ) as output,
        ask_workers(workers, out, scale) as asking,
    ):
        if output.complete:
            discard_notes(out)  # left by a process that was killed right after the manifest
            say(f"distill: {out} is up to date")
            return
        rows = [shard.rows for shard in corpus.shards]
        # An external source works in one process unless the file gives a number.
        processes = config.workers or (count_cores() if config.models else 1)
        processes = 0 if where.type != "cpu" or processes == 1 or workers else processes
        threads = 1 if processes or scale.executor == "ray" else None
        job = ShardJob(
            label="distill",
            unit="sentences",
            rows=rows,
            work=ShardWork(
                start=partial(
                    _Worker,
                    config,
                    source_settings(config, where, precision),
                    Place(device=str(where), threads=threads),
                ),
                pieces=partial(_pieces, rows, _piece_rows(where, rows)),
                finish=partial(_write, out),
            ),
            processes=processes,
            workers=config.workers,
            gpu=where.type == "cuda",
        )

        def note(sentences: int, seconds: float, waited: float | None) -> None:
            _note_speed(out, scale.part, str(where), precision or "", sentences, seconds, waited)
            asking.finish()

        made = make_shards(output, job, scale=scale, stop=asking.stop, note=note)
        if made is None:
            return
        speed = _join_speeds(out)
        reason = SOURCE_TOO_LONG if config.models else NOTHING
        tokens, bare = _account(out, [shard.name for shard in made.shards])
        refused = read_refused(out)
        list_rows(out / REJECTED, ((row, refused.get(row, reason)) for row in bare))
        output.commit(
            Manifest(
                kind="kbest",
                fingerprint=made_by.fingerprint,
                rows=corpus.rows,
                source_tokens=corpus.manifest.source_tokens,
                target_tokens=tokens,
                shards=made.shards,
                vocabulary=corpus.manifest.vocabulary,
                counts=read_counts(out),
                extra={**made_by.extra, **_facts(config, corpus, where, precision), **describe_workers(workers, out)},
            )
        )
        discard_notes(out)
    left = f"; without a hypothesis: {len(bare):,} {reason} (see {out / REJECTED})" if bare else ""
    say(f"distill: {corpus.rows:,} k-best lists in {out}, {speed:,.0f} sentences/s{left}")


def estimate(config: DistillConfig, out: str | Path, *, device: str = "auto", scale: Scale = HERE) -> None:
    """Say what a run would ask an external worker, and what that would cost. Nothing is asked or written.

    Args:
        config: The settings of the stage.
        out: The output folder.
        device: See `run`.
        scale: See `run`.

    Raises:
        CorpusError: The corpus is missing or damaged.
        WorkError: The answers of earlier runs cannot be read.
    """
    corpus, workers = Corpus.open(config.corpus, "corpus"), _find_workers(config)
    _vocabularies(config, corpus)
    where = stage_device(device, scale)
    rows = [shard.rows for shard in corpus.shards]
    mine = range(len(rows)) if scale.part is None else scale.part.shards(len(rows))
    with estimate_workers("distill", Path(out), scale.part):
        if workers:
            worker = _Worker(config, source_settings(config, where, None), Place(device=str(where), threads=None))
            for shard in mine:
                for piece in _pieces(rows, _piece_rows(where, rows), shard):
                    worker(piece)


def _find_workers(config: DistillConfig) -> Workers:
    return find_workers({"teacher": config.source and config.source.settings})


def _piece_rows(where: torch.device, rows: list[int]) -> int:
    """Return the rows of a piece. A GPU decodes a whole shard at once, because the last batch of a piece runs empty."""
    return CHUNK_ROWS if where.type == "cpu" else max(rows, default=1)


def _facts(config: DistillConfig, corpus: Corpus, where: torch.device, precision: Precision | None) -> dict[str, Any]:
    """Return the facts about the decoding for the manifest."""
    if precision is None:
        return {"source": source_of(config).name}
    foreign = _foreign_vocabularies(config, corpus)
    return {
        **({} if foreign is None else {"model_vocabulary": foreign.target.digest}),
        "beam": config.search.beam,
        "nbest": config.search.nbest,
        **slow_path_note(slow_path(config.models, precision, where)),
    }


def _vocabularies(config: DistillConfig, corpus: Corpus) -> Vocabularies:
    """Return the vocabularies of the lists, which must be those of the corpus.

    Models may have another vocabulary if the settings name the folder of the corpus' own one, which encodes their
    texts.

    Raises:
        ModelError: A vocabulary is missing or damaged.
        CorpusError: The corpus was made with other vocabularies.
    """
    if config.prepared is None:
        vocabularies = teacher_vocabularies(config.models[0], corpus)
        check_teachers(config.models, vocabularies)
        return vocabularies
    found = Vocabularies.load(config.prepared)
    corpus.check_vocabularies(found, f"that of {config.prepared}", hint="name the folder that holds this corpus")
    if config.models:
        check_teachers(config.models, Vocabularies.load(config.models[0]), of="the first model")
    return found


def _foreign_vocabularies(config: DistillConfig, corpus: Corpus) -> Vocabularies | None:
    """Return the vocabularies of the models if they differ from those of the corpus."""
    if config.prepared is None or not config.models:
        return None
    found = Vocabularies.load(config.models[0])
    made_with = {"target": corpus.manifest.vocabulary, "source": corpus.manifest.extra.get("source_vocabulary")}
    if all(made_with[side] == vocabulary.digest for side, vocabulary in found.sides()):
        return None
    check_tag(read_tag(corpus.manifest), found)
    return found


def _pieces(rows: list[int], size: int, shard: int) -> list[_Piece]:
    return [_Piece(shard, start, min(start + size, rows[shard])) for start in range(0, rows[shard], size)]


def _write(out: Path, shard: int, decoded: list[_DecodedPiece]) -> ShardInfo:
    counts: Counter[str] = Counter()
    for piece in decoded:
        counts.update(piece.counts)
    note_counts(out, shard, counts)
    note_answers(out, shard, [piece.notes for piece in decoded])
    return write_shard(out, shard, pa.concat_tables([KBEST_SCHEMA.empty_table(), *(piece.table for piece in decoded)]))


def _note_speed(
    out: Path,
    part: Part | None,
    device: str,
    precision: str,
    sentences: int,
    seconds: float,
    waited: float | None,
) -> None:
    """Record the speed of this run. Each worker of a shared folder has its own file; the last worker sums them."""
    values = {
        "sentences_per_second": sentences / seconds if sentences else None,
        "seconds": seconds,
        WAITING: waited / seconds if waited is not None and sentences else None,
        "device": device,
        "precision": precision,
    }
    name = SPEED if part is None else f"speed-{part.index}-of-{part.count}.json"
    atomic_write(out / name, (json.dumps(values, indent=2) + "\n").encode())


def _join_speeds(out: Path) -> float:
    """Sum the speeds of all workers, as if they had worked at the same time, and return sentences per second."""
    parts = sorted(out.glob("speed-*-of-*.json"))
    if parts:
        found = [json.loads(path.read_text()) for path in parts]
        together = {
            **found[0],
            "sentences_per_second": sum(values["sentences_per_second"] or 0.0 for values in found) or None,
            "seconds": max(values["seconds"] for values in found),
            WAITING: _mean_share(found),
        }
        atomic_write(out / SPEED, (json.dumps(together, indent=2) + "\n").encode())
        for path in parts:
            path.unlink()
    return json.loads((out / SPEED).read_text())["sentences_per_second"] or 0.0


def _mean_share(workers: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the share of the time of all workers in which they waited for writing; None if no worker knows it."""
    known = [values for values in workers if values.get(WAITING) is not None]
    seconds = sum(values["seconds"] for values in known)
    return sum(values[WAITING] * values["seconds"] for values in known) / seconds if known else None


def _account(folder: Path, names: list[str]) -> tuple[int, list[int]]:
    """Count the pieces of all best hypotheses without end of sentence, and list the rows without a hypothesis."""
    tokens, bare = 0, []
    for name in names:
        table = pa.ipc.open_file(pa.memory_map(str(folder / name))).read_all()
        filled = pc.greater(pc.list_value_length(table.column("hypotheses")), 0)
        bare += table.column("id").filter(pc.invert(filled)).to_pylist()
        best = pc.list_element(table.column("hypotheses").filter(filled), 0)
        tokens += pc.sum(pc.list_value_length(pc.struct_field(best, "ids"))).as_py() or 0
    return tokens, bare

"""`seqkd distill`: decode a corpus with a teacher into k-best lists."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from seqkd.config.stages import DistillConfig
from seqkd.config.written import neutral
from seqkd.corpus.locks import Part
from seqkd.corpus.manifest import Manifest, Provenance, ShardInfo, StageOutput, atomic_write
from seqkd.corpus.reader import Corpus
from seqkd.corpus.revisions import of_search
from seqkd.corpus.schema import KBEST_SCHEMA
from seqkd.corpus.writer import write_shard
from seqkd.executors.local import cores
from seqkd.executors.work import HERE, Scale, ShardWork
from seqkd.models.checkpoint import model_digest
from seqkd.progress import say
from seqkd.search import BeamSearch, BeamSettings
from seqkd.search.loading import Precision, SearchTeam, load_team, team_precision
from seqkd.search.paths import engine_for, slow_path
from seqkd.stages.distill.counting import RETRIED, note_counts, noted_counts
from seqkd.stages.shards import ShardJob, make_shards, stage_device
from seqkd.stages.slower import slower
from seqkd.stages.train.teaching import check_teachers
from seqkd.stages.train.vocabularies import teacher_vocabularies

SPEED = "speed.json"
REJECTED = "rejected.tsv"
TOO_LONG = "source longer than max_positions"  # of the teacher: such a row has a list without hypotheses
# Rows are decoded in fixed pieces, so that neither the number of processes nor a restart changes which sentences share
# a batch, and with that not a bit of the result.
CHUNK_ROWS = 2048


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows `start` to `stop` of a shard."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Decoded:
    """One piece, decoded."""

    rows: list[dict[str, Any]]
    too_long: int
    retried: int


class _Worker:
    """Decodes pieces of a corpus; one in each process.

    Args:
        config: The stage's settings.
        device: Where the models are.
        precision: Of their weights.
        threads: Of torch on the CPU; None for as many as it takes by itself.
    """

    def __init__(self, config: DistillConfig, device: str, precision: Precision, threads: int | None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.config = config
        self.corpus = Corpus.open(config.corpus, "corpus")
        self.team: SearchTeam = load_team(config.models, device=device, precision=precision)

    def __call__(self, piece: _Piece) -> _Decoded:
        table = self.corpus.read_shard(piece.shard, ["id", "source_ids"]).slice(piece.start, piece.stop - piece.start)
        sources: dict[int, list[int]] = dict(
            zip(table.column("id").to_pylist(), table.column("source_ids").to_pylist(), strict=True)
        )
        settings = BeamSettings(**self.config.search.model_dump())
        search = BeamSearch(self.team.engines, settings, fallback=self.team.fallback)
        found = dict(search.decode(sources.items(), batch_tokens=self.config.batch_tokens))
        vocabulary = self.team.loaded[0].vocabularies.target
        # One call for all texts of the piece: a call costs as much as a short text.
        texts = iter(vocabulary.decode([hypothesis.ids for row in sources for hypothesis in found[row]]))
        rows = []
        for row, source in sources.items():
            hypotheses = [
                {"ids": h.ids, "text": next(texts), "score": h.score, "logprob": h.logprob, "ended": h.ended}
                for h in found[row]
            ]
            rows.append({"id": row, "source_ids": source, "hypotheses": hypotheses})
        return _Decoded(rows, len(search.too_long), len(search.retried))


def run(
    config: DistillConfig, out: str | Path, *, overwrite: bool = False, device: str = "auto", scale: Scale = HERE
) -> None:
    """Decode every row of `config.corpus` into `out`, a folder of k-best lists; one shard for each shard read.

    A row whose source, with its end of sentence, is longer than a teacher's positions has a list without hypotheses.
    Such rows are counted in the manifest and listed in rejected.tsv; `select` treats them as its `rejected` says.

    Args:
        config: The stage's settings.
        out: Output folder.
        overwrite: Start anew where `out` was made with other settings.
        device: auto, cpu, cuda or cuda:N; on a Ray cluster auto, cpu or cuda.
        scale: Where the work is done, and which part of it.

    Raises:
        CorpusError: The corpus is missing or damaged, or was made with another vocabulary than the teacher.
        ModelError: A teacher is no model that goes left to right, or the teachers' vocabularies differ.
        ConflictError: `out` was made with other settings, or another process is at work in it.
        InputError: No such device or precision; there is no Ray.
        WorkError: Logits are not finite, memory or disk ran out, a worker died, the run was stopped.
    """
    out = Path(out)
    corpus = Corpus.open(config.corpus, "corpus")
    vocabularies = teacher_vocabularies(config.models[0], corpus)
    check_teachers(config.models, vocabularies)
    where = stage_device(device, scale)
    precision = team_precision(config.models, config.precision, where)
    made_by = _made_by(config, corpus, where, precision)
    if not StageOutput.up_to_date(out, "kbest", made_by, overwrite=overwrite):
        mine = None if scale.part is None else scale.part.shards(len(corpus.shards))
        corpus.check_ids("source_ids", vocabularies.source.size, mine)
    with StageOutput.open(out, "kbest", made_by, overwrite=overwrite, part=scale.part) as output:
        if output.complete:
            say(f"distill: {out} is up to date")
            return
        rows = [shard.rows for shard in corpus.shards]
        processes = 0 if where.type != "cpu" or config.workers == 1 else config.workers or cores()
        threads = 1 if processes or scale.executor == "ray" else None
        job = ShardJob(
            label="distill",
            unit="sentences",
            rows=rows,
            work=ShardWork(
                start=partial(_Worker, config, str(where), precision, threads),
                # A GPU decodes a whole shard at once: each piece ends with a batch that runs empty.
                pieces=partial(_pieces, rows, CHUNK_ROWS if where.type == "cpu" else max(rows, default=1)),
                finish=partial(_write, out),
            ),
            processes=processes,
            workers=config.workers,
            gpu=where.type == "cuda",
        )
        note = partial(_note_speed, out, scale.part, str(where), precision)
        made = make_shards(output, job, scale=scale, note=note)
        if made is None:
            return
        speed = _join_speeds(out)
        tokens, bare = _account(out, [shard.name for shard in made.shards])
        atomic_write(out / REJECTED, "".join(["id\treason\n", *(f"{row}\t{TOO_LONG}\n" for row in bare)]).encode())
        output.commit(
            Manifest(
                kind="kbest",
                fingerprint=made_by.fingerprint,
                rows=corpus.rows,
                source_tokens=corpus.manifest.source_tokens,
                target_tokens=tokens,
                shards=made.shards,
                vocabulary=corpus.manifest.vocabulary,
                counts=noted_counts(out),
                extra={
                    **made_by.extra,
                    "beam": config.search.beam,
                    "nbest": config.search.nbest,
                    **slower(slow_path(config.models, precision, where)),
                },
            )
        )
    left = f"; without a hypothesis: {len(bare):,} {TOO_LONG} (see {out / REJECTED})" if bare else ""
    say(f"distill: {corpus.rows:,} k-best lists in {out}, {speed:,.0f} sentences/s{left}")


def settings(config: DistillConfig) -> dict[str, Any]:
    """The settings that the output depends on, as the stage file gives them."""
    return config.model_dump(mode="json", include={"search", "batch_tokens", "precision"})


def _made_by(config: DistillConfig, corpus: Corpus, where: torch.device, precision: Precision) -> Provenance:
    models = {f"model{number}": model_digest(path) for number, path in enumerate(config.models, start=1)}
    return Provenance(
        stage="distill",
        settings=settings(config),
        inputs={"corpus": corpus.manifest.digest(), **models},
        neutral=neutral(config),
        worked={
            "device": where.type,
            "precision": precision,
            "engine": engine_for(config.models, precision, where),
            "batch_tokens": config.batch_tokens,
        },
        revisions=of_search(precision),
    )


def _pieces(rows: list[int], size: int, shard: int) -> list[_Piece]:
    return [_Piece(shard, start, min(start + size, rows[shard])) for start in range(0, rows[shard], size)]


def _write(out: Path, shard: int, decoded: list[_Decoded]) -> ShardInfo:
    counts = {
        TOO_LONG: sum(piece.too_long for piece in decoded),
        RETRIED: sum(piece.retried for piece in decoded),
    }
    note_counts(out, shard, counts)
    table = pa.Table.from_pylist([row for piece in decoded for row in piece.rows], schema=KBEST_SCHEMA)
    return write_shard(out, shard, table)


def _note_speed(
    out: Path, part: Part | None, device: str, precision: Precision, sentences: int, seconds: float
) -> None:
    """Write down how fast this run was. Each worker of a shared folder has its own file; the last one adds them up."""
    values = {
        "sentences_per_second": sentences / seconds if sentences else None,
        "seconds": seconds,
        "device": device,
        "precision": precision,
    }
    name = SPEED if part is None else f"speed-{part.index}-of-{part.count}.json"
    atomic_write(out / name, (json.dumps(values, indent=2) + "\n").encode())


def _join_speeds(out: Path) -> float:
    """Add up the speeds of workers, as if they all had worked at the same time; give sentences a second."""
    parts = sorted(out.glob("speed-*-of-*.json"))
    if parts:
        found = [json.loads(path.read_text()) for path in parts]
        together = {
            **found[0],
            "sentences_per_second": sum(values["sentences_per_second"] or 0.0 for values in found) or None,
            "seconds": max(values["seconds"] for values in found),
        }
        atomic_write(out / SPEED, (json.dumps(together, indent=2) + "\n").encode())
        for path in parts:
            path.unlink()
    return json.loads((out / SPEED).read_text())["sentences_per_second"] or 0.0


def _account(folder: Path, names: list[str]) -> tuple[int, list[int]]:
    """Pieces of all best hypotheses, end of sentence not counted, and the ids of rows that have no hypothesis."""
    tokens, bare = 0, []
    for name in names:
        table = pa.ipc.open_file(pa.memory_map(str(folder / name))).read_all()
        filled = pc.greater(pc.list_value_length(table.column("hypotheses")), 0)
        bare += table.column("id").filter(pc.invert(filled)).to_pylist()
        best = pc.list_element(table.column("hypotheses").filter(filled), 0)
        tokens += pc.sum(pc.list_value_length(pc.struct_field(best, "ids"))).as_py() or 0
    return tokens, bare

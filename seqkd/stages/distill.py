"""`seqkd distill`: decode a corpus with a teacher into k-best lists."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from seqkd.config import DistillConfig
from seqkd.corpus.manifest import Manifest, StageOutput, atomic_write, fingerprint
from seqkd.corpus.reader import Corpus
from seqkd.corpus.schema import KBEST_SCHEMA
from seqkd.corpus.writer import finished_shards, write_shard
from seqkd.errors import CorpusError, WorkError
from seqkd.models.checkpoint import SOURCE_VOCABULARY, VOCABULARY, model_digest
from seqkd.progress import Progress, say
from seqkd.search import BeamSearch, BeamSettings
from seqkd.search.loading import SearchTeam, load_team, resolve_device, team_precision
from seqkd.stages.counting import RETRIED, note_counts, noted_counts
from seqkd.stages.workers import belong_to_parent, cores, worker_pool
from seqkd.text.vocabulary import Vocabulary

# Rows are decoded in fixed pieces, so that neither the number of processes nor a restart changes which sentences share
# a batch, and with that not a bit of the result.
CHUNK_ROWS = 2048


@dataclass(frozen=True, slots=True)
class _Decoded:
    """One piece of a shard, decoded."""

    rows: list[dict[str, Any]]
    truncated: int
    retried: int


class _Worker:
    """Decodes pieces of a corpus; one in each process."""

    def __init__(self, config: DistillConfig, device: str) -> None:
        self.config = config
        self.corpus = Corpus.open(config.corpus, "corpus")
        self.team: SearchTeam = load_team(config.models, device=device, precision=config.precision)

    def decode(self, shard: int, start: int, stop: int) -> _Decoded:
        table = self.corpus.read_shard(shard, ["id", "source_ids"]).slice(start, stop - start)
        sources: dict[int, list[int]] = dict(
            zip(table.column("id").to_pylist(), table.column("source_ids").to_pylist(), strict=True)
        )
        settings = BeamSettings(**self.config.search.model_dump())
        search = BeamSearch(self.team.engines, settings, fallback=self.team.fallback)
        found = dict(search.decode(sources.items(), batch_tokens=self.config.batch_tokens))
        vocabulary = self.team.loaded[0].vocabulary
        rows = []
        for row, source in sources.items():
            texts = vocabulary.decode([hypothesis.ids for hypothesis in found[row]])
            hypotheses = [
                {"ids": h.ids, "text": text, "score": h.score, "logprob": h.logprob, "ended": h.ended}
                for h, text in zip(found[row], texts, strict=True)
            ]
            rows.append({"id": row, "source_ids": source, "hypotheses": hypotheses})
        return _Decoded(rows, len(search.truncated), len(search.retried))


_worker: _Worker | None = None


def _start_worker(config: DistillConfig, device: str) -> None:
    global _worker
    belong_to_parent()
    torch.set_num_threads(1)
    _worker = _Worker(config, device)


def _work(shard: int, start: int, stop: int) -> _Decoded:
    assert _worker is not None
    return _worker.decode(shard, start, stop)


def run(config: DistillConfig, out: Path, *, overwrite: bool = False, device: str = "auto") -> None:
    """Decode every row of `config.corpus` into `out`, a folder of k-best lists; one shard for each shard read.

    Raises:
        CorpusError: The corpus is missing or damaged, or was made with another vocabulary than the teacher.
        ConflictError: `out` was made with other settings.
        WorkError: Logits are not finite, memory or disk ran out, a worker died.
    """
    corpus = Corpus.open(config.corpus, "corpus")
    _check_vocabulary(corpus, config)
    where = resolve_device(device)
    precision = team_precision(config.models, config.precision, where)
    inputs = {"corpus": corpus.manifest.digest()}
    inputs |= {f"model{number}": model_digest(path) for number, path in enumerate(config.models, start=1)}
    made_by = fingerprint(
        "distill",
        {
            "search": config.search.model_dump(mode="json"),
            "batch_tokens": config.batch_tokens,
            "precision": precision,
            "device": where.type,
        },
        inputs,
    )
    with StageOutput.open(out, "kbest", made_by, overwrite=overwrite) as output:
        if output.complete:
            say(f"distill: {out} is up to date")
            return
        started = time.monotonic()
        finished = finished_shards(out)
        rows = sum(corpus.shards[shard].rows for shard in finished)
        workers = config.workers or cores()
        with Progress("distill", corpus.rows, "sentences", done=rows) as progress:
            for shard, decoded in _decode_shards(config, corpus, set(finished), where, workers):
                counts = {
                    "source truncated": sum(piece.truncated for piece in decoded),
                    RETRIED: sum(piece.retried for piece in decoded),
                }
                note_counts(out, shard, counts)
                table = pa.Table.from_pylist([row for piece in decoded for row in piece.rows], schema=KBEST_SCHEMA)
                finished[shard] = write_shard(out, shard, table)
                progress.advance(table.num_rows)
        seconds = time.monotonic() - started
        done = corpus.rows - rows
        speed = {
            "sentences_per_second": done / seconds if done else None,
            "seconds": seconds,
            "device": str(where),
            "precision": precision,
            "workers": workers if where.type == "cpu" else 1,
        }
        atomic_write(out / "speed.json", (json.dumps(speed, indent=2) + "\n").encode())
        output.commit(
            Manifest(
                kind="kbest",
                fingerprint=made_by,
                rows=corpus.rows,
                source_tokens=corpus.manifest.source_tokens,
                target_tokens=_target_tokens(out, [finished[shard].name for shard in sorted(finished)]),
                shards=[finished[shard] for shard in sorted(finished)],
                vocabulary=corpus.manifest.vocabulary,
                counts=noted_counts(out),
                extra={
                    "device": where.type,
                    "precision": precision,
                    "beam": config.search.beam,
                    "nbest": config.search.nbest,
                },
            )
        )
    say(f"distill: {corpus.rows:,} k-best lists in {out}, {done / seconds:,.0f} sentences/s")


def _target_tokens(folder: Path, names: list[str]) -> int:
    """Pieces of all best hypotheses, end of sentence not counted."""
    total = 0
    for name in names:
        hypotheses = pa.ipc.open_file(pa.memory_map(str(folder / name))).read_all().column("hypotheses")
        ids = pc.struct_field(pc.list_element(hypotheses, 0), "ids")
        total += pc.sum(pc.list_value_length(ids)).as_py() or 0
    return total


def _decode_shards(
    config: DistillConfig, corpus: Corpus, finished: set[int], where: torch.device, workers: int
) -> Iterator[tuple[int, list[_Decoded]]]:
    """Yield the shards that are still to be made, in order, each as its decoded pieces."""
    todo = [shard for shard in range(len(corpus.shards)) if shard not in finished]
    if not todo:
        return
    pieces = {shard: _pieces(corpus.shards[shard].rows, where) for shard in todo}
    if where.type != "cpu" or workers == 1:
        worker = _Worker(config, str(where))
        for shard in todo:
            yield shard, [worker.decode(shard, start, stop) for start, stop in pieces[shard]]
        return
    with worker_pool(workers, _start_worker, (config, "cpu")) as pool:
        # A bounded number of shards is under way: results wait in memory until their shard is whole.
        queue: deque[tuple[int, list[Future[_Decoded]]]] = deque()
        waiting = deque(todo)
        while waiting or queue:
            while waiting and sum(len(parts) for _, parts in queue) < 3 * workers:
                shard = waiting.popleft()
                queue.append((shard, [pool.submit(_work, shard, start, stop) for start, stop in pieces[shard]]))
            shard, parts = queue.popleft()
            try:
                yield shard, [part.result() for part in parts]
            except BrokenProcessPool:
                raise WorkError(
                    "a worker process died, perhaps killed for want of memory",
                    where=f"shard {shard}",
                    hint="run the same command again: it goes on after the last finished shard; fewer `workers` or a "
                    "smaller `batch_tokens` need less memory",
                ) from None


def _pieces(rows: int, where: torch.device) -> list[tuple[int, int]]:
    # A GPU decodes a whole shard at once: each piece ends with a batch that runs empty.
    size = CHUNK_ROWS if where.type == "cpu" else max(rows, 1)
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


def _check_vocabulary(corpus: Corpus, config: DistillConfig) -> None:
    vocabulary = Vocabulary.load(config.models[0] / VOCABULARY)
    expected = vocabulary.digest
    if corpus.manifest.vocabulary != expected:
        raise CorpusError(
            "was made with another vocabulary than the teacher's",
            where=str(config.corpus),
            expected=f"vocabulary {expected[:12]}..., found {corpus.manifest.vocabulary[:12]}...",
            hint="prepare the corpus with the teacher's vocabulary, or train the teacher on this corpus",
        )
    other = config.models[0] / SOURCE_VOCABULARY
    corpus.check_ids("source_ids", (Vocabulary.load(other) if other.exists() else vocabulary).size)

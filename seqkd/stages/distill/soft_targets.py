"""`seqkd distill --soft-targets`: teachers' distributions at a corpus' target positions, written down for students."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from seqkd.config.stages import SoftTargetsConfig
from seqkd.corpus.manifest import Manifest, ShardInfo, StageOutput, fingerprint
from seqkd.corpus.reader import Corpus
from seqkd.corpus.schema import SOFT_SCHEMA
from seqkd.corpus.writer import finished_shards, write_shard
from seqkd.errors import CorpusError, WorkError
from seqkd.models.checkpoint import model_digest
from seqkd.objectives.base import Batch
from seqkd.objectives.divergence import top_k
from seqkd.objectives.teacher import Teacher, chunk_rows
from seqkd.progress import Progress, say
from seqkd.search.loading import resolve_device
from seqkd.search.scoring import length_batches
from seqkd.stages.distill.counting import RETRIED, note_counts, noted_counts
from seqkd.stages.train.rejecting import REJECTED, write_rejected
from seqkd.stages.train.teaching import Team, check_teachers, load_teachers
from seqkd.stages.train.vocabularies import teacher_vocabularies
from seqkd.stopping import StopRequest
from seqkd.text.vocabularies import Vocabularies
from seqkd.training.data import CorpusData
from seqkd.training.runtime import choose_precision

LOWEST = -60_000.0  # float16 holds -65,504
_NAMED = 20  # rows in an error message


def run(config: SoftTargetsConfig, out: Path, *, overwrite: bool = False, device: str = "auto") -> None:
    """Write soft targets of every row of `config.corpus` into `out`; one shard for each shard read.

    Rows that are longer than a teacher takes are left out, counted and listed.

    Args:
        config: The stage's settings.
        out: Output folder.
        overwrite: Start anew where `out` was made with other settings.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        CorpusError: The corpus is missing or damaged, or no row of it fits the teachers.
        ModelError: A teacher is no model that goes left to right, or was made with another vocabulary.
        InputError: `top_k` is larger than the vocabulary; no such device or precision.
        ConflictError: `out` was made with other settings.
        WorkError: Logits are not finite, in float32 too; the system refuses to write; the run was stopped.
    """
    corpus = Corpus.open(config.corpus, "corpus")
    vocabularies = _check(corpus, config)
    where = resolve_device(device)
    precision = choose_precision(config.precision, where)
    # Which ids are drawn is decided by the seed; the likeliest ones are what they are.
    drawn = {"samples": config.samples, "seed": config.seed} if config.samples is not None else {}
    settings = {
        "top_k": config.top_k,
        "temperature": config.temperature,
        "batch_tokens": config.batch_tokens,
        "precision": precision,
        "device": where.type,
        **drawn,
    }
    inputs = {"corpus": corpus.manifest.digest()}
    inputs |= {f"teacher{number}": model_digest(path) for number, path in enumerate(config.models, start=1)}
    made_by = fingerprint("soft_targets", settings, inputs)
    if not StageOutput.up_to_date(out, "soft", made_by, overwrite=overwrite):
        corpus.check_ids("source_ids", vocabularies.source.size)
        corpus.check_ids("target_ids", vocabularies.target.size)
    with StageOutput.open(out, "soft", made_by, overwrite=overwrite) as output:
        if output.complete:
            say(f"distill: {out} is up to date")
            return
        writer = _Writer.of(config, corpus, where)
        started, finished = time.monotonic(), finished_shards(out)
        before = sum(shard.rows for shard in finished.values())
        with StopRequest() as stop, Progress("soft targets", writer.data.rows, "rows", done=before) as progress:
            for shard in range(len(corpus.shards)):
                if shard not in finished:
                    stop.check(f"after {len(finished):,} of {len(corpus.shards):,} shards")
                    table = writer.table(shard)
                    note_counts(out, shard, {RETRIED: len(writer.retried)})
                    finished[shard] = write_shard(out, shard, table)
                    progress.advance(table.num_rows)
        write_rejected(out / REJECTED, writer.data)
        manifest = _manifest(out, config, writer.data, [finished[shard] for shard in sorted(finished)], made_by)
        output.commit(manifest)
    seconds = max(time.monotonic() - started, 1e-9)
    say(
        f"distill: soft targets of {manifest.rows:,} rows in {out}, {manifest.extra['bytes_per_token']:.1f} bytes a "
        f"token, {(manifest.rows - before) / seconds:,.0f} rows/s; vocabulary of {vocabularies.target.size:,}"
    )


def _check(corpus: Corpus, config: SoftTargetsConfig) -> Vocabularies:
    """The teachers' vocabularies, which must be the corpus'."""
    vocabularies = teacher_vocabularies(config.models[0], corpus)
    check_teachers(config.models, vocabularies)
    size = vocabularies.target.size
    if config.top_k is not None and config.top_k > size:
        raise CorpusError(
            f"top_k is {config.top_k:,}, but the vocabulary has {size:,} pieces",
            where=str(vocabularies.target.path),
            expected=f"at most {size:,}",
        )
    return vocabularies


def _manifest(
    out: Path, config: SoftTargetsConfig, data: CorpusData, shards: list[ShardInfo], made_by: dict[str, Any]
) -> Manifest:
    positions = data.target_tokens + data.rows
    size = sum(shard.bytes for shard in shards)
    settings = made_by["config"]
    return Manifest(
        kind="soft",
        fingerprint=made_by,
        rows=data.rows,
        source_tokens=data.source_tokens,
        target_tokens=data.target_tokens,
        shards=shards,
        vocabulary=data.corpus.manifest.vocabulary,
        counts={reason: len(rows) for reason, rows in data.skipped.items() if rows} | noted_counts(out),
        extra={
            "top_k": config.top_k,
            "samples": config.samples,
            "temperature": config.temperature,
            "precision": settings["precision"],
            "device": settings["device"],
            "positions": positions,
            "bytes_per_token": round(size / max(positions, 1), 2),
        },
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """One row's soft targets: `[entries]` ids and log-probabilities, `[positions]` entries of each and tails."""

    ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]
    sizes: npt.NDArray[np.int64]
    tail: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Writer:
    """Makes one shard after the other; each of its own rows alone, so that a resumed run gives the same bytes."""

    config: SoftTargetsConfig
    corpus: Corpus
    team: Team
    device: torch.device
    data: CorpusData
    retried: list[int]  # ids of the last shard's rows that were computed again in float32

    @staticmethod
    def of(config: SoftTargetsConfig, corpus: Corpus, device: torch.device) -> _Writer:
        team = load_teachers(config.models, precision=config.precision, temperature=config.temperature, device=device)
        data = CorpusData(
            corpus,
            team.special,
            unusable=team.unusable,
            batch_tokens=config.batch_tokens,
            window=1,
            seed=0,
        )
        return _Writer(config, corpus, team, device, data, [])

    def table(self, shard: int) -> pa.Table:
        """A shard's soft targets, in the order of its rows."""
        self.retried.clear()
        table = self.corpus.read_shard(shard, ["id", "source_ids", "target_ids"])
        start = sum(info.rows for info in self.corpus.shards[:shard])
        usable = self.data.positions
        usable = usable[(usable >= start) & (usable < start + table.num_rows)]
        table = table.take(pa.array(usable - start))
        sides = [pc.list_value_length(table.column(name)).to_numpy() for name in ("source_ids", "target_ids")]
        found: dict[int, _Row] = {}
        for batch in length_batches((np.maximum(*sides) + 1).tolist(), self.config.batch_tokens):
            bad = []
            for row, soft in self._rows(self.data.load(usable[batch]), self.team.teacher):
                if soft is None:
                    bad.append(row)
                else:
                    found[row] = soft
            if bad:
                found.update(self._again(usable[batch], bad))
        ids = table.column("id")
        return _table(ids, table.column("target_ids"), [found[row] for row in ids.to_pylist()])

    def _again(self, positions: npt.NDArray[np.int64], bad: list[int]) -> Iterator[tuple[int, _Row]]:
        """These rows in float32.

        Raises:
            WorkError: It is not finite in float32 either, or float32 is what it was.
        """
        ids = self.data.load(positions).ids
        failed = bad
        if choose_precision(self.config.precision, self.device) != "float32":
            failed = []
            self.retried.extend(bad)
            for row, soft in self._rows(self.data.load(positions[np.isin(ids, bad)]), self.team.in_float32):
                if soft is None:
                    failed.append(row)
                else:
                    yield row, soft
        if failed:
            named = ", ".join(map(str, sorted(failed)[:_NAMED])) + " and more" * (len(failed) > _NAMED)
            raise WorkError(
                "a teacher's logits are not finite", where=f"rows {named}", hint="look at these rows and the checkpoint"
            )

    def _rows(self, batch: Batch, teacher: Teacher) -> Iterator[tuple[int, _Row | None]]:
        """Soft targets of a batch, row by row; None where logits are not finite."""
        lengths = np.bincount(batch.kept.numpy() // batch.target_out.size(1), minlength=len(batch.ids))
        uniform = self._uniform(batch.ids, lengths)
        distributions = teacher(batch.to(self.device))
        step = chunk_rows(self.team.vocab, self.device)
        chunks, sound = [], []
        for start in range(0, batch.tokens, step):
            stop = min(start + step, batch.tokens)
            logprobs = distributions.logprobs(start, stop)
            finite = logprobs.isfinite().all(-1)
            sound.append(finite.cpu().numpy())
            if not sound[-1].all():
                logprobs = logprobs.masked_fill(~finite[:, None], 0.0)  # of rows that are not used
            if uniform is None:
                chunks.append(_likeliest(logprobs, self.config.top_k or 0))
            else:
                chunks.append(_drawn(logprobs, uniform[start:stop].to(self.device)))
        ids, values, sizes, tail = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        ends = np.cumsum(lengths)
        entries = np.concatenate([[0], np.cumsum(sizes)])
        all_finite = np.concatenate(sound)
        for row, first, last in zip(batch.ids.tolist(), ends - lengths, ends, strict=True):
            inside = slice(entries[first], entries[last])
            soft = _Row(ids[inside], values[inside], sizes[first:last], tail[first:last])
            yield row, soft if all_finite[first:last].all() else None

    def _uniform(self, rows: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Tensor | None:
        """`[tokens, samples]` random numbers in [0, 1), the same for a row in whatever batch it stands."""
        samples = self.config.samples
        if samples is None:
            return None
        draws = [
            np.random.default_rng([self.config.seed, row]).random((length, samples))
            for row, length in zip(rows.tolist(), lengths.tolist(), strict=True)
        ]
        return torch.from_numpy(np.concatenate(draws))


_Chunk = tuple[
    npt.NDArray[np.int32], npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.float32]
]  # as in _Row


def _likeliest(logprobs: Tensor, k: int) -> _Chunk:
    soft = top_k(logprobs, k)
    assert soft.tail is not None
    ids, values = (x.flatten().cpu().numpy() for x in (soft.ids, soft.logprobs))
    return ids.astype(np.int32), values, np.full(len(logprobs), k, dtype=np.int64), soft.tail.cpu().numpy()


def _drawn(logprobs: Tensor, uniform: Tensor) -> _Chunk:
    """Ids drawn from the distributions with replacement, each once, with its share of the draws.

    The shares are unbiased estimates of the probabilities (Anshumann et al. 2025, random sampling distillation, where
    the proposal is the teacher itself).
    """
    cumulative = logprobs.double().exp_().cumsum(-1)
    ids = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    draws = ids.clamp_max_(logprobs.size(1) - 1).cpu().numpy()
    draws.sort(axis=1)
    first = np.ones(draws.shape, dtype=np.bool_)
    first[:, 1:] = draws[:, 1:] != draws[:, :-1]
    places = np.flatnonzero(first)
    counts = np.diff(np.append(places, draws.size))
    values = np.log(counts / draws.shape[1]).astype(np.float32)
    tail = np.full(len(draws), -np.inf, dtype=np.float32)
    return draws[first].astype(np.int32), values, first.sum(axis=1), tail


def _table(ids: pa.ChunkedArray, targets: pa.ChunkedArray, rows: list[_Row]) -> pa.Table:
    def joined(parts: list[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
        return np.concatenate([np.empty(0, dtype=dtype), *parts]).astype(dtype)

    def offsets(sizes: npt.NDArray[np.int64]) -> pa.Array:
        return pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int32())

    positions = offsets(np.array([len(row.sizes) for row in rows], dtype=np.int64))
    entries = offsets(joined([row.sizes for row in rows], np.int64))
    with np.errstate(over="ignore"):
        logprobs = joined([row.logprobs.clip(min=LOWEST) for row in rows], np.float16)
        tail = joined([np.where(np.isinf(row.tail), row.tail, row.tail.clip(min=LOWEST)) for row in rows], np.float16)
    token_ids = pa.array(joined([row.ids for row in rows], np.int32))
    columns = {
        "id": ids,
        "target_ids": targets,
        "topk_ids": pa.ListArray.from_arrays(positions, pa.ListArray.from_arrays(entries, token_ids)),
        "topk_logprobs": pa.ListArray.from_arrays(positions, pa.ListArray.from_arrays(entries, pa.array(logprobs))),
        "tail_logprob": pa.ListArray.from_arrays(positions, pa.array(tail)),
    }
    return pa.table(columns, schema=SOFT_SCHEMA)

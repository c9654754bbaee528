"""One shard of soft targets: the teachers' distributions at the target positions of a shard's rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from seqkd.config.stages import SoftTargetsConfig
from seqkd.corpus.manifest import ShardInfo
from seqkd.corpus.reader import Corpus
from seqkd.corpus.soft import SoftRow, soft_table
from seqkd.corpus.writer import write_shard
from seqkd.errors import WorkError
from seqkd.executors.work import Completion
from seqkd.interop.seqkd_models import RETRIED
from seqkd.objectives.base import Batch
from seqkd.objectives.divergence import top_k
from seqkd.objectives.teacher import Teacher, chunk_rows
from seqkd.search.loading import resolve_device
from seqkd.search.scoring import length_batches
from seqkd.stages.distill.counting import note_counts
from seqkd.stages.train.teaching import load_teachers
from seqkd.training.precision import Precision
from seqkd.training.task import TRANSLATION
from seqkd.training.translation import collate

_NAMED = 20  # rows in an error message


def pair_lengths(table: pa.Table) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return source and target lengths `[rows]` in tokens, without end of sentence."""
    source, target = (pc.list_value_length(table.column(name)).to_numpy() for name in ("source_ids", "target_ids"))
    return source, target


def start(
    config: SoftTargetsConfig, out: Path, device: str, precision: Precision, threads: int | None
) -> Callable[[int], Completion[ShardInfo]]:
    """Load the teachers and return the function that makes a shard, given its number; see `whole_shards`.

    Args:
        config: The settings of the stage.
        out: The folder of the shards.
        device: The device of the teachers.
        precision: Precision of the teachers' products.
        threads: Number of torch threads on the CPU, or None for torch's default.

    Raises:
        ModelError: The folder of a teacher is damaged.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    return _Maker(config, out, resolve_device(device), precision).make


class _Maker:
    """Makes shards, one at a time in each process. The bytes of a shard depend on its own rows alone.

    Args:
        config: The settings of the stage.
        out: The folder of the shards.
        device: The device of the teachers.
        precision: Precision of the teachers' products.
    """

    def __init__(self, config: SoftTargetsConfig, out: Path, device: torch.device, precision: Precision) -> None:
        self.config, self.out, self.device, self.precision = config, out, device, precision
        self.corpus = Corpus.open(config.corpus, "corpus")
        self.team = load_teachers(config.models, precision=precision, device=device)

    def make(self, shard: int) -> Completion[ShardInfo]:
        """Make the soft targets of a shard."""
        table = self.corpus.read_shard(shard, list(TRANSLATION.columns))
        longest = np.maximum(*pair_lengths(table)) + 1
        fits = longest <= self.team.max_positions
        table, longest = table.filter(pa.array(fits)), longest[fits]
        found: dict[int, SoftRow] = {}
        retried = 0
        for rows in length_batches(longest.tolist(), self.config.batch_tokens):
            batch, bad = table.take(pa.array(rows)), []
            for row, soft in self._rows(collate(batch, self.team.special), self.team.teacher):
                if soft is None:
                    bad.append(row)
                else:
                    found[row] = soft
            if bad:
                found.update(self._again(batch, bad))
                retried += len(bad)
        return partial(self._write, shard, table, found, retried)

    def _write(self, shard: int, table: pa.Table, found: dict[int, SoftRow], retried: int) -> ShardInfo:
        """Write the soft targets of a shard in the order of its rows. The count of retried rows is written before."""
        note_counts(self.out, shard, {RETRIED: retried})
        ids = table.column("id")
        made = [found[row] for row in ids.to_pylist()]
        packed = soft_table(ids, table.column("target_ids"), made, pieces=self.team.vocab, samples=self.config.samples)
        return write_shard(self.out, shard, packed)

    def _again(self, batch: pa.Table, bad: list[int]) -> Iterator[tuple[int, SoftRow]]:
        """Yield the soft targets of these rows, computed in float32.

        Raises:
            WorkError: Logits are not finite in float32 either.
        """
        failed = bad
        if self.precision != "float32":
            failed = []
            part = batch.filter(pa.array(np.isin(batch.column("id").to_numpy(), bad)))
            for row, soft in self._rows(collate(part, self.team.special), self.team.in_float32):
                if soft is None:
                    failed.append(row)
                else:
                    yield row, soft
        if failed:
            named = ", ".join(map(str, sorted(failed)[:_NAMED])) + " and more" * (len(failed) > _NAMED)
            raise WorkError(
                "the logits of a teacher are not finite",
                where=f"rows {named}",
                hint="check these rows and the checkpoint",
            )

    def _rows(self, batch: Batch, teacher: Teacher) -> Iterator[tuple[int, SoftRow | None]]:
        """Yield the soft targets of a batch row by row, None for rows with logits that are not finite."""
        lengths = np.bincount(batch.kept.numpy() // batch.target_out.size(1), minlength=len(batch.ids))
        uniform = self._uniform(batch.ids, lengths)
        answer = teacher(batch.to(self.device))
        step = chunk_rows(self.team.vocab, self.device)
        chunks, sound = [], []
        for start in range(0, batch.tokens, step):
            stop = min(start + step, batch.tokens)
            logprobs = answer.logprobs(start, stop, self.config.temperature)
            finite = logprobs.isfinite().all(-1)
            sound.append(finite.cpu().numpy())
            if not sound[-1].all():
                logprobs = logprobs.masked_fill(~finite[:, None], 0.0)  # rows that are not used
            if uniform is None:
                chunks.append(_likeliest(logprobs, self.config.top_k or 0))
            else:
                chunks.append(_draw(logprobs, uniform[start:stop].to(self.device)))
        ids, values, sizes, tail = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        ends = np.cumsum(lengths)
        entries = np.concatenate([[0], np.cumsum(sizes)])
        all_finite = np.concatenate(sound)
        for row, first, last in zip(batch.ids.tolist(), ends - lengths, ends, strict=True):
            inside = slice(entries[first], entries[last])
            soft = SoftRow(ids[inside], values[inside], sizes[first:last], tail[first:last])
            yield row, soft if all_finite[first:last].all() else None

    def _uniform(self, rows: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Tensor | None:
        """Return `[tokens, samples]` random numbers in [0, 1), which are the same for a row in every batch."""
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
]  # as in SoftRow


def _likeliest(logprobs: Tensor, k: int) -> _Chunk:
    soft = top_k(logprobs, k)
    assert soft.tail is not None
    ids, values = (x.flatten().cpu().numpy() for x in (soft.ids, soft.logprobs))
    return ids.astype(np.int32), values, np.full(len(logprobs), k, dtype=np.int64), soft.tail.cpu().numpy()


def _draw(logprobs: Tensor, uniform: Tensor) -> _Chunk:
    """Draw ids from the distributions with replacement, and return each distinct id with its share of the draws.

    The shares are unbiased estimates of the probabilities (Anshumann et al. 2025, random sampling distillation with the
    teacher itself as proposal).
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
